"""What the workers of a bus and of a router have in common: attempts, verdicts, threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, cast

from eventflow._cause import Attempt, current_cause
from eventflow.errors import HandlerTimeoutError
from eventflow.lifecycle.attempt import AttemptGuard, clock_of
from eventflow.lifecycle.callables import gives_awaitable
from eventflow.lifecycle.isolation import tree_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from eventflow.lifecycle.threads import Job, ThreadRunner

__all__ = ("HandlerWorker", "changed")

MISSING: Any = object()

OFTEN = 8
"""A cell used up by fewer attempts than this was short-lived."""
RETRY_EVERY = 256
"""After so many short-lived cells in a row the tree is looked for once more."""


class _Home(Protocol):
    """What a worker works for: a subscription, or a handler of a router."""

    @property
    def bus(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def timeout(self) -> float | None: ...

    @property
    def is_being_stopped(self) -> bool:
        """Whether whoever cancels a worker now means to end it."""
        ...

    def outlived(self, ended: asyncio.Future[None], context: Context) -> None:
        """A thread goes on after its attempt, until ``ended`` is done."""
        ...


class HandlerWorker(AttemptGuard):
    """Runs a handler on one thing after another; how it gets them is the subclass's.

    Attributes:
        abandoned: The stop gave it up: it has to count nothing more.
        clock: The loop's time.
        context: The context its task has to run in.
        replaced: Another worker has taken its place.
        thread: The thread that runs its handler, or still runs after a timeout.
    """

    __slots__ = (
        "_home",
        "_renewals",
        "_renewed_at",
        "abandoned",
        "clock",
        "context",
        "replaced",
        "thread",
    )

    def __init__(
        self,
        home: _Home,
        *,
        cancel_grace: float,
        loop: asyncio.AbstractEventLoop,
        timer_context: Context,
        context: Context,
    ) -> None:
        super().__init__(
            timeout=home.timeout, cancel_grace=cancel_grace, loop=loop, timer_context=timer_context
        )
        self._home = home
        self.clock = clock_of(loop)
        self.abandoned = False
        self.replaced = False
        self.thread: Job | None = None
        self.context = context
        self._renewals = 0
        self._renewed_at = -OFTEN

    def isolate(self, handled: int) -> tuple[Attempt, Context, object | None]:
        """A new cell in the context, a copy of that to compare with, and its tree.

        The cell is the attempt, written anew for one event after another until somebody else
        could see it: see `eventflow.lifecycle.isolation`. Where nearly every event leaves a copy
        behind, looking for the tree costs more than it saves; then it is left out, which makes
        every event take a new cell, but for a try now and then. ``handled`` are the attempts so
        far.
        """
        self._renewals = self._renewals + 1 if handled - self._renewed_at < OFTEN else 0
        self._renewed_at = handled
        cell = Attempt(cast("Any", None), self._home, 1, 0.0)
        current_cause.set(cell)
        self.attempt = cell
        looks = self._renewals < OFTEN or self._renewals % RETRY_EVERY == 0
        return cell, self.context.copy(), tree_of(self.context, cell) if looks else None

    def begin(self, attempt: Attempt) -> None:
        """Start an attempt: from here on it can time out, and `current()` tells of it."""
        current_cause.set(attempt)
        self.attempt = attempt
        if self.timer is None:
            self.arm(attempt.started)

    def judge(self, error: BaseException | None) -> tuple[bool, bool]:
        """Settle an attempt: whether the worker has to stop, and whether the attempt timed out.

        Raises:
            GeneratorExit: The loop is gone, and this coroutine is being closed.
            CancelledError: The worker was abandoned.
        """
        if isinstance(error, GeneratorExit) and asyncio._get_running_loop() is not self._loop:
            raise error
        ended = self.settle()
        stopped = ended in ("stopped", "timed_out_and_stopped")
        if self.abandoned:
            raise asyncio.CancelledError
        timed_out = ended in ("timed_out", "timed_out_and_stopped")
        own = timed_out or not isinstance(error, asyncio.CancelledError)
        if stopped and error is not None and own and not self._home.is_being_stopped:
            # No stop: the handler has cancelled its own task. Before Python 3.13, a TaskGroup
            # whose child fails while it waits for its children leaves the cancel of its parent
            # behind.
            self.take_back()
            stopped = False
        return stopped, timed_out

    def timeout_error(self, cause: BaseException | None) -> HandlerTimeoutError:
        """The error of an attempt that timed out."""
        error = HandlerTimeoutError(
            f"{self._home.name} took longer than {self._timeout:g} s",
            subscription=self._home.name,
            timeout_s=self._timeout or 0.0,
        )
        error.__cause__ = cause
        return error

    def abandon(self) -> None:
        """Give it up: whatever its handler still does, nothing more is counted or started."""
        self.abandoned = True
        self.expected = -1

    async def call_in_thread(
        self, threads: ThreadRunner, function: Callable[..., Any], *arguments: object
    ) -> Any:
        """Call a sync handler in a thread; its time begins when it has one."""
        if not threads.has_room():
            self.paused = True  # the attempt has not begun yet
            try:
                await threads.wait_for_room()
            finally:
                self.paused = False
            waited = self.attempt
            assert waited is not None
            self.begin(Attempt(waited.item, waited.lane, waited.number, self.clock()))
        thread = self.thread = threads.start(self._home.name, function, *arguments)
        while not thread.ended.done():
            try:
                await asyncio.shield(thread.ended)
            except asyncio.CancelledError:
                # Timed out: the attempt is over, its thread is not, and the worker will wait
                # for it. At a stop the thread still has until the worker is given up.
                if self.fired and not thread.ended.done():
                    self._home.outlived(thread.ended, self._timer_context)
                if self.fired or self.abandoned:
                    raise
        self.thread = None
        error, thread.error = thread.error, None
        if error is not None:
            try:
                raise error
            finally:
                error = None  # no cycle through the traceback's frames
        return await thread.result if gives_awaitable(thread.result) else thread.result  # type: ignore[misc]

    async def thread_ended(self) -> None:
        """Wait for a thread that outlived its timeout: until it returns it keeps its slot."""
        if self.thread is not None:
            await asyncio.shield(self.thread.ended)
            self.thread = None


def changed(context: Context, before: Context) -> bool:
    """Whether a variable was bound since ``before`` was copied, be it to an equal value."""
    if len(context) != len(before):
        return True
    for variable, value in before.items():  # noqa: SIM110 - any() takes twice as long
        if context.get(variable, MISSING) is not value:
            return True
    return False
