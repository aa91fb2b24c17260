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
from eventflow.messaging.batch import Batch

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
    """Runs the handler of one runner on one message, or batch, after another.

    Attributes:
        abandoned: The stop gave it up: it has to count nothing more.
        replaced: Another worker has taken its place.
        job: What it runs now, else ``None``; of a batch the first.
        batch: The batch that it runs, or gathers.
        thread: The thread that runs its handler, or still runs after a timeout.
    """

    __slots__ = (
        "_call",
        "_clock",
        "_runner",
        "abandoned",
        "batch",
        "context",
        "job",
        "replaced",
        "thread",
    )

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
        self.batch: list[Job] = []
        self.thread: ThreadJob | None = None
        self.abandoned = False
        self.replaced = False

    async def run(self) -> None:
        """Run the handler until cancelled, or replaced by a worker with a fresh context."""
        task = self.bind()
        if self._runner.options.batch is not None:
            await self._run_batches(self._runner.options.batch)
            return
        runner, call, clock, context = self._runner, self._call, self._clock, self.context
        failure: BaseException | None
        try:
            now = clock()
            slice_end = now + SLICE_S
            while True:
                if now >= slice_end:
                    self.attempt = None
                    await asyncio.sleep(0)
                    now = clock()
                    slice_end = now + SLICE_S
                job = runner.take()
                if job is None:
                    self.attempt = None
                    await runner.wait_for_job()
                    now = clock()
                    slice_end = now + SLICE_S
                    continue
                attempt = Attempt(job, runner, job.number, now)
                current_cause.set(attempt)
                self.job, self.attempt = job, attempt
                if self.timer is None:
                    self.arm(now)
                before = context.copy()
                try:
                    await call(job)
                except BaseException as exc:  # noqa: BLE001 - judged in _judge
                    failure = exc
                else:
                    failure = None
                if failure is None and task.cancelling() == self.expected:
                    self.job = None
                    runner.succeeded(job)
                elif not await self._judge(job, failure):
                    return
                failure = None  # no cycle through the traceback's frame
                if self._changed(before):
                    self.replaced = True
                    self.attempt = None
                    runner.replace(self)
                    return
                now = clock()
        finally:
            failure = None
            self.disarm()

    async def _run_batches(self, size: int) -> None:
        """The same for a handler of batches."""
        runner = self._runner
        assert self.task is not None
        try:
            while True:
                await self._gather(size)
                jobs = self.batch
                self.job = jobs[0]
                self.begin(jobs[0])
                before = self.context.copy()
                failure: BaseException | None = None
                batch = Batch(
                    [job.delivery.message if runner.takes_message else job.event for job in jobs],
                    [job.delivery for job in jobs],
                )
                try:
                    await runner.call_with_batch(self, batch)
                except BaseException as exc:  # noqa: BLE001 - judged below
                    failure = exc
                stopped, timed_out, failure = self._verdict(failure)
                self.batch = []
                self.job = self.attempt = None
                if stopped and isinstance(failure, asyncio.CancelledError):
                    for place, job in enumerate(jobs):
                        if batch.outcome(place, failure) is None:
                            runner.succeeded(job)
                        else:
                            runner.cut(job)
                    raise failure
                for place, job in enumerate(jobs):
                    error = batch.outcome(place, failure)
                    if error is None:
                        runner.succeeded(job)
                    else:
                        runner.failed_attempt(job, error, timed_out=timed_out and error is failure)
                if isinstance(failure, (SystemExit, KeyboardInterrupt)):
                    raise failure
                failure = error = None  # no cycle through the traceback's frame
                if stopped:
                    raise asyncio.CancelledError
                await self._thread_ended()
                if self._changed(before):
                    self.replaced = True
                    runner.replace(self)
                    return
        finally:
            self.disarm()

    async def _gather(self, size: int) -> None:
        """Wait for a first message, then for more, until there are enough or it takes too long."""
        runner, jobs = self._runner, self.batch
        until: float | None = None
        try:
            while len(jobs) < size:
                job = runner.take()
                if job is not None:
                    jobs.append(job)
                    if until is None:
                        until = self._clock() + runner.options.max_wait
                elif until is None:
                    await runner.wait_for_job()
                elif not await runner.wait_for_job_until(until):
                    return
        except asyncio.CancelledError:
            self.batch = []
            for job in jobs:
                runner.untake(job)
            raise

    def begin(self, job: Job) -> None:
        """Start an attempt anew: its time begins now."""
        attempt = Attempt(job, self._runner, job.number, self._clock())
        current_cause.set(attempt)
        self.attempt = attempt
        if self.timer is None:
            self.arm(attempt.started)

    async def _judge(self, job: Job, error: BaseException | None) -> bool:
        """Settle an attempt that did not end plainly. Whether this worker goes on."""
        runner = self._runner
        stopped, timed_out, error = self._verdict(error)
        self.job = self.attempt = None
        if error is None:
            runner.succeeded(job)
        elif stopped and isinstance(error, asyncio.CancelledError):
            runner.cut(job)
            raise error
        else:
            runner.failed_attempt(job, error, timed_out=timed_out)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise error
        if stopped:
            raise asyncio.CancelledError
        await self._thread_ended()
        return True

    def _verdict(self, error: BaseException | None) -> tuple[bool, bool, BaseException | None]:
        """Whether the worker has to stop, whether the attempt timed out, and its error."""
        if isinstance(error, GeneratorExit) and asyncio._get_running_loop() is not self._loop:
            raise error  # the loop is gone, and this coroutine is being closed
        ended = self.settle()
        stopped = ended in ("stopped", "timed_out_and_stopped")
        timed_out = ended in ("timed_out", "timed_out_and_stopped")
        if self.abandoned:
            raise asyncio.CancelledError
        if stopped and not (
            self._runner.is_stopping or error is None or isinstance(error, asyncio.CancelledError)
        ):
            # No stop of ours. Before Python 3.13, a TaskGroup whose child fails while it
            # waits for its children leaves the cancel of its parent behind.
            self.take_back()
            stopped = False
        if timed_out and not (stopped and isinstance(error, asyncio.CancelledError)):
            error = self._timeout_error(error)
        return stopped, timed_out, error

    async def _thread_ended(self) -> None:
        """A thread that outlived its timeout keeps the worker's slot until it returns."""
        if self.thread is not None:
            await asyncio.shield(self.thread.ended)
            self.thread = None

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
        if len(context) != len(before):
            return True
        for variable, value in before.items():
            if context.get(variable, MISSING) is not value:
                return True
        return False

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
