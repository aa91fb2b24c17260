"""What exists of a router between entering and leaving it, and how that ends."""

from __future__ import annotations

import asyncio
import contextvars
import os
from typing import TYPE_CHECKING, Any

from eventflow._log import EventLogger, flush_repeats
from eventflow.lifecycle.supervisor import LAST_WAIT_S, Supervisor, cancel_and_wait
from eventflow.lifecycle.threads import ThreadRunner
from eventflow.messaging._reader import Reader
from eventflow.messaging._runner import Runner
from eventflow.messaging.statistics import (
    HandlerHealth,
    HandlerStatistics,
    RouterHealth,
    RouterStatistics,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventflow.messaging._binding import Binding
    from eventflow.messaging.codec import Codec
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.middleware.protocol import Middleware, MiddlewareFactory
    from eventflow.messaging.protocols import Subscriber

__all__ = ("Scope",)

log = EventLogger("eventflow.router")

FLUSH_S = 1.0
"""Longest wait for subscriptions to flush their acks, beyond what is left of the stop's time."""


class Scope:
    """One stay inside a router: its handlers, subscriptions, threads and supervisor.

    Attributes:
        name: Name of the router.
        state: ``open``; ``closing`` while handlers finish; ``closed``.
        codec: Between events and bodies.
        loop: The event loop.
        done: A future that is done.
        timer_context: What timers run in: that of a handler would count as a copy of it.
        cancel_grace: Seconds between a handler's first and second cancellation.
    """

    def __init__(
        self,
        name: str,
        *,
        drain_timeout: float,
        cancel_grace: float,
        max_threads: int,
        middlewares: Sequence[Middleware | MiddlewareFactory],
        codec: Codec,
    ) -> None:
        self.name = name
        self.pid = os.getpid()
        self.drain_timeout = drain_timeout
        self.cancel_grace = cancel_grace
        self.codec = codec
        self.loop = asyncio.get_running_loop()
        self.state = "open"
        self.threads = ThreadRunner(self.loop, limit=max_threads, name=name)
        self.timer_context = contextvars.Context()
        self.supervisor = Supervisor(name, on_stop=self._stop)
        # For what needs no waiting, shared: a router may have many handlers.
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.done.set_result(None)
        self.runners: dict[str, Runner] = {}
        self._names: dict[str, None] = {}  # of all there were, in the order they came
        self._readers: dict[tuple[Subscriber, str], Reader] = {}
        # Of handlers that were stopped alone: while they stop, and their counts afterwards.
        self._stopping: dict[Runner, asyncio.Task[None]] = {}
        self._leaving: set[Reader] = set()
        self._gone: dict[str, HandlerStatistics] = {}
        self._middlewares = tuple(middlewares)
        self._abandoned: list[str] = []
        self._given_up: set[asyncio.Task[Any]] = set()
        self._drain_until: float | None = None

    # Handlers

    def middlewares_for(self, binding: Binding) -> tuple[Any, ...]:
        """What is put around a handler, outermost first."""
        return (*self._middlewares, *binding.options.middlewares)

    def add(self, bindings: Iterable[Binding]) -> list[Reader]:
        """Start handlers; those that are bound to the same place share a subscription."""
        readers: dict[Reader, None] = {}
        # A middleware may refuse a handler: before anything starts.
        runners = [Runner(binding, self) for binding in bindings]
        for runner in runners:
            binding = runner.binding
            self.runners[binding.name] = runner
            self._names[binding.name] = None
            for topic in binding.topics:
                place = (binding.subscriber, topic)
                reader = self._readers.get(place)
                if reader is None:
                    reader = self._readers[place] = Reader(binding.subscriber, topic, self)
                    readers[reader] = None
                runner.subscribed += (reader.bind(runner),)
            runner.start()
        for reader in readers:
            reader.start()
        return [*readers]

    async def wait_running(self) -> None:
        """Wait until every handler receives.

        Raises:
            EventFlowError: One can't; of several the first.
        """
        for runner in tuple(self.runners.values()):
            await runner.wait_running()

    # The end

    async def _stop(self) -> None:
        """Runs in the supervisor; again, without draining, if it is cancelled itself."""
        if self._drain_until is None:
            self.state = "closing"
            self._drain_until = self.loop.time() + self.drain_timeout
        runners = tuple(self.runners.values())
        await self._drain(runners, self._drain_until)
        until = self.loop.time() + self.cancel_grace
        await self.end(runners, until=until)
        if self._stopping:
            # They began to stop before the router did, so they are not later than it.
            left = max(until - self.loop.time(), LAST_WAIT_S)
            await asyncio.wait(self._stopping.values(), timeout=left)
            await self.end(tuple(self._stopping), until=until)
        await self._leave_subscriptions((*self._readers.values(), *self._leaving), until)
        rest = {task for task in self.supervisor.tasks if not self._is_given_up(task)}
        for task in await cancel_and_wait(rest, grace=LAST_WAIT_S):
            self.note_abandoned(task, None)
        if stuck := self.threads.close():
            self._abandoned += [f"thread {name}" for name in stuck]
            log.error("eventflow.threads_abandoned", router=self.name, threads=list(stuck))
        self.state = "closed"
        flush_repeats()

    def _is_given_up(self, task: asyncio.Task[Any]) -> bool:
        return task in self._given_up

    async def _drain(self, runners: Sequence[Runner], until: float) -> None:
        """Take nothing in any more, and let handlers finish what they have begun.

        Where the messages would not outlive the process, those that wait are handled too.
        """
        lasting = [r for r in self._readers.values() if r.features.persistent]
        passing = [r for r in self._readers.values() if not r.features.persistent]
        for reader in lasting:
            reader.stop_receiving()
        for runner in runners:
            if all(reader.features.persistent for reader in runner.readers):
                runner.stop_starting()
        while passing and not self._is_cut(until):
            await self._wait_idle(runners, until)
            if all(runner.jobs.is_idle for runner in runners):
                if not any(reader.has_more(until) for reader in passing):
                    break
                await self._wait_a_little(until)  # for what is delayed
        for reader in passing:
            reader.stop_receiving()
        await self._wait_idle(runners, until)
        for runner in runners:
            runner.stop_starting()

    def _is_cut(self, until: float) -> bool:
        return self.supervisor.aborting.done() or self.loop.time() >= until

    async def _wait_a_little(self, until: float) -> None:
        left = min(0.05, until - self.loop.time())
        if left > 0:
            await asyncio.wait({self.supervisor.aborting}, timeout=left)

    async def _wait_idle(self, runners: Sequence[Runner], until: float) -> None:
        """Until the handlers are idle, the deadline, or an abort."""
        aborting = self.supervisor.aborting
        for runner in runners:
            while not runner.jobs.is_idle and not self._is_cut(until):
                await asyncio.wait(
                    {runner.jobs.watch_idle(), aborting},
                    timeout=until - self.loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )

    async def end(self, runners: Sequence[Runner], *, until: float) -> None:
        """Cancel what still runs, and let resources go."""
        for runner in runners:
            runner.stop_starting()
            runner.close()
        workers = {task for runner in runners for task in runner.tasks}
        pending = await cancel_and_wait(
            workers,
            grace=self.cancel_grace,
            spare_cancelled=self.supervisor.cancelled,
        )
        pending |= await self._end_burials(runners, until)
        # Threads that outlived their attempt may use what is closed next.
        overdue = {ended for runner in runners for ended in runner.jobs.overdue}
        if overdue and (left := until - self.loop.time()) > 0:
            await asyncio.wait(overdue, timeout=left)
        ending: set[asyncio.Task[Any]] = set()
        for runner in runners:
            ending |= runner.give_up(pending)
        if ending:
            await asyncio.wait(ending, timeout=LAST_WAIT_S)
        keepers = {task for runner in runners if (task := runner.let_go()) is not None}
        if keepers:
            left = max(until - self.loop.time(), LAST_WAIT_S)
            await asyncio.wait(keepers, timeout=left)

    async def _end_burials(self, runners: Sequence[Runner], until: float) -> set[asyncio.Task[Any]]:
        """Let dead letters that are on their way arrive; those that could not, come again.

        Returns those that refuse to end.
        """
        burials = {task: b for runner in runners for task, b in runner.endings.burials.items()}
        under_way = {task for task, burial in burials.items() if not burial.is_waiting}
        if under_way and (left := until - self.loop.time()) > 0:
            await asyncio.wait(under_way, timeout=left)
        return await cancel_and_wait(burials, grace=0.0)

    async def _leave_subscriptions(self, readers: Sequence[Reader], until: float) -> None:
        leaving = {task for reader in readers if (task := reader.leave()) is not None}
        if leaving:
            left = max(until - self.loop.time(), FLUSH_S)
            await asyncio.wait(leaving, timeout=left)

    async def stop_handler(self, name: str) -> None:
        """Stop one handler, and nothing that it does not own; for who comes later, wait for it."""
        runner = self.runners.pop(name, None)
        if runner is not None:
            # From here on its name and its places are free.
            for reader in runner.readers:
                reader.unbind(runner)
                if not reader.runners and reader not in self._leaving:
                    self._readers.pop((reader.subscriber, reader.topic), None)
                    self._leaving.add(reader)
                    reader.stop_receiving()
            runner.stop_starting()
            self._stopping[runner] = self.supervisor.spawn(
                self._stop_handler(runner), f"{name}:stop"
            )
        for other, task in tuple(self._stopping.items()):
            if other.name == name:
                # Not awaited itself: if it is cancelled, with the loop, its caller is not.
                await asyncio.wait({task})

    async def _stop_handler(self, runner: Runner) -> None:
        await self._wait_idle((runner,), self.loop.time() + self.drain_timeout)
        until = self.loop.time() + self.cancel_grace
        await self.end((runner,), until=until)
        # What another handler that stops still has in its hands is settled before it is left.
        others = {
            reader for other in self._stopping if other is not runner for reader in other.readers
        }
        unread = [
            reader for reader in runner.readers if not reader.runners and reader not in others
        ]
        await self._leave_subscriptions(unread, until)
        self._leaving.difference_update(unread)
        self._gone[runner.name] = self._row(runner.name, (runner,))
        del self._stopping[runner]

    def note_abandoned(self, task: asyncio.Task[Any], delivery: Delivery | None) -> None:
        """Record, by name, what could not be stopped."""
        self._given_up.add(task)
        name = f"task {task.get_name()}"
        message_id = None if delivery is None else delivery.message.id
        self._abandoned.append(name if delivery is None else f"{name} with message {message_id}")
        log.error(
            "eventflow.task_abandoned",
            router=self.name,
            task=task.get_name(),
            event_id=message_id,
            topic=None if delivery is None else delivery.topic,
        )

    # Looking at it

    def has(self, lane: object, name: str | None = None) -> bool:
        """Whether something runs in one of its handlers, or in one of that name."""
        return any(
            runner is lane and name in (None, runner.name)
            for runner in (*self.runners.values(), *self._stopping)
        )

    def row(self, name: str) -> HandlerStatistics:
        """The counts of one name, those of handlers that had it before included."""
        running = self.runners.get(name)
        stopping = [runner for runner in self._stopping if runner.name == name]
        return self._row(name, stopping if running is None else (*stopping, running))

    def _row(self, name: str, runners: Iterable[Runner]) -> HandlerStatistics:
        rows = [runner.statistics() for runner in runners]
        gone = self._gone.get(name)
        if gone is not None:
            rows.append(gone)
        return rows[0] if len(rows) == 1 else HandlerStatistics.summed(name, rows)

    def statistics(self) -> RouterStatistics:
        """The counts, now."""
        return RouterStatistics(
            name=self.name,
            state=self.state,
            handlers=tuple(self.row(name) for name in self._names),
            abandoned=tuple(self._abandoned),
        )

    def health_of(self, name: str) -> HandlerHealth:
        """How one handler is."""
        runner = self.runners.get(name)
        if runner is not None:
            return runner.health()
        is_stopping = any(stopping.name == name for stopping in self._stopping)
        return HandlerHealth(name=name, state="stopping" if is_stopping else "stopped")

    def health(self) -> RouterHealth:
        """How it is; handlers that were stopped alone are no part of it any more."""
        return RouterHealth(
            name=self.name,
            state=self.state,
            handlers=tuple(runner.health() for runner in self.runners.values()),
        )
