"""What was done, told to a file before anything is acked: it outlives whoever wrote it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("BEGUN", "DONE", "FAILED", "FAULT_BEGUN", "FAULT_ENDED", "Entry", "Ledger", "read")

BEGUN, DONE, FAILED = "begun", "done", "failed"
FAULT_BEGUN, FAULT_ENDED = "fault-begun", "fault-ended"


class Entry(NamedTuple):
    """One line.

    Attributes:
        at: Time on the machine's monotonic clock, which all processes share.
        what: What happened.
        who: The member, or what the fault does.
        which: Id of the message, or number of the fault.
    """

    at: float
    what: str
    who: str
    which: str


class Ledger:
    """Appends to a file that others append to as well."""

    def __init__(self, path: Path | str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, who: str, which: str = "-") -> None:
        """One line, whole, and there when this returns."""
        os.write(self._file, f"{time.monotonic():.4f} {what} {who} {which}\n".encode())

    def close(self) -> None:
        """Close it."""
        os.close(self._file)


def read(path: Path) -> list[Entry]:
    """All lines, in the order they were written in."""
    entries: list[Entry] = []
    for line in path.read_text().splitlines():
        at, what, who, which = line.split(" ", 3)
        entries.append(Entry(float(at), what, who, which))
    return entries
