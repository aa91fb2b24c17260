"""The rule that tells a timeout, a failed attempt and a stop apart.

asyncio delivers all three as one `CancelledError`, and any of them can be swallowed, turned
into another error, or arrive in the same tick as the next. What can't be swallowed is the
task's cancel count. So: a timer counts its own cancels; after every attempt, however it
ended, exactly those are undone, and what is left of the count beyond its value at the start
of the task is a stop.

A timer serves all attempts of a worker: it is armed for the first one and moves on by
itself, so that an attempt which ends in time costs no timer at all.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from eventflow._cause import Attempt

__all__ = ("AttemptGuard", "Ended", "clock_of")

Ended = Literal["by_itself", "timed_out", "stopped", "timed_out_and_stopped"]

NO_TIMER: Final = object()


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The loop's clock, without the method call where the loop has the standard one."""
    if type(loop).time is asyncio.BaseEventLoop.time:
        return time.monotonic
    return loop.time


class AttemptGuard:
    """Guards the attempts that one task makes, one after another.

    ``timer_context`` is the context its timers run in. The task calls `bind` first. It sets
    `attempt` when one starts and back to ``None`` when it ended, and calls `arm` where `timer`
    is ``None``, which it only becomes while the task waits. After each attempt that did not
    end plainly (an error, or a cancel count other than `expected`) it calls `settle`.

    Attributes:
        attempt: The attempt that runs now, else ``None``.
        fired: Cancels that the timer has sent to the attempt.
        paused: Time does not count now: waiting for a thread, or for a retry.
        timer: The armed timer; ``None`` when there is none; a constant where ``timeout`` is
            ``None``.
        task: The task that makes the attempts; ``None`` before `bind`.
        base: The task's cancel count when it started.
        expected: The same, or a count that can't be once the timer has fired.
    """

    __slots__ = (
        "_grace",
        "_loop",
        "_timeout",
        "_timer_context",
        "attempt",
        "base",
        "expected",
        "fired",
        "paused",
        "task",
        "timer",
    )

    def __init__(
        self,
        *,
        timeout: float | None,
        cancel_grace: float,
        loop: asyncio.AbstractEventLoop,
        timer_context: Context,
    ) -> None:
        self._timeout = timeout
        self._timer_context = timer_context
        self._grace = cancel_grace
        self._loop = loop
        self.task: asyncio.Task[Any] | None = None
        self.base = 0
        self.expected = 0
        self.attempt: Attempt | None = None
        self.fired = 0
        self.paused = False
        self.timer: object | None = NO_TIMER if timeout is None else None

    def bind(self) -> asyncio.Task[Any]:
        """Take the task that runs now as the one to guard."""
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.base = self.expected = task.cancelling()
        return task

    def arm(self, started: float) -> None:
        """Start the timer, where there is a timeout, for an attempt that began at ``started``."""
        assert self._timeout is not None
        self._arm_at(started + self._timeout)

    def _arm_at(self, when: float) -> None:
        # In a context of its own: a copy of the worker's would count as one of the handler's.
        self.timer = self._loop.call_at(when, self._tick, when, context=self._timer_context)

    def _tick(self, when: float) -> None:
        attempt = self.attempt
        if attempt is None or self.paused:
            self.timer = None  # the next attempt arms it again
            return
        assert self._timeout is not None
        assert self.task is not None
        due = attempt.started + self._timeout
        if when < due:
            self._arm_at(due)  # armed for an earlier attempt
            return
        self.fired += 1
        self.expected = -1
        self.task.cancel()
        # Again while it still runs: a handler may have swallowed the first, or may hang in
        # a `finally`.
        self._arm_at(when + self._grace)

    def settle(self) -> Ended:
        """Undo the timer's cancels, and say what ended the attempt.

        ``stopped`` means that somebody else cancelled the task: it has to end.
        """
        assert self.task is not None
        fired, self.fired = self.fired, 0
        self.expected = self.base
        for _ in range(fired):
            self.task.uncancel()
        if fired and isinstance(self.timer, asyncio.TimerHandle):
            # It is armed for a further cancel of this attempt: too late for the next one.
            self.timer.cancel()
            self.timer = None
        if self.task.cancelling() > self.base:
            return "timed_out_and_stopped" if fired else "stopped"
        return "timed_out" if fired else "by_itself"

    def take_back(self) -> None:
        """Undo whatever cancels are left."""
        assert self.task is not None
        while self.task.cancelling() > self.base:
            self.task.uncancel()

    def disarm(self) -> None:
        """Cancel the timer; the task ends."""
        if isinstance(self.timer, asyncio.TimerHandle):
            self.timer.cancel()
        self.timer = NO_TIMER
