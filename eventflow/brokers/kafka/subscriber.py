"""`KafkaSubscriber`."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from eventflow.brokers.kafka._deliveries import KafkaDeliveries
from eventflow.brokers.kafka._feed import Feed
from eventflow.lifecycle.options import check_whole
from eventflow.messaging import Broadcast, Deliveries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.brokers.kafka.broker import KafkaBroker
    from eventflow.brokers.kafka.publisher import KafkaPublisher
    from eventflow.messaging import Features, Group

__all__ = ("KafkaSubscriber",)

DEFAULT_IN_FLIGHT = 1_000


class KafkaSubscriber:
    """A member of a consumer group of a `KafkaBroker`.

    Up to 1,000 deliveries are unsettled at once, unless ``max_in_flight`` says otherwise.
    """

    def __init__(self, broker: KafkaBroker, features: Features, *, group: Group) -> None:
        self._broker = broker
        self._features = features
        self._group = group

    def __repr__(self) -> str:
        return f"<KafkaSubscriber of group {self._group!r}>"

    def __eq__(self, other: object) -> bool:
        """Whether both receive from the same place."""
        if not isinstance(other, KafkaSubscriber):
            return NotImplemented
        return self._broker is other._broker and self._group == other._group

    def __hash__(self) -> int:
        return hash((id(self._broker), self._group))

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._features

    @property
    def group(self) -> Group:
        """The consumer group."""
        return self._group

    def publisher(self) -> KafkaPublisher:
        """A publisher to the same broker."""
        return self._broker.publisher()

    async def prepare(self, topic: str) -> None:
        """Make sure that the topic exists: a new group gets all that is in it."""
        self._broker.check_open()
        await self._broker.look_up(topic)

    async def lag(self, topic: str) -> int:
        """How many messages of a topic the group has not settled, as the cluster knows it.

        What lies between messages without being one, after a transaction or a compaction, counts
        too. Nobody keeps a place for `Broadcast`: its lag is 0.

        Raises:
            TopicNotFoundError: There is no such topic.
            BrokerConnectionError: The cluster did not say.
        """
        self._broker.check_open()
        if isinstance(self._group, Broadcast):
            await self._broker.look_up(topic)
            return 0
        return await self._broker.lag(topic, self._group)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None
    ) -> AsyncGenerator[Deliveries]:
        """Receive a topic; see `eventflow.messaging.Subscriber`."""
        bound = DEFAULT_IN_FLIGHT if max_in_flight is None else max_in_flight
        check_whole("max_in_flight", bound)
        broker = self._broker
        broker.check_open()
        await broker.look_up(topic)
        is_alone = isinstance(self._group, Broadcast)
        group = f"eventflow-{uuid.uuid4().hex}" if is_alone else str(self._group)
        place = (group, topic)
        feed = broker.feeds.get(place)
        if feed is None or feed.is_ended or feed.error is not None:
            feed = broker.feeds[place] = self._feed(topic, group)
        deliveries = KafkaDeliveries(feed, max_in_flight=bound)
        try:
            await feed.join()
            yield deliveries
        finally:
            deliveries.close()
            if not feed.members:
                if broker.feeds.get(place) is feed:
                    del broker.feeds[place]
                await asyncio.shield(broker.ends(feed.end()))

    def _feed(self, topic: str, group: str) -> Feed:
        return Feed(
            self._broker.settings,
            topic=topic,
            group=group,
            is_broadcast=isinstance(self._group, Broadcast),
            features=self._features,
        )
