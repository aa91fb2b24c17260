"""`KafkaDeliveries`: one subscription's part of the feeds of its topic."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from eventflow.brokers.kafka._delivery import KafkaDelivery
from eventflow.brokers.kafka._step import Step
from eventflow.messaging import Deliveries, Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from eventflow.brokers.kafka._feed import Feed
    from eventflow.brokers.kafka._partition import Partition
    from eventflow.brokers.kafka.broker import KafkaBroker

__all__ = ("KafkaDeliveries", "receiving")


class KafkaDeliveries(Deliveries):
    """Receives for one subscription.

    Args:
        feed: Of the topic.
        retries: Of those that wait to be tried again, where the group puts messages off.
        max_in_flight: Most deliveries that are unsettled at once.
        beside: Tells what else is wrong.

    Attributes:
        features: What the backend can do.
        feed: That of the topic.
    """

    def __init__(
        self,
        feed: Feed,
        retries: Feed | None = None,
        *,
        max_in_flight: int,
        beside: Callable[[], str] = str,
    ) -> None:
        self.features = feed.features
        self.feed = feed
        self._retries = retries
        self._bound = max_in_flight
        self._beside = beside
        self._is_paused = self._is_closed = False
        self._wants_room = False
        feed.members.append(self)
        if retries is not None:
            retries.members.append(self)
            retries.readers = feed.readers

    @property
    def _feeds(self) -> tuple[Feed, ...]:
        return (self.feed,) if self._retries is None else (self._retries, self.feed)

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        feed, retries = self.feed, self._retries
        while not self._is_closed:
            for one in self._feeds:
                if one.error is not None:
                    raise one.error
            room = min(limit, self._bound - sum(one.held_by(self) for one in self._feeds))
            if room > 0 and not self._is_paused:
                taken = [] if retries is None else self._take(retries, room)
                if len(taken) < room:
                    taken += self._take(feed, room - len(taken))
                if taken:
                    return taken
            if feed.is_ended:
                break
            if room <= 0:
                self._wants_room = True
                for one in self._feeds:
                    one.tell_next(self)
            await feed.readers.wait()
        return ()

    def _take(self, feed: Feed, room: int) -> list[KafkaDelivery]:
        taken = feed.take(self, room)
        return [*filter(_is_due, taken)] if feed.is_ladder else taken

    def settle(self, delivery: Delivery) -> None:
        """Take a decision that is no ack; see `eventflow.messaging.Settler`."""
        assert isinstance(delivery, KafkaDelivery)
        feed = self._feed_of(delivery.partition)
        if delivery.nack_delay:
            feed.postpone(delivery)
        else:
            feed.settled(delivery)

    def acked(self, partition: Partition) -> None:
        """Take acks, of which a partition tells."""
        feed = self._feed_of(partition)
        feed.acked(partition)
        if self._wants_room:
            self._wants_room = False
            feed.readers.wake_all()

    def _feed_of(self, partition: Partition) -> Feed:
        return (self._retries or self.feed) if partition.is_ladder else self.feed

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self.feed.readers.wake_all()

    @property
    def problem(self) -> str:
        return next((problem for feed in self._feeds if (problem := feed.problem)), self._beside())

    @property
    def lag(self) -> int | None:
        """Of the partitions that this process has, in the subscriptions of one group together."""
        return _sum(feed.lag for feed in self._feeds)

    def close(self) -> None:
        """Give back what is unsettled, and end whoever waits in `receive`."""
        if not self._is_closed:
            self._is_closed = True
            for feed in self._feeds:
                feed.leave(self)


def _is_due(delivery: KafkaDelivery) -> bool:
    """Whether it has waited long enough; if no step is as long, it waits on."""
    assert isinstance(delivery.partition, Step)
    left = delivery.partition.left(delivery)
    if left:
        delivery.release(delay=left)
    return not left


@asynccontextmanager
async def receiving(
    broker: KafkaBroker, *feeds: Feed, max_in_flight: int
) -> AsyncGenerator[KafkaDeliveries]:
    """Receive from a feed, and from that of its retries, for as long as the block lasts.

    Raises:
        BrokerError: Nothing will come.
    """
    deliveries = KafkaDeliveries(*feeds, max_in_flight=max_in_flight, beside=lambda: broker.problem)
    try:
        for feed in feeds:
            await feed.join()
        yield deliveries
    finally:
        deliveries.close()
        await asyncio.shield(asyncio.gather(*broker.leave(feeds)))


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = [*numbers]
    return None if None in known else sum(n for n in known if n is not None)
