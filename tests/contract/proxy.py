"""A broker in front of another one, which does the same: what a fault is planted in."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import SettleError
from eventflow.messaging import (
    Broker,
    Deliveries,
    Delivery,
    Features,
    Group,
    Message,
    Publisher,
    SettlementState,
    Subscriber,
)
from tests.contract.full import ROOM

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence
    from types import TracebackType

TIMEOUT = 3.0

Messages = tuple[Message, ...]


class ProxyBroker(Broker):
    """Hands everything on. A fault is a subclass of it, or of one of the parts it names."""

    def __init__(self) -> None:
        self.inner: Broker = MemoryBroker(
            capacity=ROOM, publish_timeout=TIMEOUT, max_payload_bytes=65_536
        )
        self.open: set[ProxyDeliveries] = set()
        self.dead: set[str] = set()
        self.is_preparing = False

    @property
    def features(self) -> Features:
        return self.inner.features

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for deliveries in [*self.open]:
            deliveries.left()
        await self.inner.__aexit__(exc_type, exc, traceback)

    def publisher(self) -> ProxyPublisher:
        return ProxyPublisher(self, self.inner.publisher())

    def subscriber(self, *, group: Group) -> ProxySubscriber:
        return ProxySubscriber(self, self.inner.subscriber(group=group))

    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return ProxyDeliveries(self, inner)

    # What a fault changes.

    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        await publisher.publish(topic, *self.changed(messages))

    def changed(self, messages: Messages) -> Iterable[Message]:
        """What is stored of the messages of a call."""
        return messages

    def arrived(self, inner: Delivery, outer: Delivery) -> None:
        """A delivery is on its way to the reader."""

    def ack(self, inner: Delivery) -> bool:
        return inner.ack()

    def nack(self, inner: Delivery, *, delay: float, failures: int | None) -> bool:
        return inner.nack(delay=delay, failures=failures)

    def release(self, inner: Delivery, *, delay: float) -> bool:
        return inner.release(delay=delay)


class ProxyPublisher:
    def __init__(self, broker: ProxyBroker, inner: Publisher) -> None:
        self.broker = broker
        self.inner = inner

    @property
    def features(self) -> Features:
        return self.broker.features

    async def publish(self, topic: str, *messages: Message) -> None:
        await self.broker.publish(self.inner, topic, messages)

    async def prepare(self, topic: str) -> None:
        await self.inner.prepare(topic)


class ProxySubscriber:
    def __init__(self, broker: ProxyBroker, inner: Subscriber) -> None:
        self.broker = broker
        self.inner = inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProxySubscriber) and self.inner == other.inner

    def __hash__(self) -> int:
        return hash(self.inner)

    @property
    def features(self) -> Features:
        return self.broker.features

    @property
    def group(self) -> Group:
        return self.inner.group

    def required_topics(self, topic: str) -> tuple[str, ...]:
        return self.inner.required_topics(topic)

    def publisher(self) -> ProxyPublisher:
        return self.broker.publisher()

    async def prepare(self, topic: str) -> None:
        await self.inner.prepare(topic)

    async def lag(self, topic: str) -> int:
        return await self.inner.lag(topic)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AsyncGenerator[Deliveries]:
        async with self.inner.subscribe(
            topic, max_in_flight=max_in_flight, concurrency=concurrency
        ) as inner:
            deliveries = self.broker.deliveries(inner)
            self.broker.open.add(deliveries)
            try:
                yield deliveries
            finally:
                deliveries.left()


class ProxyDeliveries(Deliveries):
    made: type[Delivery] = Delivery

    def __init__(self, broker: ProxyBroker, inner: Deliveries) -> None:
        self.broker = broker
        self.inner = inner
        self.unsettled: dict[Delivery, Delivery] = {}

    @property
    def features(self) -> Features:
        return self.broker.features

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        return [self.outer(inner) for inner in await self.inner.receive(limit)]

    def outer(self, inner: Delivery) -> Delivery:
        outer = self.made(
            inner.message,
            topic=inner.topic,
            settler=self,
            headers=inner.headers,
            deliveries=inner.deliveries,
            failures=inner.failures,
            lane=inner.lane,
            coordinates=inner.coordinates,
        )
        self.unsettled[outer] = inner
        self.broker.arrived(inner, outer)
        return outer

    def settle(self, delivery: Delivery) -> None:
        inner = self.unsettled.pop(delivery)
        if delivery.state is SettlementState.ACKED:
            took = self.broker.ack(inner)
        elif delivery.state is SettlementState.RELEASED:
            took = self.broker.release(inner, delay=delivery.nack_delay)
        else:
            took = self.broker.nack(
                inner, delay=delivery.nack_delay, failures=delivery.nack_failures
            )
        if took:
            delivery.confirmed()
        else:
            delivery.lost(SettleError("too late", message_id=delivery.message.id))

    def pause(self) -> None:
        self.inner.pause()

    def resume(self) -> None:
        self.inner.resume()

    def left(self) -> None:
        self.broker.open.discard(self)
        for delivery in self.unsettled:
            delivery.lost()
        self.unsettled.clear()
