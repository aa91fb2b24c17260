"""What exists of a bus between entering and leaving it, and how that ends."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from eventflow._log import flush_repeats
from eventflow.bus._inbox import Inbox
from eventflow.bus._names import Names
from eventflow.bus._reports import Reports, log
from eventflow.bus.matching import Matcher
from eventflow.bus.statistics import BusStatistics, SubscriptionStatistics
from eventflow.errors import BusClosedError
from eventflow.lifecycle.supervisor import LAST_WAIT_S, Supervisor, cancel_and_wait
from eventflow.lifecycle.threads import ThreadRunner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventflow._cause import Attempt
    from eventflow.bus._consumer import Consumer
    from eventflow.bus._options import Options
    from eventflow.bus.stream import EventStream
    from eventflow.events import Event

__all__ = ("Scope",)

ENDED_ROWS = 1_000


class Member(Protocol):
    """A subscription or a stream."""

    @property
    def inbox(self) -> Inbox:
        """Its buffer and counts."""
        ...

    @property
    def selector(self) -> type[Event] | str:
        """What it is subscribed to."""
        ...


class Scope:
    """One stay inside a bus: its routes, members, threads and supervisor.

    Attributes:
        name: Name of the bus.
        state: ``open``; ``closing`` while handlers finish; ``closed``.
        taking_in: Whether handlers that still run may publish.
        origin: Unlike that of any other stay in any bus: messages sent from here carry it.
        routes: Inboxes by exact class of event, for classes no ``RAISE`` subscription gets;
            filled as classes are published, emptied whenever a subscription comes or goes.
    """

    def __init__(
        self, name: str, *, drain_timeout: float, cancel_grace: float, max_threads: int
    ) -> None:
        self.name = name
        self.pid = os.getpid()
        self.origin = os.urandom(16).hex()
        self.drain_timeout = drain_timeout
        self.cancel_grace = cancel_grace
        self.loop = asyncio.get_running_loop()
        self.state = "open"
        self.taking_in = True
        self.routes: dict[type[Event], tuple[Inbox, ...]] = {}
        self.matcher: Matcher[Inbox] = Matcher()
        self.threads = ThreadRunner(self.loop, limit=max_threads, name=name)
        self.supervisor = Supervisor(name, on_stop=self._stop)
        self.consumers: dict[str, Consumer] = {}
        self.streams: dict[str, EventStream[Any]] = {}
        self._ended: deque[SubscriptionStatistics] = deque()
        self._older: SubscriptionStatistics | None = None
        self._abandoned: list[str] = []
        self._drain_until: float | None = None
        self.names = Names(name, lambda taken: taken in self.consumers or taken in self.streams)

    # Members

    def new_inbox(self, name: str, options: Options) -> Inbox:
        """A buffer of this scope."""
        supervisor = self.supervisor
        reports = Reports(self.name, name, loop=self.loop, supervisor=supervisor)
        return Inbox(name, options, reports, supervisor)

    def route(self, member: Member) -> None:
        """Let events reach a member."""
        self.matcher.add(member.selector, member.inbox)
        self.routes.clear()

    def unroute(self, member: Member) -> None:
        """Let no new event reach a member."""
        self.matcher.remove(member.selector, member.inbox)
        self.routes.clear()

    def forget(self, member: Consumer | EventStream[Any]) -> None:
        """Keep only the counts of a member that has ended."""
        members: dict[str, Any] = (
            self.consumers if member.inbox.name in self.consumers else self.streams
        )
        if self.state == "closed" or members.pop(member.inbox.name, None) is None:
            return
        self._ended.append(member.inbox.statistics())
        if len(self._ended) > ENDED_ROWS:
            oldest = self._ended.popleft()
            self._older = SubscriptionStatistics.summed(
                "(ended)", [oldest] if self._older is None else [self._older, oldest]
            )

    def __iter__(self) -> Iterator[Inbox]:
        """The inboxes of all members."""
        for consumer in tuple(self.consumers.values()):
            yield consumer.inbox
        for stream in tuple(self.streams.values()):
            yield stream.inbox

    def runs(self, attempt: Attempt | None) -> bool:
        """Whether this attempt is running now, in this scope."""
        if attempt is None:
            return False
        consumer = self.consumers.get(attempt.lane.name)
        return (
            consumer is not None
            and consumer.inbox is attempt.lane
            and any(reader.attempt is attempt for reader in consumer.inbox.readers)
        )

    # Idle

    async def wait_idle(
        self,
        inboxes: Iterable[Inbox],
        *,
        deadline: float | None = None,
        unless: asyncio.Future[None] | None = None,
    ) -> None:
        """Wait until all are idle at once, until the deadline, or until ``unless`` is done."""
        waited = True
        while waited:
            waited = False
            for inbox in tuple(inboxes):
                while not inbox.is_idle:
                    if unless is not None and unless.done():
                        return
                    left = None if deadline is None else deadline - self.loop.time()
                    if left is not None and left <= 0:
                        return
                    waited = True
                    watcher = inbox.watch_idle(self.loop)
                    try:
                        await asyncio.wait(
                            {watcher} if unless is None else {watcher, unless},
                            timeout=left,
                            return_when=asyncio.FIRST_COMPLETED,
                        )
                    finally:
                        inbox.unwatch(watcher)

    async def wait_returned(self, inboxes: Iterable[Inbox], until: float) -> None:
        """Wait for threads that outlived their attempt: they may use what is closed next."""
        overdue = {ended for inbox in inboxes for ended in inbox.overdue}
        left = until - self.loop.time()
        if overdue and left > 0:
            await asyncio.wait(overdue, timeout=left)

    # The end

    async def _stop(self) -> None:
        """Runs in the supervisor; again, without draining, if it is cancelled itself."""
        aborting = self.supervisor.aborting
        if self._drain_until is None:
            self.state = "closing"
            self.routes.clear()
            self._refuse(handlers=False)
            self._drain_until = self.loop.time() + self.drain_timeout
        if not aborting.done():
            await self.wait_idle(self, deadline=self._drain_until, unless=aborting)
        self.taking_in = False
        until = self.loop.time() + self.cancel_grace
        self._refuse(handlers=True)
        for inbox in tuple(self):
            inbox.close()
        for stream in self.streams.values():
            stream.end()
        consumers = list(self.consumers.values())
        # A subscription that is being stopped alone has cancelled its handlers already; a
        # second cancellation would cut their clean-up before its grace is over.
        cancelling = {task for c in consumers if (task := c.cancelling) is not None}
        for consumer in consumers:
            consumer.close()
        workers = [task for c in consumers if c.cancelling is None for task in c.tasks]
        pending = await cancel_and_wait(
            workers, grace=self.cancel_grace, spare_cancelled=self.supervisor.cancelled
        )
        if cancelling:
            left = until + LAST_WAIT_S - self.loop.time()
            await asyncio.wait(cancelling, timeout=max(left, 0))
            pending |= {task for c in consumers for task in c.tasks if not task.done()}
        await self.wait_returned((c.inbox for c in consumers), until)
        ending: set[asyncio.Task[Any]] = set()
        for consumer in consumers:
            ending |= consumer.give_up(pending)
        if ending:
            await asyncio.wait(ending, timeout=LAST_WAIT_S)
        await self._let_go(consumers, until)
        for consumer in consumers:
            consumer.finish()
        for stream in self.streams.values():
            stream.finish()
        if stuck := self.threads.close():
            self._abandoned += [f"thread {name}" for name in stuck]
            log.error("eventflow.threads_abandoned", bus=self.name, threads=list(stuck))
        self.state = "closed"
        flush_repeats()

    async def _let_go(self, consumers: list[Consumer], until: float) -> None:
        """Close resources, and end whatever else the supervisor owns."""
        keepers = {c.keeper for c in consumers if c.keeper is not None and not c.keeper.done()}
        if keepers:
            left = max(until - self.loop.time(), LAST_WAIT_S)
            await asyncio.wait(keepers, timeout=left)
        given_up = {task for consumer in consumers for task in consumer.tasks}
        rest = {task for task in self.supervisor.tasks if task not in given_up}
        self.note_abandoned(await cancel_and_wait(rest, grace=LAST_WAIT_S))

    def _refuse(self, *, handlers: bool) -> None:
        """Send blocked publishers away: those outside, or all."""
        for inbox in tuple(self):
            for turn in tuple(inbox.turns or ()):
                if handlers or not turn.from_handler:
                    turn.refuse(self.closed_error())

    def closed_error(self) -> BusClosedError:
        """The error for a publish that comes too late."""
        return BusClosedError(f"bus {self.name!r} is stopping: it takes no more events")

    def note_abandoned(self, tasks: set[asyncio.Task[Any]], event: Event | None = None) -> None:
        """Record, by name, what could not be stopped."""
        for task in tasks:
            name = f"task {task.get_name()}"
            self._abandoned.append(name if event is None else f"{name} with event {event.id}")
            log.error(
                "eventflow.task_abandoned",
                bus=self.name,
                task=task.get_name(),
                event_id=None if event is None else event.id,
                topic=None if event is None else event.topic,
            )

    def statistics(self) -> BusStatistics:
        """The counts, now."""
        ended = (*self._ended,) if self._older is None else (*self._ended, self._older)
        return BusStatistics(
            name=self.name,
            state=self.state,
            subscriptions=(*(inbox.statistics() for inbox in self), *ended),
            abandoned=tuple(self._abandoned),
        )
