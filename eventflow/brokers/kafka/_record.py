"""A record as the client library hands it out; one whose headers can't be read is another."""

from __future__ import annotations

from operator import methodcaller
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Headless", "Record", "headers_of", "readable")


class Record(Protocol):
    """What the client library hands out, as far as it is used."""

    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def __len__(self) -> int: ...
    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...
    def timestamp(self) -> tuple[int, int]: ...


headers_of: Callable[[Record], list[tuple[str, bytes | None]] | None] = methodcaller("headers")
"""The headers of a record, or a `SystemError` if the name of one is no UTF-8, once.

confluent-kafka 2.16 returns what it could not make together with the error: a plain call may not
see that, and a second call gets it without. Either ends the process.
"""


class Headless:
    """A record whose headers can't be read: it has none from then on."""

    __slots__ = ("key", "offset", "partition", "size", "timestamp", "value")

    def __init__(self, record: Record) -> None:
        self.partition, self.offset = record.partition, record.offset
        self.value, self.key, self.timestamp = record.value, record.key, record.timestamp
        self.size = len(record)

    def __len__(self) -> int:
        """As it came."""
        return self.size

    def headers(self) -> None:
        """None."""


def readable(record: Record) -> Record:
    """A record whose headers may be asked for by anybody."""
    try:
        headers_of(record)
    except SystemError:
        return Headless(record)
    return record
