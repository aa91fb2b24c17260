"""`MemorySubscriber`, and its deliveries."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from eventflow.events import validate_topic
from eventflow.lifecycle.options import check_whole
from eventflow.messaging import Broadcast, Deliveries, Delivery, SettlementState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from eventflow.brokers.memory._log import Group, Item
    from eventflow.brokers.memory._store import Store, Topic
    from eventflow.brokers.memory.publisher import MemoryPublisher
    from eventflow.messaging import Features
    from eventflow.messaging import Group as GroupName

__all__ = ("MemorySubscriber",)

DEFAULT_IN_FLIGHT = 1_000

_ACKED = SettlementState.ACKED


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

    def publisher(self) -> MemoryPublisher:
        """A publisher to the same broker."""
        return self._publisher

    async def prepare(self, topic: str) -> None:
        """Let the group begin, so that it gets what is published from now on."""
        self._store.check_open()
        log = self._store.topic(validate_topic(topic)).log
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
        self, topic: str, *, max_in_flight: int | None = None
    ) -> AsyncGenerator[Deliveries]:
        """Receive a topic; see `eventflow.messaging.Subscriber`."""
        validate_topic(topic)
        bound = DEFAULT_IN_FLIGHT if max_in_flight is None else max_in_flight
        check_whole("max_in_flight", bound)
        self._store.check_open()
        found = self._store.topic(topic)
        is_alone = isinstance(self._group, Broadcast)
        group = (
            found.log.join() if isinstance(self._group, Broadcast) else found.log.group(self._group)
        )
        deliveries = _MemoryDeliveries(found, topic, group, self._features, max_in_flight=bound)
        self._store.subscriptions[deliveries] = deliveries.close
        try:
            yield deliveries
        finally:
            deliveries.close()
            self._store.subscriptions.pop(deliveries, None)
            if is_alone:
                found.log.leave(group)


class _MemoryDelivery(Delivery):
    __slots__ = ("item",)
    item: Item


class _MemoryDeliveries(Deliveries):
    """Receives for one subscription, and settles at once."""

    def __init__(
        self,
        topic: Topic,
        topic_name: str,
        group: Group,
        features: Features,
        *,
        max_in_flight: int,
    ) -> None:
        self.features = features
        self._topic = topic
        self._topic_name = topic_name
        self._group = group
        self._bound = max_in_flight
        self._open: dict[int, _MemoryDelivery] = {}
        self._is_paused = False
        self._is_closed = False
        self._loop = asyncio.get_running_loop()

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        while not self._is_closed:
            room = min(limit, self._bound - len(self._open))
            until = None
            if room > 0 and not self._is_paused:
                items = self._group.take(room, self._loop.time())
                if items:
                    return [self._deliver(item) for item in items]
                until = self._group.next_due
            # Without room, or paused, a message that is due wakes nobody: it could not be taken.
            await self._topic.readers.wait(until)
        return ()

    def _deliver(self, item: Item) -> Delivery:
        message = item.message
        delivery = _MemoryDelivery(
            message,
            topic=self._topic_name,
            settler=self,
            headers=message.headers,
            deliveries=item.deliveries,
            failures=item.failures,
            lane=message.key,
            coordinates={"offset": item.offset},
        )
        delivery.item = item
        self._open[item.offset] = delivery
        return delivery

    def settle(self, delivery: Delivery) -> None:
        """Take a decision at once: there is nobody to tell."""
        assert isinstance(delivery, _MemoryDelivery)
        item = delivery.item
        opened = self._open
        del opened[item.offset]
        if delivery.state is _ACKED:
            # Another of its key may come now, or we have room again.
            wakes = self._group.ack(item) or len(opened) == self._bound - 1
        else:
            if delivery.nack_failures is not None:
                item.failures = delivery.nack_failures
            delay = delivery.nack_delay
            self._group.nack(item, due=self._loop.time() + delay if delay else None)
            wakes = True
        delivery.confirmed()
        if wakes:
            self._topic.readers.wake(None)

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._topic.readers.wake(None)

    def close(self) -> None:
        """Give back what is unsettled, and end whoever waits in `receive`."""
        self._is_closed = True
        for delivery in self._open.values():
            delivery.lost()
            self._group.give_back(delivery.item)
        self._open.clear()
        self._topic.readers.wake(None)
