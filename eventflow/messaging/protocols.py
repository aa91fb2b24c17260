"""What a backend implements. The docstrings are the contract; the contract suite tests them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from eventflow.errors import InvalidOptionError
from eventflow.events import validate_topic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.features import Features
    from eventflow.messaging.message import Message

__all__ = (
    "Broadcast",
    "Broker",
    "Deliveries",
    "Group",
    "Publisher",
    "Subscriber",
    "check_group",
    "check_publisher",
)


class Broadcast:
    """In the place of a group: every instance gets every message.

    Such a subscriber starts with what is published after it subscribed, and nothing is kept
    for it while it is away.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "Broadcast()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Broadcast)

    def __hash__(self) -> int:
        return hash(Broadcast)


Group = str | Broadcast
"""Name of a consumer group, or `Broadcast`."""


@runtime_checkable
class Publisher(Protocol):
    """Stores messages in a broker."""

    @property
    def features(self) -> Features:
        """What the backend can do."""
        ...

    async def publish(self, topic: str, *messages: Message) -> None:
        """Store messages; returns when the broker has confirmed all of them.

        * Stored as durably as the backend is configured to: see its page.
        * Messages of one call keep their order, and so do calls one after another, as far as
          `Features.order` goes. Several calls may run at once.
        * Not one transaction, unless `Features.atomic_publish`: an error says what became of
          each message. Publishing one that may be stored again may store it twice.
        * Cancelled: the messages that were not confirmed by then may be stored or not.
        * It ends within the publisher's deadline, 30 s by default, also while the broker is
          away, and nothing is stored after it said that it was not.
        * The publisher keeps no reference to the messages, and does not change them.

        Args:
            topic: Topic by eventflow's grammar; no pattern.
            messages: Any number; none does nothing.

        Raises:
            PublishError: Which messages are stored, which are not, which may be.
            PublishTimeoutError: The same, by the deadline.
            MessageTooLargeError: One is larger than the broker takes; nothing was sent.
            UnsupportedFeatureError: One has a delay or native headers, and the backend has no
                such thing; nothing was sent.
            InvalidTopicError: The topic is none; nothing was sent.
            BrokerClosedError: The broker is not open.
        """
        ...

    async def prepare(self, topic: str) -> None:
        """Make sure that a topic can be published to, where it has to exist before.

        Raises:
            BrokerError: It can't be.
        """
        ...


class Deliveries(ABC):
    """The messages of one topic as they come: an async iterator that ends when it is left.

    ``async for delivery in deliveries`` gives one after another. At most ``max_in_flight``
    deliveries are unsettled at once; the next comes only when one of them is settled.
    """

    @abstractmethod
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        """Wait for at least one delivery; return those that are there, up to ``limit``.

        * An empty sequence is the normal end: the subscription was left, by another task.
        * Cancelled: nothing is lost; what had been received is delivered by the next call, or
          given back.

        Raises:
            BrokerError: The subscription is broken. ``retriable`` says whether subscribing
                again may help; what was unsettled is given back.
        """

    @abstractmethod
    def pause(self) -> None:
        """Deliver nothing until `resume`; what is unsettled stays. Pausing twice is allowed."""

    @abstractmethod
    def resume(self) -> None:
        """Deliver again."""

    def has_more(self, until: float) -> bool:
        """Whether something may come before loop time ``until``, as far as is known at once.

        A router asks at a stop, where messages would not outlive the process: what has come by
        then is handled. A backend that can't tell leaves it at ``False``.
        """
        return False

    @property
    def problem(self) -> str:
        """Why nothing can come at present, as far as is known at once; empty if nothing is wrong.

        A router is not ready meanwhile. What is broken for good is raised by `receive` instead.
        """
        return ""

    @property
    def lag(self) -> int | None:
        """How many messages this member could still get, as far as was heard; settled ones not.

        ``None`` where nobody knows. `Subscriber.lag` asks the broker, for the whole group.
        """
        return None

    def __aiter__(self) -> Self:
        """The iterator is the object itself."""
        return self

    async def __anext__(self) -> Delivery:
        """The next delivery; see `receive`."""
        received = await self.receive(1)
        if not received:
            raise StopAsyncIteration
        return received[0]


