"""A thread that asks now and then, for as long as there is something to wait for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Reminder",)

# Not "eventflow:…", by which `no_leaks` knows what a block of code has left: this one belongs to
# the log of the process, and ends by itself.
NAME = "log:reminder"


class Reminder:
    """Calls a function, waits for as long as it says, and again, until it says ``None``.

    Args:
        act: Returns seconds, or ``None`` for the end; must not raise.

    Raises:
        RuntimeError: No thread can be started.
    """

    def __init__(self, act: Callable[[], float | None]) -> None:
        self._act = act
        self._woken = threading.Event()
        threading.Thread(target=self._run, name=NAME, daemon=True).start()

    def wake(self) -> None:
        """Ask again now."""
        self._woken.set()

    def _run(self) -> None:
        while (seconds := self._act()) is not None:
            self._woken.wait(seconds)
            self._woken.clear()
