"""Deadlines of calls, with one timer for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventflow.brokers.rabbitmq._confirms import Call

__all__ = ("LATE", "Deadlines")

LATE = "nothing was heard of it in time"


class Deadlines:
    """Ends calls that last too long.

    All may last as long, so that they are late in the order in which they began. A timer for each
    would take a fifth of a publish.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open: dict[Call, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        """A call has begun."""
        loop = asyncio.get_running_loop()
        until = self._open[call] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(until, self._look)

    def discard(self, call: Call) -> None:
        """It has ended."""
        self._open.pop(call, None)
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for call, until in [*self._open.items()]:
            if until > now:
                self._timer = loop.call_at(until, self._look)
                return
            del self._open[call]
            call.end(LATE)
