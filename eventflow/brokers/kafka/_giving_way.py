"""Lets the client's threads have the interpreter's lock beside an event loop that is never idle.

A thread that waits for the lock asks for it after 5 ms (`sys.setswitchinterval`), and these begin
anew each time that somebody lets go of it. A loop does so in each of its turns, for a few
microseconds, in which no other thread has woken up yet. One with turns of less than 5 ms that never
waits for anything may keep a thread from running for seconds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ("GivingWay",)

LOOK_S = 0.25
"""Seconds between two looks at how busy the loop is."""
AGAIN_S = 0.005
"""Seconds between two times that it gives way, while it is busy."""
BUSY = 0.5
"""Part of its time in which a busy loop computes."""
AWAY_S = 0.00005
"""Seconds without the lock: longer than a thread needs to wake up, mostly."""


class GivingWay:
    """Has an event loop stand aside for a moment, again and again, as long as it is busy.

    That takes a hundredth of its time then, and nothing while it has time to spare.

    Args:
        loop: The event loop; everything here is called on it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at, self._computed = loop.time(), time.thread_time()
        self._timer = loop.call_later(LOOK_S, self._look)

    def end(self) -> None:
        """Do so no more."""
        self._timer.cancel()

    def _look(self) -> None:
        at, computed = self._loop.time(), time.thread_time()
        is_busy = computed - self._computed > BUSY * (at - self._at)
        if is_busy:
            time.sleep(AWAY_S)
        self._at, self._computed = at, computed
        self._timer = self._loop.call_later(AGAIN_S if is_busy else LOOK_S, self._look)
