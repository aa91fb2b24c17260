"""The buffer of one subscription with its counts, and what happens when it is full.

No tasks and no I/O: state changes in synchronous steps, so that the counts are exact at
every moment. `EventBus.publish` appends to `queue` by itself where ``len(queue) < limit``.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from eventflow._cause import Envelope, event_of, tell
from eventflow.bus._latency import Sample
from eventflow.bus._reports import Reports, log
from eventflow.bus.options import Overflow
from eventflow.bus.statistics import SubscriptionStatistics
from eventflow.lifecycle.lanes import Lanes

if TYPE_CHECKING:
    import asyncio
    from contextvars import Context

    from eventflow._cause import Attempt
    from eventflow.bus._options import Options
    from eventflow.bus._turns import Turn
    from eventflow.events import Event
    from eventflow.lifecycle.supervisor import Supervisor

__all__ = ("Inbox", "Reader")

ALWAYS_FULL = -1


class Reader(Protocol):
    """Who takes events out of an inbox: a worker, or a stream."""

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that runs now."""
        ...

    @property
    def holds(self) -> bool:
        """Whether it holds an event that has not ended."""
        ...


class _Latest:
    """A place in the buffer of a ``KEEP_LATEST`` subscription.

    Attributes:
        parked: Its number in the lanes while it waits there, else ``None``.
    """

    __slots__ = ("item", "key", "parked")

    def __init__(self, key: Hashable, item: Event | Envelope) -> None:
        self.key = key
        self.item = item
        self.parked: int | None = None