@runtime_checkable
class Subscriber(Protocol):
    """Receives messages as a member of one consumer group.

    Two subscribers of one broker with one group are equal: they receive from the same place,
    and each message reaches one of them.
    """

    @property
    def features(self) -> Features:
        """What the backend can do."""
        ...

    @property
    def group(self) -> Group:
        """The consumer group, or `Broadcast`."""
        ...

    def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AbstractAsyncContextManager[Deliveries]:
        """Receive a topic for as long as the block lasts.

        * Entering returns when what is published from now on will be delivered.
        * A message is acked to the broker only after `Delivery.ack`.
        * Leaving flushes what was settled, and gives back what was not, to be delivered again
          at once to another member, without counting as a delivery where the backend can tell.
          It is bounded, also while a call of `Deliveries.receive` is blocked, and repeating it
          does no harm.
        * The same topic may be subscribed to any number of times.

        Args:
            topic: Topic by eventflow's grammar; no pattern.
            max_in_flight: Most deliveries that are unsettled at once; 1 or more. ``None``: the
                backend's own default, which is ``concurrency`` at least.
            concurrency: How many the caller handles at once.

        Raises:
            BrokerError: Subscribing failed.
            InvalidTopicError: The topic is none.
            InvalidOptionError: ``max_in_flight`` is below 1.
        """
        ...

    async def prepare(self, topic: str) -> None:
        """Make sure that the group gets what is published to a topic from now on.

        Whoever publishes before anybody subscribes calls this first, where it matters.

        Raises:
            BrokerError: It can't be.
        """
        ...

    def required_topics(self, topic: str) -> tuple[str, ...]:
        """Topics that have to be there to receive one: it first, then what waits beside it."""
        ...

    def publisher(self) -> Publisher:
        """A publisher to the same broker: dead letters go through it."""
        ...

    async def lag(self, topic: str) -> int:
        """How many messages of a topic the group has not settled.

        Raises:
            UnsupportedFeatureError: The backend can't tell.
        """
        ...


class Broker(ABC):
    """A connection to a broker: an async context manager that gives publishers and subscribers.

    They may be made before it is entered and work while it is open. Leaving it closes them:
    what was published is confirmed or refused, subscriptions end as if they were left. Leaving
    it twice does no harm. It can be entered again, and then they work again; a subscription
    from before stays ended.
    """

    @property
    @abstractmethod
    def features(self) -> Features:
        """What the backend can do."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BrokerConnectionError: The broker can't be reached.
            BrokerError: It is open already.
        """

    @abstractmethod
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close everything that was made of it, then disconnect."""

    async def ensure_topics(self, *topics: str) -> None:
        """Make the topics that there are not yet, where somebody has to make them.

        Where topics come into being by their use there is nothing to do. Repeating it does no
        harm. ``await broker.ensure_topics(*router.topics)`` makes those of a router.

        Raises:
            InvalidTopicError: One is none.
            BrokerError: They can't be made.
        """
        for topic in topics:
            validate_topic(topic)

    @abstractmethod
    def publisher(self) -> Publisher:
        """A publisher. All publishers of a broker may share one connection."""

    @abstractmethod
    def subscriber(self, *, group: Group) -> Subscriber:
        """A member of a consumer group.

        Args:
            group: Name of the group: its members share the messages. `Broadcast` gives every
                instance every message.

        Raises:
            InvalidOptionError: The group is empty.
        """


def check_publisher(publisher: object) -> Publisher:
    """Return a publisher, or say that it is none.

    Raises:
        InvalidOptionError: It can't publish messages.
    """
    if not isinstance(publisher, Publisher):
        raise InvalidOptionError(
            f"publisher takes what broker.publisher() returns, not {type(publisher).__name__}",
            option="publisher",
        )
    return publisher


def check_group(group: object) -> Group:
    """Return a group, or say what is wrong with it.

    Raises:
        InvalidOptionError: It is empty, or neither a text nor `Broadcast`.
    """
    if isinstance(group, Broadcast):
        return group
    if not isinstance(group, str) or not group or not group.isprintable():
        raise InvalidOptionError(
            f"group must be a printable text of one character or more, not {group!r}: without a "
            "group every instance of a service would handle every message. Name the group that "
            "shares the messages, or say group=Broadcast() where every instance should get them",
            option="group",
        )
    return group
