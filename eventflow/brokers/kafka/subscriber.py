"""`KafkaSubscriber`."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from eventflow.brokers.kafka._deliveries import receiving
from eventflow.brokers.kafka._feed import Feed
from eventflow.brokers.kafka._ladder import DELAYS, check_steps, retry_group, retry_topic
from eventflow.brokers.kafka._outputs import TransactionalPublisher
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
        self._group = group
        if isinstance(group, Broadcast):
            features = replace(features, nack_delay=False)  # no group, no place to wait for it
        self._features = features

    def __repr__(self) -> str:
        return f"<KafkaSubscriber of group {self._group!r}>"

    def __eq__(self, other: object) -> bool:
        """Whether both receive from the same place."""
        if not isinstance(other, KafkaSubscriber):
            return NotImplemented
        return (
            self._broker is other._broker
            and self._group == other._group
            and self._is_transactional == other._is_transactional
        )

    def __hash__(self) -> int:
        return hash((id(self._broker), self._group, self._is_transactional))

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._features

    @property
    def _is_transactional(self) -> bool:
        return self._features.transactional

    @property
    def group(self) -> Group:
        """The consumer group."""
        return self._group

    def publisher(self) -> KafkaPublisher:
        """A publisher to the same broker; of a transactional one, for its handlers alone.

        What a handler publishes by that is stored together with the ack of its message, or not at
        all. Anywhere else it raises `eventflow.errors.OutsideTransactionError`.
        """
        if not self._is_transactional:
            return self._broker.publisher()
        return TransactionalPublisher(
            self._broker,
            self._features,
            timeout=self._broker.settings.publish_timeout,
            group=str(self._group),
        )

    def required_topics(self, topic: str) -> tuple[str, ...]:
        """The topic; with ``delays=True`` also the one where its messages wait to come again."""
        if self._puts_off(topic):
            return topic, self._retry_topic(topic)
        return (topic,)

    def _puts_off(self, topic: str) -> bool:
        return self._features.nack_delay and topic != DELAYS

    def _retry_topic(self, topic: str) -> str:
        return retry_topic(topic, str(self._group))

    async def prepare(self, topic: str) -> None:
        """Make sure that the topics exist: a new group gets all that is in it."""
        self._broker.check_open()
        await self._broker.look_up(topic)
        for ladder in self.required_topics(topic)[1:]:
            check_steps(ladder, await self._broker.look_up(ladder))
            await self._broker.check_limit(ladder)

    async def lag(self, topic: str) -> int:
        """How many messages of a topic the group has not settled, as the cluster knows it.

        What lies between messages without being one, after a transaction or a compaction, counts
        too, and what waits to be tried again. Nobody keeps a place for `Broadcast`: its lag is 0.

        Raises:
            TopicNotFoundError: There is no such topic.
            BrokerConnectionError: The cluster did not say.
        """
        self._broker.check_open()
        if isinstance(self._group, Broadcast):
            await self._broker.look_up(topic)
            return 0
        lag = await self._broker.lag(topic, self._group)
        if self._puts_off(topic):
            lag += await self._broker.lag(self._retry_topic(topic), retry_group(self._group))
        return lag

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AsyncGenerator[Deliveries]:
        """Receive a topic; see `eventflow.messaging.Subscriber`."""
        bound = max(DEFAULT_IN_FLIGHT, concurrency) if max_in_flight is None else max_in_flight
        check_whole("max_in_flight", bound)
        await self.prepare(topic)
        is_alone = isinstance(self._group, Broadcast)
        group = f"eventflow-{uuid.uuid4().hex}" if is_alone else str(self._group)
        feeds = [self._feed(topic, group)]
        if self._puts_off(topic):
            feeds.append(self._feed(self._retry_topic(topic), retry_group(group), origin=topic))
        async with receiving(self._broker, *feeds, max_in_flight=bound) as deliveries:
            yield deliveries

    def _feed(self, topic: str, group: str, *, origin: str | None = None) -> Feed:
        """The feed of a topic, which all subscriptions of the group share."""
        kind = ("transactional",) if self._is_transactional else ()
        feeds, place = self._broker.feeds, (group, topic, *kind)
        feed = feeds.get(place)
        if feed is None or feed.is_ended or feed.error is not None:
            ladder = self._retry_topic(origin or topic) if self._features.nack_delay else None
            feed = feeds[place] = Feed(
                self._broker.settings,
                topic=topic,
                group=group,
                is_broadcast=isinstance(self._group, Broadcast),
                features=self._features,
                forget=self._broker.topics.discard,
                is_ladder=origin is not None,
                origin=origin,
                postpone=None if ladder is None else (self._broker.publisher(), ladder),
            )
        return feed
