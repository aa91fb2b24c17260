"""`MemorySubscriber`, and its deliveries."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from eventflow.brokers.memory._log import MemoryDelivery
from eventflow.events import validate_topic
from eventflow.lifecycle.options import check_whole
from eventflow.messaging import Broadcast, Deliveries, Delivery, SettlementState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from eventflow.brokers.memory._log import Group
    from eventflow.brokers.memory._store import Store, Topic
    from eventflow.brokers.memory.publisher import MemoryPublisher
    from eventflow.messaging import Features
    from eventflow.messaging import Group as GroupName

__all__ = ("MemorySubscriber",)

DEFAULT_IN_FLIGHT = 1_000

_ACKED = SettlementState.ACKED
_NACKED = SettlementState.NACKED


class MemorySubscriber:
    """A member of a consumer group of a `MemoryBroker`.

    Up to 1,000 deliveries are unsettled at once, unless ``max_in_flight`` says otherwise.
    """

    def __init__(
        self, store: Store, features: Features, *, group: GroupName, publisher: MemoryPublisher
    ) -> None:
        self._store = store
        self._features = features
        self._group = group
        self._publisher = publisher

    def __repr__(self) -> str:
        return f"<MemorySubscriber of group {self._group!r}>"

    def __eq__(self, other: object) -> bool:
        """Whether both receive from the same place."""
        if not isinstance(other, MemorySubscriber):
            return NotImplemented
        return self._store is other._store and self._group == other._group

    def __hash__(self) -> int:
        return hash((id(self._store), self._group))

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._features

    @property
    def group(self) -> GroupName:
        """The consumer group."""
        return self._group

    def required_topics(self, topic: str) -> tuple[str, ...]:
        """The topic alone."""
        return (topic,)

    def publisher(self) -> MemoryPublisher:
        """A publisher to the same broker."""
        return self._publisher

    async def prepare(self, topic: str) -> None:
        """Let the group begin, so that it gets what is published from now on."""
        self._store.check_open()
        log = self._store.topic(topic).log
        if not isinstance(self._group, Broadcast):
            log.group(self._group)

    async def lag(self, topic: str) -> int:
        """How many messages of a topic the group has not acked."""
        self._store.check_open()
        log = self._store.topic(validate_topic(topic)).log
        if isinstance(self._group, Broadcast):
            return sum(group.lag for group in log.broadcasts)
        return log.lag(self._group)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AsyncGenerator[Deliveries]:
        """Receive a topic; see `eventflow.messaging.Subscriber`."""
        bound = max(DEFAULT_IN_FLIGHT, concurrency) if max_in_flight is None else max_in_flight
        check_whole("max_in_flight", bound)
        self._store.check_open()
        found = self._store.topic(topic)
        is_alone = isinstance(self._group, Broadcast)
        group = (
            found.log.join() if isinstance(self._group, Broadcast) else found.log.group(self._group)
        )
        deliveries = _MemoryDeliveries(found, group, self._features, max_in_flight=bound)
        self._store.subscriptions[deliveries] = None
        try:
            yield deliveries
        finally:
            deliveries.close()
            self._store.subscriptions.pop(deliveries, None)
            if is_alone:
                found.log.leave(group)


class _MemoryDeliveries(Deliveries):
    """Receives for one subscription, and settles at once."""

    def __init__(
        self,
        topic: Topic,
        group: Group,
        features: Features,
        *,
        max_in_flight: int,
    ) -> None:
        self.features = features
        self._topic = topic
        self._group = group
        self._bound = max_in_flight
        self._in_flight = 0
        self._is_paused = False
        self._is_closed = False
        self._loop = asyncio.get_running_loop()

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        while not self._is_closed:
            room = min(limit, self._bound - self._in_flight)
            until = None
            if room > 0 and not self._is_paused:
                taken = self._group.take(room, self._loop.time(), self)
                if taken:
                    self._in_flight += len(taken)
                    return taken
                until = self._group.next_due
            # Without room, or paused, a message that is due wakes nobody: it could not be taken.
            await self._topic.readers.wait(until)
        return ()

    def settle(self, delivery: Delivery) -> None:
        """Take a decision at once: there is nobody to tell."""
        assert type(delivery) is MemoryDelivery
        in_flight = self._in_flight = self._in_flight - 1
        if delivery.state is _ACKED:
            # Another of its key may come now, or we have room again.
            wakes = self._group.ack(delivery) or in_flight == self._bound - 1
        else:
            delay = delivery.nack_delay
            due = self._loop.time() + delay if delay else None
            if delivery.state is _NACKED:
                self._group.nack(delivery, due=due)
            else:
                self._group.give_back(delivery, due=due)
            wakes = True
        delivery.confirmed()
        if wakes:
            self._topic.readers.wake_all()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._topic.readers.wake_all()

    @property
    def lag(self) -> int:
        return self._group.lag

    def has_more(self, until: float) -> bool:
        return self._group.has_more(until)

    def close(self) -> None:
        """Give back what is unsettled, and end whoever waits in `receive`."""
        self._is_closed = True
        if self._in_flight:
            for delivery in self._group.open:
                if delivery.settler is self:
                    delivery.lost()
                    self._group.give_back(delivery)
            self._in_flight = 0
        self._topic.readers.wake_all()
