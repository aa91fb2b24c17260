"""Publishers and subscribers around others: for encryption, compression, metadata of one's own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from eventflow.errors import InvalidMessageError, InvalidOptionError
from eventflow.lifecycle.callables import is_async
from eventflow.messaging._unreadable import Unreadable
from eventflow.messaging.message import Message
from eventflow.messaging.protocols import Deliveries, Publisher, Subscriber, check_publisher

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.features import Features
    from eventflow.messaging.protocols import Group

__all__ = (
    "PublisherDecorator",
    "SubscriberDecorator",
    "innermost",
    "transform_published",
    "transform_received",
)


class PublisherDecorator:
    """A `Publisher` around another: passes everything on; a subclass changes what it wants to.

    The outermost one sees a message first.

    Args:
        publisher: The one inside.
    """

    def __init__(self, publisher: Publisher) -> None:
        self.inner = publisher

    def __repr__(self) -> str:
        """Its class, and what is inside."""
        return f"{type(self).__name__}({self.inner!r})"

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self.inner.features

    async def publish(self, topic: str, *messages: Message) -> None:
        """Store messages; see `Publisher.publish`."""
        await self.inner.publish(topic, *messages)

    async def prepare(self, topic: str) -> None:
        """Make sure that a topic can be published to; see `Publisher.prepare`."""
        await self.inner.prepare(topic)


class SubscriberDecorator:
    """A `Subscriber` around another: passes everything on; a subclass changes what it wants to.

    The innermost one sees a message first. Acks and nacks go to the backend as they are. Two
    decorators are equal if they have the same class, equal attributes, and equal subscribers
    inside. Handlers of a router that share a group's topic have to share the decorators too.

    Args:
        subscriber: The one inside.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        self.inner = subscriber

    def __repr__(self) -> str:
        """Its class, and what is inside."""
        return f"{type(self).__name__}({self.inner!r})"

    def __eq__(self, other: object) -> bool:
        """Whether both do the same around the same."""
        if type(self) is not type(other):
            return NotImplemented
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), self.inner))

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self.inner.features

    @property
    def group(self) -> Group:
        """The consumer group."""
        return self.inner.group

    def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AbstractAsyncContextManager[Deliveries]:
        """Receive a topic; see `Subscriber.subscribe`."""
        return self.inner.subscribe(topic, max_in_flight=max_in_flight, concurrency=concurrency)

    async def prepare(self, topic: str) -> None:
        """Let the group begin; see `Subscriber.prepare`."""
        await self.inner.prepare(topic)

    def required_topics(self, topic: str) -> tuple[str, ...]:
        """Topics that have to be there; see `Subscriber.required_topics`."""
        return self.inner.required_topics(topic)

    def publisher(self) -> Publisher:
        """The backend's own publisher: dead letters are stored as they came."""
        return self.inner.publisher()

    async def lag(self, topic: str) -> int:
        """How many messages the group has not settled; see `Subscriber.lag`."""
        return await self.inner.lag(topic)


def transform_published(
    publisher: Publisher, transform: Callable[[Message], Message]
) -> PublisherDecorator:
    """Return a publisher that passes every message through a function first.

    What the function raises comes out of `Publisher.publish`, and nothing was sent.

    Args:
        publisher: Where the messages go.
        transform: Returns the message to send; the one it gets is not to be changed.

    Example::

        signed = transform_published(broker.publisher(), sign)
        orders = BrokerEventPublisher(signed)

    Raises:
        InvalidOptionError: One of the two is not what it should be.
    """
    check_publisher(publisher)
    return _Transforming(publisher, _checked(transform))


def transform_received(
    subscriber: Subscriber, transform: Callable[[Message], Message]
) -> SubscriberDecorator:
    """Return a subscriber that passes every message through a function first.

    A message on which the function raises reaches no handler: a router dead-letters it at once,
    and goes on with the next. Dead letters keep the message as it was received.

    Args:
        subscriber: Where the messages come from.
        transform: Returns the message to handle; the one it gets is not to be changed.

    Example::

        checked = transform_received(broker.subscriber(group="receipts"), check)
        router.add_handler("receipts", OrderPlaced, send_receipt, subscriber=checked)

    Raises:
        InvalidOptionError: One of the two is not what it should be.
    """
    if not isinstance(subscriber, Subscriber):
        raise InvalidOptionError(
            "subscriber takes what broker.subscriber(group=…) returns, "
            f"not {type(subscriber).__name__}",
            option="subscriber",
        )
    return _TransformingSubscriber(subscriber, _checked(transform))


def _checked(transform: Callable[[Message], Message]) -> Callable[[Message], Message]:
    given: object = transform
    if not callable(given) or is_async(given):
        raise InvalidOptionError(
            f"transform takes a plain function from a message to one, not {transform!r}",
            option="transform",
        )
    return transform


def innermost(subscriber: Subscriber) -> Subscriber:
    """The backend's own subscriber, inside all decorators."""
    while isinstance(subscriber, SubscriberDecorator):
        subscriber = subscriber.inner
    return subscriber


class _Transforming(PublisherDecorator):
    def __init__(self, publisher: Publisher, transform: Callable[[Message], Message]) -> None:
        super().__init__(publisher)
        self.transform = transform

    async def publish(self, topic: str, *messages: Message) -> None:
        await self.inner.publish(topic, *[_apply(self.transform, m) for m in messages])


class _TransformingSubscriber(SubscriberDecorator):
    def __init__(self, subscriber: Subscriber, transform: Callable[[Message], Message]) -> None:
        super().__init__(subscriber)
        self.transform = transform

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AsyncGenerator[Deliveries]:
        async with self.inner.subscribe(
            topic, max_in_flight=max_in_flight, concurrency=concurrency
        ) as deliveries:
            yield _TransformedDeliveries(deliveries, self.transform)


class _TransformedDeliveries(Deliveries):
    def __init__(self, deliveries: Deliveries, transform: Callable[[Message], Message]) -> None:
        self._inner = deliveries
        self._transform = transform

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        received = await self._inner.receive(limit)
        for delivery in received:
            try:
                delivery.message = _apply(self._transform, delivery.message)
            except Exception as exc:  # noqa: BLE001 - the user's function
                # To raise here would end the subscription: the next one would get it again,
                # and fail again. So it goes on, and fails whoever wants to read it.
                delivery.message = Unreadable.instead_of(delivery.message, exc)
        return received

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    def has_more(self, until: float) -> bool:
        return self._inner.has_more(until)

    @property
    def problem(self) -> str:
        return self._inner.problem

    @property
    def lag(self) -> int | None:
        return self._inner.lag


def _apply(transform: Callable[[Message], Message], message: Message) -> Message:
    made: object = transform(message)
    if not isinstance(made, Message):
        raise InvalidMessageError(
            f"what transforms messages has to return one, not {type(made).__name__}"
        )
    return made
