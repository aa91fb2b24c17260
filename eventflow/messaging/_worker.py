"""A worker of a router: the task that runs a handler on one message after another.

No task, scope or timer is made per message.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from eventflow._cause import Attempt
from eventflow.lifecycle.worker import HandlerWorker, changed
from eventflow.messaging.batch import Batch
from eventflow.messaging.settlement import SettlementState

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from eventflow.messaging._runner import Runner
    from eventflow.messaging.delivery import Delivery

__all__ = ("Worker",)

_PENDING = SettlementState.PENDING

SLICE_S = 0.005
"""Time after which a worker that never waits lets others run."""


class Worker(HandlerWorker):
    """Runs the handler of one runner on one message, or batch, after another.

    Attributes:
        batch: The batch that it runs, or gathers.
    """

    __slots__ = (
        "_call",
        "_runner",
        "batch",
    )

    def __init__(self, runner: Runner) -> None:
        super().__init__(
            runner,
            cancel_grace=runner.scope.cancel_grace,
            loop=runner.scope.loop,
            timer_context=runner.timer_context,
            context=runner.scope.supervisor.copy_context(),
        )
        self._runner = runner
        self._call = runner.handling.call_for(self)
        self.batch: Sequence[Delivery] = ()

    @property
    def job(self) -> Delivery | None:
        """What it runs now; of a batch the first."""
        return None if self.attempt is None else cast("Delivery", self.attempt.item)

    async def run(self) -> None:
        """Run the handler until cancelled, or replaced by a worker with a fresh context."""
        task = self.bind()
        if self._runner.options.batch is not None:
            await self._run_batches(self._runner.options.batch)
            return
        runner, call, clock, references = self._runner, self._call, self.clock, sys.getrefcount
        jobs, cancelling, plain = runner.jobs, task.cancelling, runner.handling.plain
        queue, paused, held, due = jobs.queue, jobs.paused, jobs.held, jobs.due
        endings = runner.endings
        before = self.context
        cell: Any = None
        failure: BaseException | None = None
        tree: object = None
        of_tree = of_cell = 0
        job: Delivery | None
        try:
            now = clock()
            slice_end = now + SLICE_S
            while True:
                if now >= slice_end:
                    self.attempt = None
                    await asyncio.sleep(0)
                    self.attempt = cell
                    now = clock()
                    slice_end = now + SLICE_S
                # `Jobs.take`, without the call where there is nothing special.
                if queue and not (paused or held or due):
                    job = queue.popleft()
                    if job.state is not _PENDING:
                        jobs.lapse(job)
                        continue
                    jobs.in_flight += 1
                elif (job := jobs.take()) is None:
                    self.attempt = None
                    if cell:
                        cell.item = None  # an idle worker keeps no event alive
                    await jobs.wait()
                    self.attempt = cell
                    now = clock()
                    slice_end = now + SLICE_S
                    continue
                if not cell:
                    cell, before, tree = self.isolate(endings.handled)
                    of_tree = references(tree) if tree is not None else -1
                    of_cell = references(cell)
                cell.item, cell.number, cell.started = job, job.number, now
                if self.timer is None:
                    self.arm(now)
                try:
                    if plain is not None:
                        await plain(job.event)
                    else:
                        await call(job)
                except BaseException as exc:  # noqa: BLE001 - judged in _judge
                    failure = exc
                if failure is None and cancelling() == self.expected:
                    # `attempt` stays until the worker waits: nobody looks in between.
                    endings.succeeded(job)
                else:
                    await self._judge(job, failure)
                    failure = None  # no cycle through the traceback's frame
                if (
                    references(tree) != of_tree
                    or references(cell) != of_cell
                    or self.attempt is not cell
                ):
                    if changed(self.context, before):
                        self.replaced = True
                        self.attempt = None
                        runner.replace(self)
                        return
                    # Somebody keeps a copy of the context, and with it this cell.
                    cell, before, tree = self.isolate(endings.handled)
                    of_tree = references(tree) if tree is not None else -1
                    of_cell = references(cell)
                now = clock()
        finally:
            failure = None
            self.disarm()

    async def _run_batches(self, size: int) -> None:
        """The same for a handler of batches."""
        runner, endings = self._runner, self._runner.endings
        assert self.task is not None
        try:
            while True:
                jobs = await self._gather(size)
                self.begin(Attempt(jobs[0], runner, jobs[0].number, self.clock()))
                before = self.context.copy()
                failure: BaseException | None = None
                batch = Batch(
                    [job.message if runner.binding.takes_message else job.event for job in jobs],
                    jobs,
                )
                try:
                    await runner.handling.call_with_batch(self, batch)
                except BaseException as exc:  # noqa: BLE001 - judged below
                    failure = exc
                stopped, timed_out, failure = self._verdict(failure)
                self.batch = ()
                self.attempt = None
                if stopped and isinstance(failure, asyncio.CancelledError):
                    for place, job in enumerate(jobs):
                        if batch.outcome(place, failure) is None:
                            endings.succeeded(job)
                        elif runner.is_being_stopped:
                            endings.cut(job)
                        else:
                            endings.failed_attempt(job, failure, timed_out=False)
                    raise failure
                for place, job in enumerate(jobs):
                    error = batch.outcome(place, failure)
                    if error is None:
                        endings.succeeded(job)
                    else:
                        endings.failed_attempt(job, error, timed_out=timed_out and error is failure)
                if isinstance(failure, (SystemExit, KeyboardInterrupt)):
                    raise failure
                failure = error = None  # no cycle through the traceback's frame
                if stopped:
                    raise asyncio.CancelledError
                await self.thread_ended()
                if changed(self.context, before):
                    self.replaced = True
                    runner.replace(self)
                    return
        finally:
            self.disarm()

    async def _gather(self, size: int) -> Sequence[Delivery]:
        """Wait for a first message, then for more, until there are enough or it takes too long."""
        runner, jobs = self._runner, self._runner.jobs
        batch: list[Delivery] = []
        self.batch = batch
        until: float | None = None
        try:
            while len(batch) < size:
                job = jobs.take()
                if job is not None:
                    batch.append(job)
                    if until is None:
                        until = self.clock() + runner.options.max_wait
                elif until is None:
                    await jobs.wait()
                elif not await jobs.wait_until(until):
                    break
        except asyncio.CancelledError:
            self.batch = ()
            for job in batch:
                runner.endings.untake(job)
            raise
        return batch

    async def _judge(self, job: Delivery, error: BaseException | None) -> None:
        """Settle an attempt that did not end plainly; raises where this worker has to stop."""
        endings = self._runner.endings
        stopped, timed_out, error = self._verdict(error)
        self.attempt = None
        if error is None:
            endings.succeeded(job)
        elif stopped and isinstance(error, asyncio.CancelledError):
            if self._runner.is_being_stopped:
                endings.cut(job)
            else:  # somebody has cancelled this task alone; another one takes its place
                endings.failed_attempt(job, error, timed_out=False)
            raise error
        else:
            endings.failed_attempt(job, error, timed_out=timed_out)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise error
        if stopped:
            raise asyncio.CancelledError
        await self.thread_ended()

    def _verdict(self, error: BaseException | None) -> tuple[bool, bool, BaseException | None]:
        """Whether the worker has to stop, whether the attempt timed out, and its error."""
        stopped, timed_out = self.judge(error)
        if timed_out and not (stopped and isinstance(error, asyncio.CancelledError)):
            error = self.timeout_error(error)
        return stopped, timed_out, error

    @contextmanager
    def time_stopped(self) -> Generator[None]:
        """Let time inside not count: the attempt's deadline moves by as much."""
        attempt, began = self.attempt, self.clock()
        self.paused = True
        try:
            yield
        finally:
            self.paused = False
            running = self.attempt
            if running is not None:
                # Not where a task was left behind that holds this longer than its attempt lasts.
                if running is attempt:
                    # In place, for all who hold it: the new deadline is the true one for them too.
                    running.started += self.clock() - began
                if self.timer is None:  # it ran out meanwhile, and nothing came of it
                    self.arm(running.started)
