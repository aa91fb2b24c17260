"""Takes frames of messages and acks out of a connection before the client library sees them.

aiormq makes a task for each message, and ends the connection where a header can't be read, which
then comes again to the next one, for ever. So frames of messages on channels of ours, and acks,
go straight to the channel; all others are the library's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from eventflow._log import EventLogger
from eventflow.brokers.rabbitmq._frames import (
    BLOCKED,
    CLOSE,
    FRAME_END,
    HEAD,
    HEARTBEAT,
    METHOD,
    UNBLOCKED,
    method_of,
    read_close,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Sifter", "Taker")

log = EventLogger("eventflow.rabbitmq")

ALIVE_S = 1.0
"""Seconds between two signs of life for the library while it gets to see nothing else."""


class Taker(Protocol):
    """A channel of ours."""

    def take(self, kind: int, data: bytes, at: int, end: int) -> bool:
        """Take a frame, whose payload is from ``at`` to ``end``; whether it did."""
        ...


class Sifter(asyncio.StreamReader):
    """What the client library reads from.

    Attributes:
        takers: Channels of ours, by number.
        is_blocked: Whether the server takes no messages, for want of memory or of room on disk.
        refusal: Code and text with which the server has closed the connection.
    """

    def __init__(self, on_room: Callable[[], None]) -> None:
        self._the_loop = asyncio.get_running_loop()
        super().__init__(limit=2**20, loop=self._the_loop)
        self.takers: dict[int, Taker] = {}
        self.is_blocked = False
        self.refusal: tuple[int, str] | None = None
        self._on_room = on_room
        self._rest = b""
        self._has_begun = self._is_foreign = False
        self._said = self._blocked_at = 0.0

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Sort out what has come; called by the transport."""
        if self._is_foreign or (not self._has_begun and data[:1] == b"A"):
            # No frames, but the answer of a server that speaks something else.
            self._is_foreign = True
            super().feed_data(data)
            return
        self._has_begun = True
        data = self._rest + data if self._rest else bytes(data)
        at, passed, size = 0, 0, len(data)
        taken, takers = False, self.takers
        while size - at >= HEAD.size + 1:
            kind, number, length = HEAD.unpack_from(data, at)
            end = at + HEAD.size + length
            if end >= size:
                break
            if data[end] == FRAME_END:
                taker = takers.get(number)
                if taker is not None:
                    if taker.take(kind, data, at + HEAD.size, end):
                        if passed < at:
                            super().feed_data(data[passed:at])
                        passed = end + 1
                        taken = True
                elif number == 0 and kind == METHOD:
                    self._look(data, at + HEAD.size, end)
            at = end + 1
        if passed < at:
            super().feed_data(data[passed:at])
        elif taken and self._the_loop.time() - self._said > ALIVE_S:
            self._said = self._the_loop.time()
            super().feed_data(HEARTBEAT)
        self._rest = data[at:]

    def _look(self, data: bytes, at: int, end: int) -> None:
        """Note what is said of the connection."""
        method = method_of(data, at)
        if method == BLOCKED:
            if not self.is_blocked:
                self.is_blocked = True
                self._blocked_at = self._the_loop.time()
                reason = data[at + 5 : min(at + 5 + data[at + 4], end)].decode(errors="replace")
                log.warning("eventflow.broker_blocked", reason=reason)
        elif method == UNBLOCKED:
            if self.is_blocked:
                self.is_blocked = False
                blocked = self._the_loop.time() - self._blocked_at
                log.warning("eventflow.broker_unblocked", blocked_s=round(blocked, 3))
            self._on_room()
        elif method == CLOSE:
            self.refusal = read_close(data, at, end)
