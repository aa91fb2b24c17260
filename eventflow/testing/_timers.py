"""Timers with a total order."""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

__all__ = ("OrderedTimer", "latest_of_first_slot")


class OrderedTimer(asyncio.TimerHandle):
    """A timer that is never equal to another: by due time, then tie-break, then age.

    asyncio compares the due time alone and keeps timers in a heap, so the order of equal ones is
    whatever the heap makes of it.

    Due times that agree to the nanosecond are the same time: ``0.1 + 0.2`` and ``0.3`` tie.
    """

    __slots__ = ("key",)

    key: tuple[float, float, int]
    if TYPE_CHECKING:
        _scheduled: bool
        _source_traceback: list[object] | None

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
        *,
        tie_break: float,
        sequence: int,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        if self._source_traceback:  # debug mode: end it at the caller of call_at
            del self._source_traceback[-2:]
        slot = round(when * 1e9) if math.isfinite(when) else when
        self.key = (slot, tie_break, sequence)

    def push(self, heap: list[OrderedTimer]) -> None:
        """Put the timer into the loop's heap."""
        heapq.heappush(heap, self)
        self._scheduled = True  # makes `cancel` tell the loop, which counts the dead ones

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        if isinstance(other, OrderedTimer):
            return self.key < other.key
        return super().__lt__(other)


def latest_of_first_slot(heap: list[OrderedTimer]) -> float:
    """The latest exact due time among the timers that tie for first.

    The clock has to go that far for all of them to be due: one that fires a rounding error too
    early would see ``loop.time() < deadline`` and ask again, without end (anyio's scopes do).
    Ties for first are connected from the root of a heap, so only they are visited.
    """
    slot = heap[0].key[0]
    latest = heap[0].when()
    pending = [0]
    while pending:
        index = pending.pop()
        for child in (2 * index + 1, 2 * index + 2):
            if child < len(heap) and heap[child].key[0] == slot:
                latest = max(latest, heap[child].when())
                pending.append(child)
    return latest