class Inbox:
    """Up to ``capacity`` events that wait for one subscription.

    Invariant: where publishers wait (`turns`), there is no room. So a publisher that finds
    room jumps no queue.

    Attributes:
        name: Name of the subscription.
        timeout: Seconds an attempt may take.
        queue: Events not taken yet, oldest first.
        limit: The length of `queue` at which there is no room.
        idle: Futures of readers that wait for an event.
        fresh: A reader was woken, or yielded, and has not run since.
        turns: Publishers that wait for room, in turn.
        readers: Workers, or the stream.
        overdue: The ends of threads that outlived their attempt.
        sample: What some of the attempts took.
        closed: Nothing is taken in any more.
        unwanted: Whoever reads it wants no more, so that nothing in it is lost.
    """

    __slots__ = (
        "_latest",
        "_reports",
        "_supervisor",
        "abandoned",
        "cancelled",
        "closed",
        "dropped",
        "failed",
        "fresh",
        "handled",
        "idle",
        "lanes",
        "limit",
        "name",
        "offered",
        "options",
        "overdue",
        "queue",
        "readers",
        "rejected",
        "released",
        "restarts",
        "retried",
        "sample",
        "timed_out",
        "timeout",
        "turns",
        "unwanted",
        "watchers",
    )

    def __init__(
        self, name: str, options: Options, reports: Reports, supervisor: Supervisor
    ) -> None:
        self.name = name
        self.options = options
        self.timeout = options.timeout
        self.queue: deque[Any] = deque()
        self.idle: list[asyncio.Future[None]] = []
        self.fresh = True
        self.turns: OrderedDict[Turn, None] | None = None
        self.readers: set[Reader] = set()
        self.overdue: set[asyncio.Future[None]] = set()
        self.watchers: list[asyncio.Future[None]] | None = None
        self.sample = Sample()
        self.closed = self.unwanted = False
        self.lanes = Lanes() if options.order_key is not None and options.concurrency > 1 else None
        self._latest: dict[Hashable, _Latest] | None = (
            {} if options.overflow is Overflow.KEEP_LATEST else None
        )
        self.limit = options.capacity if self._latest is None else ALWAYS_FULL
        self._reports = reports
        self._supervisor = supervisor
        self.offered = self.handled = self.failed = self.dropped = self.rejected = 0
        self.cancelled = self.released = self.abandoned = 0
        self.timed_out = self.retried = self.restarts = 0

    @property
    def bus(self) -> str:
        """Name of its bus."""
        return self._reports.bus

    # Taking in

    @property
    def buffered(self) -> int:
        """Events in the buffer."""
        return len(self.queue) + (0 if self.lanes is None else len(self.lanes))

    @property
    def has_room(self) -> bool:
        """Whether an event can be buffered without dropping another."""
        return self.buffered < self.options.capacity

    def append(self, item: Event | Envelope) -> None:
        """Buffer an event, where there is room."""
        self.offered += 1
        self.queue.append(item)
        self.wake()

    def overflow(self, item: Event | Envelope) -> None:
        """Offer an event to a subscription that drops: there is no room, or it keeps the latest."""
        if self.closed:
            tell(item, done=False)
        elif self._latest is not None:
            self._keep_latest(item)
        elif len(self.queue) < self.limit:
            self.append(item)
        elif self.options.overflow is Overflow.DROP_OLDEST:
            oldest = self._pop_oldest()
            self.append(item)
            self._drop(oldest)  # last: what is told of it may publish, into the place it left
        else:
            self.offered += 1
            self._drop(item)

    def would_drop(self, item: Event | Envelope) -> bool:
        """Whether `overflow` would drop something for this event."""
        if self._latest is None or not self.has_room:
            return not self.has_room
        try:
            return self._latest_key(item) in self._latest
        except BaseException:  # noqa: BLE001 - the user's function
            return False  # reported by `overflow`

    def _latest_key(self, item: Event | Envelope) -> Hashable:
        latest_key = self.options.latest_key
        return None if latest_key is None else latest_key(event_of(item))

    def _keep_latest(self, item: Event | Envelope) -> None:
        assert self._latest is not None
        try:
            key = self._latest_key(item)
            place = self._latest.get(key)
        except BaseException as exc:
            self.offered += 1
            self.key_failed(item, "latest_key", exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            return
        if place is not None:
            self.offered += 1
            replaced, place.item = place.item, item
            if place.parked is not None and self.lanes is not None:
                # It waits for the key of the event it replaced; its own is asked for when it
                # is taken.
                self.lanes.withdraw(place.parked)
                place.parked = None
                self.queue.appendleft(place)
                self.wake()
            self._drop(replaced)
            return
        oldest = None if self.has_room else self._pop_oldest()
        place = self._latest[key] = _Latest(key, item)
        self.offered += 1
        self.queue.append(place)
        self.wake()
        if oldest is not None:
            self._drop(oldest)

    def _pop_oldest(self) -> Event | Envelope:
        if self.lanes:
            entry = self.lanes.drop_oldest()
            self._set_limit()
        else:
            entry = self.queue.popleft()
        return self._unwrap(entry)

    def _unwrap(self, entry: Any) -> Event | Envelope:
        if self._latest is None:
            return entry  # type: ignore[no-any-return]
        self._latest.pop(entry.key, None)
        return entry.item  # type: ignore[no-any-return]

    def _drop(self, item: Event | Envelope) -> None:
        self.dropped += 1
        tell(item, done=False)
        self._reports.add("events_dropped", item)

    def reject(self, item: Event | Envelope) -> None:
        """Count an event that its publisher gave up."""
        self.offered += 1
        self.rejected += 1
        tell(item, done=False)
        self._reports.add("events_rejected", item)

    def wake(self) -> None:
        """Let an idle reader run."""
        while self.idle:
            future = self.idle.pop()
            if not future.done():
                self.fresh = True
                future.set_result(None)
                return

    # Taking out

    def take(self) -> tuple[Hashable, Event | Envelope] | None:
        """The next event that may start, with its key; ``None`` if there is none.

        With lanes, the key is busy until `release`.
        """
        lanes = self.lanes
        if lanes is None:
            return (None, self._unwrap(self.queue.popleft())) if self.queue else None
        try:
            found = lanes.next_ready()
            while found is None and self.queue:
                found = self._supervisor.outside(self._take_first, lanes)
        finally:
            self._set_limit()
        return None if found is None else (found[0], self._unwrap(found[1]))

    def _take_first(self, lanes: Lanes) -> tuple[Hashable, Any] | None:
        """Start the first event of the queue, or park it. Not in the context of a handler."""
        entry = self.queue[0]
        item = entry.item if self._latest is not None else entry
        try:
            key = self.options.order_key(event_of(item))  # type: ignore[misc]
            if not self._is_first(entry, item):
                return None  # the function dropped it: it published, or closed the subscription
            parked = lanes.start(key, entry)
        except BaseException as exc:
            if self._is_first(entry, item):
                self.queue.popleft()
                self.key_failed(self._unwrap(entry), "order_key", exc)
                self._set_limit()
                self.admit()  # its place is free, and perhaps nothing is left to take
            else:  # the function had it dropped or replaced: it is counted as that
                self._tell_of_key(item, "order_key", exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            return None
        self.queue.popleft()
        if parked is None:
            return key, entry
        if self._latest is not None:
            entry.parked = parked
        return None

    def _is_first(self, entry: Any, item: Event | Envelope) -> bool:
        """Whether an entry is first in the queue, and still has this event in it."""
        queue = self.queue
        return bool(queue) and queue[0] is entry and (self._latest is None or entry.item is item)

    def release(self, key: Hashable) -> None:
        """The event taken with ``key`` has ended; the next of its key may start."""
        if self.lanes is not None and self.lanes.release(key):
            self.wake()

    def _set_limit(self) -> None:
        if self._latest is None and self.lanes is not None and not self.closed:
            self.limit = self.options.capacity - len(self.lanes)

    def admit(self) -> None:
        """Give free places to the publishers that wait, in turn."""
        turns = self.turns
        while turns and len(self.queue) < self.limit:
            turn, _ = turns.popitem(last=False)
            self.append(turn.item)
            turn.settle()

    def key_failed(self, item: Event | Envelope, option: str, error: BaseException) -> None:
        """Count an event as failed because the user's key function raised on it."""
        self.failed += 1
        tell(item, done=not isinstance(error, (SystemExit, KeyboardInterrupt)))
        self._tell_of_key(item, option, error)

    def _tell_of_key(self, item: Event | Envelope, option: str, error: BaseException) -> None:
        event = event_of(item)
        log.error(
            "eventflow.key_failed",
            error=error,
            subscription=self.name,
            option=option,
            event_id=event.id,
            topic=event.topic,
        )

    # The end

    def close(self) -> None:
        """Take nothing in any more, let no publisher wait, and let no reader start anything."""
        self.closed = True
        self.limit = ALWAYS_FULL
        turns, self.turns = self.turns, None
        for turn in turns or ():
            # Its publisher learns nothing: that this subscriber is gone is none of its business.
            self.offered += 1
            self.released += 1
            tell(turn.item, done=self.unwanted)
            self._reports.add("events_released", turn.item)
            turn.settle()
        self.release_all()

    def release_all(self) -> None:
        """Count what is still buffered as released, and log every id."""
        left = [] if self.lanes is None else self.lanes.clear()
        left += self.queue
        self.queue.clear()
        self.released += len(left)
        for entry in left:
            item = self._unwrap(entry)
            tell(item, done=self.unwanted)
            self._reports.add("events_released", item)
        self._reports.flush()

    # Looking at it

    @property
    def in_flight(self) -> int:
        """Events being handled."""
        return sum(reader.holds for reader in tuple(self.readers))

    @property
    def waits_for_keys(self) -> bool:
        """Whether all that is buffered waits for events with its keys that are being handled."""
        return self.lanes is not None and not self.queue and not self.lanes.has_ready

    @property
    def is_idle(self) -> bool:
        """Whether nothing is buffered, in flight or waiting for room, and no thread is out."""
        return not (self.queue or self.lanes or self.turns or self.overdue or self.in_flight)

    @property
    def is_being_stopped(self) -> bool:
        """Whether whoever cancels a worker now means to end it."""
        return self.closed or self._supervisor.is_being_cancelled

    def outlived(self, ended: asyncio.Future[None], context: Context) -> None:
        """A thread goes on after its attempt, until ``ended`` is done."""
        self.overdue.add(ended)
        ended.add_done_callback(self._returned, context=context)

    def _returned(self, ended: asyncio.Future[None]) -> None:
        self.overdue.discard(ended)
        self.went_idle()

    def went_idle(self) -> None:
        """A reader found nothing to do, or a thread has returned."""
        if self.watchers and self.is_idle:
            watchers, self.watchers = self.watchers, None
            for watcher in watchers:
                watcher.set_result(None)

    def watch_idle(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """A future that is done when the inbox has become idle."""
        future: asyncio.Future[None] = loop.create_future()
        if self.watchers is None:
            self.watchers = []
        self.watchers.append(future)
        return future

    def unwatch(self, future: asyncio.Future[None]) -> None:
        """Forget a future of `watch_idle`, whose wait is over."""
        if self.watchers and future in self.watchers:
            self.watchers.remove(future)

    def statistics(self) -> SubscriptionStatistics:
        """The counts, now."""
        return SubscriptionStatistics(
            name=self.name,
            offered=self.offered,
            handled=self.handled,
            failed=self.failed,
            dropped=self.dropped,
            rejected=self.rejected,
            cancelled=self.cancelled,
            released=self.released,
            abandoned=self.abandoned,
            buffered=self.buffered,
            in_flight=self.in_flight,
            waiting=len(self.turns) if self.turns else 0,
            timed_out=self.timed_out,
            retried=self.retried,
            restarts=self.restarts,
            latency=self.sample.read(),
        )


Inboxes = Sequence[Inbox]
