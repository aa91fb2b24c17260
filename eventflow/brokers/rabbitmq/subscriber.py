"""`RabbitMQSubscriber`."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from eventflow.brokers.rabbitmq._deliveries import RabbitMQDeliveries
from eventflow.brokers.rabbitmq._ladder import BROADCAST, bound_again
from eventflow.brokers.rabbitmq.publisher import RabbitMQPublisher
from eventflow.errors import BrokerConnectionError, InvalidOptionError
from eventflow.events import validate_topic
from eventflow.lifecycle.options import check_whole
from eventflow.messaging import Broadcast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.brokers.rabbitmq.broker import RabbitMQBroker
    from eventflow.brokers.rabbitmq.topology import Source, Topology
    from eventflow.messaging import Deliveries, Features, Group

__all__ = ("RabbitMQSubscriber",)

FETCHED_FOR_EACH = 20
"""Messages that are fetched for each that is handled at once."""
ENOUGH = 200
"""Messages in flight that keep any number of them busy."""


class RabbitMQSubscriber:
    """A member of a group.

    What is fetched ahead follows from how many messages are handled at once, unless
    ``max_in_flight`` says it: 20 for each, 200 at most, and twice as many as are handled at
    least. So a slow member holds little that others could do.

    What `publisher` publishes is kept in a queue of the topic's own name, even where nobody
    receives it yet: dead letters go through it.
    """

    def __init__(self, broker: RabbitMQBroker, topology: Topology, *, group: Group) -> None:
        self._broker = broker
        self._topology = topology
        self._group = group

    def __repr__(self) -> str:
        return f"<RabbitMQSubscriber of group {self._group!r}>"

    def _place(self) -> tuple[object, ...]:
        return id(self._broker), self._topology, self._group

    def __eq__(self, other: object) -> bool:
        """Whether both receive from the same place."""
        if not isinstance(other, RabbitMQSubscriber):
            return NotImplemented
        return self._place() == other._place()

    def __hash__(self) -> int:
        return hash(self._place())

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._broker.features

    @property
    def group(self) -> Group:
        """The group."""
        return self._group

    def required_topics(self, topic: str) -> tuple[str, ...]:
        """The topic alone."""
        return (topic,)

    def publisher(self) -> RabbitMQPublisher:
        """A publisher whose messages are kept, also where nobody receives them yet."""
        return RabbitMQPublisher(self._broker, self._topology.keeping, room=0)

    async def prepare(self, topic: str) -> None:
        """Declare the group's queue, so that it gets what is published from now on.

        Raises:
            TopologyError: Something is there with other properties.
            BrokerConnectionError: The broker can't be reached.
        """
        validate_topic(topic)
        self._broker.check_open()
        if not isinstance(self._group, Broadcast):
            await self._broker.declare(self._source(topic).parts)

    def _source(self, topic: str, again: str = "") -> Source:
        source = self._topology.source(topic, self._group)
        if not self.features.nack_delay:
            return source
        return bound_again(source, again or source.queue)

    async def messages_ready(self, topic: str) -> int:
        """How many messages wait in the group's queue that no member has in hand.

        That is what RabbitMQ tells, and not the group's lag: up to ``max_in_flight`` messages of
        each member have left the queue's wait and are not settled. The queue is declared.

        Raises:
            InvalidOptionError: The group is `Broadcast`, whose instances have queues of their own.
            TopologyError: Something is there with other properties.
            BrokerConnectionError: The broker can't be reached.
        """
        if isinstance(self._group, Broadcast):
            raise InvalidOptionError(
                "Broadcast() has a queue for each instance, which nobody else sees: ask for a "
                "group's",
                option="group",
            )
        await self.prepare(topic)
        return await self._broker.messages_ready(self._source(topic).queue)

    async def lag(self, topic: str) -> int:
        """Not known: RabbitMQ tells how many messages are ready, not how many are in hand.

        `messages_ready` asks for those.

        Raises:
            UnsupportedFeatureError: Always.
        """
        validate_topic(topic)
        self._broker.check_open()
        self.features.require("lag")
        raise AssertionError("declared, and not there")

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AsyncGenerator[Deliveries]:
        """Receive a topic; see `eventflow.messaging.Subscriber`.

        Raises:
            TopologyError: The queue is there with other properties.
        """
        bound = _prefetch(concurrency) if max_in_flight is None else max_in_flight
        check_whole("max_in_flight", bound)
        validate_topic(topic)
        broker = self._broker
        broker.check_open()
        # The queue of an instance has another name after each lost connection.
        is_alone = isinstance(self._group, Broadcast)
        again = f"{BROADCAST}{uuid.uuid4().hex}" if is_alone else ""
        source_of = partial(self._source, topic, again)
        deliveries = RabbitMQDeliveries(broker, topic, source_of, max_in_flight=bound, again=again)
        broker.subscriptions.add(deliveries)
        try:
            try:
                async with asyncio.timeout(broker.settings.connect_timeout):
                    await deliveries.begin()
            except TimeoutError:
                raise BrokerConnectionError(
                    f"topic {topic!r} can't be received: {deliveries.problem or 'no answer'}"
                ) from None
            yield deliveries
        finally:
            broker.subscriptions.discard(deliveries)
            await asyncio.shield(deliveries.close())


def _prefetch(concurrency: int) -> int:
    """How many deliveries may be unsettled at once, where so many are handled."""
    return max(min(FETCHED_FOR_EACH * concurrency, ENOUGH), 2 * concurrency)
