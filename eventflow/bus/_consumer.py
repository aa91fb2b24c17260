"""A subscription that runs: its inbox, its workers, and the resource they share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow._cause import event_of, tell
from eventflow._log import shown
from eventflow.bus._handling import Handling
from eventflow.bus._reports import log
from eventflow.bus._worker import Worker
from eventflow.errors import ResourceError
from eventflow.lifecycle.supervisor import LAST_WAIT_S, cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from eventflow.bus._options import Options
    from eventflow.bus._scope import Scope
    from eventflow.events import Event

__all__ = ("Consumer",)


class Consumer:
    """Runs one subscription from `start` to the end of `stop`, or of the bus.

    Attributes:
        inbox: Its buffer and counts.
        selector: What it is subscribed to.
        ready: Done once events are being handled; holds a `ResourceError` if they never will.
        aborting: Done when a stop should no longer drain.
    """

    def __init__(
        self,
        name: str,
        selector: type[Event] | str,
        handler: Callable[..., Any],
        options: Options,
        scope: Scope,
    ) -> None:
        self.selector = selector
        self.inbox = scope.new_inbox(name, options)
        self.aborting: asyncio.Future[None] = scope.loop.create_future()
        self.ready: asyncio.Future[None] | None = None
        self._scope = scope
        self._finished = False
        self._cancelling = False
        self._workers: dict[Worker, asyncio.Task[None]] = {}
        self._stopping: asyncio.Task[None] | None = None
        self._leave: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._handling = Handling(
            self.inbox,
            handler,
            loop=scope.loop,
            threads=scope.threads,
            cancel_grace=scope.cancel_grace,
            new_context=scope.supervisor.copy_context,
            replace=self._replace,
        )

    # Running

    def start(self) -> None:
        """Start the workers, after the resource where there is one."""
        resources = self.inbox.options.resources
        if resources is None:
            self._start_workers()
            return
        self.ready = self._scope.loop.create_future()
        self._leave = self._scope.loop.create_future()
        self._keeper = self._scope.supervisor.spawn(
            self._keep(resources, self.ready, self._leave), f"{self.inbox.name}:resources"
        )

    async def _keep(
        self,
        resources: Callable[[], AbstractAsyncContextManager[Any]],
        ready: asyncio.Future[None],
        leave: asyncio.Future[None],
    ) -> None:
        """Hold the resource open. Entered and left in one task, as cancel scopes need it."""
        name = self.inbox.name
        try:
            async with resources() as value:
                self._handling.use_resource(value)
                self._start_workers()
                ready.set_result(None)
                try:
                    await asyncio.shield(leave)
                except asyncio.CancelledError:
                    # Not by us. If the loop is shut down, the handlers still need it; a scope
                    # of the resource's own will cancel the next wait, too.
                    self.begin_stop(drain=False)
                    await asyncio.shield(leave)
                    raise
        except BaseException as exc:
            if not ready.done():
                error = ResourceError(
                    f"the resource of subscription {name!r} could not be opened: {shown(exc)}",
                    subscription=name,
                )
                error.__cause__ = exc
                ready.set_exception(error)
                ready.exception()  # reported: by the bus, or by wait_ready()
            if not (self.inbox.closed and isinstance(exc, asyncio.CancelledError)):
                log.error(
                    "eventflow.resource_failed", error=exc, bus=self._scope.name, subscription=name
                )
            if not leave.done():
                self.begin_stop(drain=False)
            if isinstance(exc, asyncio.CancelledError) and self._scope.supervisor.aborting.done():
                raise

    def _start_workers(self) -> None:
        if not self.inbox.closed:
            for _ in range(self.inbox.options.concurrency):
                self._start_worker(Worker(self._handling))

    def _start_worker(self, worker: Worker) -> None:
        task = self._scope.supervisor.spawn(worker.run(), self.inbox.name, worker.context)
        self._workers[worker] = task
        self.inbox.readers.add(worker)
        task.add_done_callback(
            lambda task: self._ended(worker, task), context=self._scope.supervisor.copy_context()
        )

    def _replace(self, worker: Worker, successor: Worker) -> None:
        # In one step, so that the event it hands over is never in nobody's hands.
        del self._workers[worker]
        self.inbox.readers.discard(worker)
        self._start_worker(successor)
        if self.inbox.closed:
            self._workers[successor].cancel()

    def _ended(self, worker: Worker, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        worker.ended_unstarted()
        if worker.replaced:
            return
        self._workers.pop(worker, None)
        self.inbox.readers.discard(worker)
        if self.inbox.closed or self._scope.loop.is_closed():
            return
        self.inbox.restarts += 1
        log.error(
            "eventflow.worker_restarted",
            error=error,
            bus=self._scope.name,
            subscription=self.inbox.name,
        )
        self._start_worker(Worker(self._handling))

    # Stopping

    @property
    def tasks(self) -> Iterable[asyncio.Task[None]]:
        """The workers' tasks."""
        return self._workers.values()

    @property
    def stopping(self) -> bool:
        """Whether this subscription is being stopped alone: it gets nothing new."""
        return self._stopping is not None

    @property
    def cancelling(self) -> asyncio.Task[None] | None:
        """The task that stops this subscription alone, once it has cancelled the workers."""
        return self._stopping if self._cancelling else None

    @property
    def keeper(self) -> asyncio.Task[None] | None:
        """The task that holds the resource."""
        return self._keeper

    def begin_stop(self, *, drain: bool) -> asyncio.Task[None]:
        """Stop this subscription alone; the task ends when that is done."""
        if not drain and not self.aborting.done():
            self.aborting.set_result(None)
        if self._stopping is None:
            self._scope.unroute(self)
            self._stopping = self._scope.supervisor.spawn(self._stop(), f"{self.inbox.name}:stop")
        if not drain:
            self.close()  # now, and not when the task runs: nothing more is started
        return self._stopping

    async def _stop(self) -> None:
        scope = self._scope
        deadline = scope.loop.time() + scope.drain_timeout
        await scope.wait_idle((self.inbox,), deadline=deadline, unless=self.aborting)
        self.close()
        self._cancelling = True
        until = scope.loop.time() + scope.cancel_grace
        pending = await cancel_and_wait(
            self.tasks, grace=scope.cancel_grace, spare_cancelled=scope.supervisor.cancelled
        )
        await scope.wait_returned((self.inbox,), until)
        ending = self.give_up(pending)
        if ending:
            await asyncio.wait(ending, timeout=LAST_WAIT_S)
        if self._keeper is not None:
            left = max(until - scope.loop.time(), LAST_WAIT_S)
            await asyncio.wait({self._keeper}, timeout=left)
            scope.note_abandoned(await cancel_and_wait({self._keeper}, grace=LAST_WAIT_S))
        self.finish()
        scope.forget(self)

    def close(self) -> None:
        """Take nothing in any more; stop opening a resource that nobody will use."""
        self.inbox.close()
        if self._keeper is not None and self.ready is not None and not self.ready.done():
            self._keeper.cancel()

    def give_up(self, pending: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
        """Abandon the workers that refused to end; let the resource go.

        Returns the tasks that will end after all: they only waited for their thread.
        """
        ending: set[asyncio.Task[Any]] = set()
        for worker, task in tuple(self._workers.items()):
            if task not in pending or worker.abandoned:
                continue
            item = worker.item
            if worker.holds:
                self.inbox.abandoned += 1
                if item is not None:
                    tell(item, done=False)
            worker.abandon()
            self._scope.note_abandoned({task}, None if item is None else event_of(item))
            if worker.thread is not None:
                task.cancel()
                ending.add(task)
        if self._leave is not None and not self._leave.done():
            self._leave.set_result(None)
        return ending

    def finish(self) -> None:
        """Count what is left; from here on the counts don't change."""
        if not self._finished:
            self._finished = True
            self.inbox.release_all()
            self.inbox.overdue.clear()  # nobody waits for them any more
            self.inbox.went_idle()
