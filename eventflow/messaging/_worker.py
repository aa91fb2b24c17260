"""A worker of a router: the task that runs a handler on one message after another.

No task, scope or timer is made per message. The rule that tells a timeout, a failed attempt and
a stop apart is `eventflow.lifecycle.attempt`, the same as on the bus.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eventflow._cause import Attempt, current_cause
from eventflow.errors import HandlerTimeoutError
from eventflow.lifecycle.attempt import AttemptGuard, clock_of
from eventflow.lifecycle.callables import gives_awaitable

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator

    from eventflow.lifecycle.threads import Job as ThreadJob
    from eventflow.messaging._job import Job
    from eventflow.messaging._runner import Runner

__all__ = ("Worker",)

SLICE_S = 0.005
"""Time after which a worker that never waits lets others run."""

MISSING: Any = object()


class Worker(AttemptGuard):
    """Runs the handler of one runner on one message after another.

    Attributes:
        abandoned: The stop gave it up: it has to count nothing more.
        replaced: Another worker has taken its place.
        job: What it runs now, else ``None``.
        thread: The thread that runs its handler, or still runs after a timeout.
    """

    __slots__ = ("_call", "_clock", "_runner", "abandoned", "context", "job", "replaced", "thread")

    def __init__(self, runner: Runner) -> None:
        super().__init__(
            timeout=runner.timeout,
            cancel_grace=runner.scope.cancel_grace,
            loop=runner.scope.loop,
            timer_context=runner.timer_context,
        )
        self._runner = runner
        self._clock = clock_of(runner.scope.loop)
        self.context: contextvars.Context = runner.scope.supervisor.copy_context()
        self._call = runner.call_for(self)
        self.job: Job | None = None
        self.thread: ThreadJob | None = None
        self.abandoned = False
        self.replaced = False

    async def run(self) -> None:
        """Run the handler until cancelled, or replaced by a worker with a fresh context."""
        self.bind()
        runner, clock = self._runner, self._clock
        try:
            slice_end = clock() + SLICE_S
            while True:
                if clock() >= slice_end:
                    self.attempt = None
                    await asyncio.sleep(0)
                    slice_end = clock() + SLICE_S
                job = runner.take()
                if job is None:
                    self.attempt = None
                    await runner.wait_for_job()
                    slice_end = clock() + SLICE_S
                elif not await self._run(job):
                    return
        finally:
            self.disarm()

    def begin(self, job: Job) -> None:
        """Start an attempt: from here on it can time out, and `current()` tells of it."""
        attempt = Attempt(job.item, self._runner, job.number, self._clock())
        current_cause.set(attempt)
        self.attempt = attempt
        if self.timer is None:
            self.arm(attempt.started)

    async def _run(self, job: Job) -> bool:
        """Run one attempt and judge it. Whether this worker goes on."""
        self.job = job
        self.begin(job)
        before = self.context.copy()
        error: BaseException | None = None
        try:
            await self._call(job)
        except BaseException as exc:  # noqa: BLE001 - judged below
            error = exc
        assert self.task is not None
        if error is None and self.task.cancelling() == self.expected:
            self.job = None
            self._runner.succeeded(job)
        elif not await self._judge(job, error):
            return False
        error = None  # no cycle through the traceback's frame
        if self._changed(before):
            self.replaced = True
            self.attempt = None
            self._runner.replace(self)
            return False
        return True

    async def _judge(self, job: Job, error: BaseException | None) -> bool:
        """Settle an attempt that did not end plainly."""
        if isinstance(error, GeneratorExit) and asyncio._get_running_loop() is not self._loop:
            raise error  # the loop is gone, and this coroutine is being closed
        runner = self._runner
        ended = self.settle()
        stopped = ended in ("stopped", "timed_out_and_stopped")
        timed_out = ended in ("timed_out", "timed_out_and_stopped")
        if self.abandoned:
            raise asyncio.CancelledError
        if stopped and not (
            runner.is_stopping or error is None or isinstance(error, asyncio.CancelledError)
        ):
            # No stop of ours. Before Python 3.13, a TaskGroup whose child fails while it
            # waits for its children leaves the cancel of its parent behind.
            self.take_back()
            stopped = False
        self.job = self.attempt = None
        if stopped and isinstance(error, asyncio.CancelledError):
            runner.cut(job)
            raise error
        if error is None and not timed_out:
            runner.succeeded(job)
        else:
            if timed_out or error is None:
                error = self._timeout_error(error)
            runner.failed_attempt(job, error, timed_out=timed_out)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise error
        if stopped:
            raise asyncio.CancelledError
        if self.thread is not None:
            # A thread that outlived its timeout keeps the worker's slot until it returns.
            await asyncio.shield(self.thread.ended)
            self.thread = None
        return True

    @contextmanager
    def time_stopped(self) -> Generator[None]:
        """Let time inside not count: the attempt's deadline moves by as much."""
        attempt, began = self.attempt, self._clock()
        self.paused = True
        try:
            yield
        finally:
            self.paused = False
            if attempt is not None and attempt is self.attempt:
                # In place, for all who hold it: the new deadline is the true one for them too.
                attempt.started += self._clock() - began
                if self.timer is None:
                    self.arm(attempt.started)

    def _timeout_error(self, cause: BaseException | None) -> HandlerTimeoutError:
        error = HandlerTimeoutError(
            f"{self._runner.name} took longer than {self._timeout:g} s",
            subscription=self._runner.name,
            timeout_s=self._timeout or 0.0,
        )
        error.__cause__ = cause
        return error

    def _changed(self, before: contextvars.Context) -> bool:
        """Whether a variable was bound, be it to an equal value."""
        context = self.context
        return len(context) != len(before) or any(
            context.get(variable, MISSING) is not value for variable, value in before.items()
        )

    def abandon(self) -> None:
        """Give it up: whatever its handler still does, nothing more is counted or started."""
        self.abandoned = True
        self.expected = -1

    async def call_in_thread(self, handler: Callable[..., Any], *arguments: object) -> Any:
        """Call a sync handler in a thread; its time begins when it has one."""
        threads, job = self._runner.scope.threads, self.job
        assert job is not None
        if not threads.has_room():
            self.paused = True  # the attempt has not begun yet
            try:
                await threads.wait_for_room()
            finally:
                self.paused = False
            self.begin(job)
        thread = self.thread = threads.start(self._runner.name, handler, *arguments)
        while not thread.ended.done():
            try:
                await asyncio.shield(thread.ended)
            except asyncio.CancelledError:
                # Timed out: the attempt is over, its thread is not, and the worker will wait
                # for it. At a stop the thread still has until the worker is given up.
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
