"""Where messages of a topic go, and where a group gets them: exchanges, queues and bindings.

Three presets, as Watermill has them: `PubSub`, `WorkQueue` and `Topics`. Each is quorum queues with
dead letters by default, and with ``queue_type="classic"`` exactly what Watermill declares.

A queue is declared before what its dead letters go to: where it is refused, nothing stays behind.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from eventflow._texts import is_text
from eventflow.errors import InvalidOptionError, InvalidTopicError
from eventflow.messaging import Broadcast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventflow.messaging import Group

__all__ = (
    "Binding",
    "Exchange",
    "Part",
    "PubSub",
    "Queue",
    "Route",
    "Source",
    "Topics",
    "Topology",
    "WorkQueue",
    "check_topology",
)

MAX_NAME = 255
"""Most bytes of a name in AMQP."""
MAX_EXCHANGE = 127
"""Most characters of an exchange's name that the client library writes."""
CHARACTERS = "letters a to z, digits, blanks and - _ . : @ # , / +"
"""Those of names of exchanges and queues that it writes; routing keys may have any."""
_WRITTEN = re.compile(r"[A-Za-z0-9_.:@#,/+ -]*", re.ASCII)
KINDS = ("fanout", "direct", "topic", "headers")
"""Of exchanges, that each server has."""
DEAD_LETTERS = "dead_letter"
DELIVERY_LIMIT = 1_000
"""Deliveries after which RabbitMQ itself dead-letters: far beyond what a router allows."""
NO_LIMIT = 1_000_000_000
"""Of deliveries, where nothing stands behind a queue: servers drop a message after 20 since 4.0."""
BOUNDS = frozenset({"x-max-length", "x-max-length-bytes"})

QueueType = Literal["quorum", "classic"]


def _nothing() -> Mapping[str, str | int | bool]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange as it is declared.

    Attributes:
        name: Its name.
        kind: ``"fanout"``, ``"direct"``, ``"topic"`` or ``"headers"``; a plugin's begins with
            ``x-``.
        durable: Whether it outlives a restart of the server.
        must_exist: Whether it has to be there, with whatever properties; it is not made.
        arguments: Further ones.
    """

    name: str
    kind: str = "fanout"
    durable: bool = True
    must_exist: bool = False
    arguments: Mapping[str, str | int | bool] = field(default_factory=_nothing, hash=False)

    def __post_init__(self) -> None:
        _checked(self.name)
        if not self.must_exist:  # its name is somebody else's, and is found when it is looked for
            _check_written("an exchange", self.name, most=MAX_EXCHANGE)
        if self.kind not in KINDS and not self.kind.startswith("x-"):
            raise InvalidOptionError(
                f"kind of an exchange is one of {', '.join(KINDS)}, or begins with x-, as those of "
                f"plugins do; not {self.kind!r}",
                option="kind",
            )
        _check_flags(durable=self.durable, must_exist=self.must_exist)
        _check_arguments(self.arguments)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as it is declared.

    Attributes:
        name: Its name.
        durable: Whether it outlives a restart of the server.
        exclusive: Whether it is for one connection, and goes with that.
        arguments: Further ones, such as ``x-queue-type``.
    """

    name: str
    durable: bool = True
    exclusive: bool = False
    arguments: Mapping[str, str | int | bool] = field(default_factory=_nothing, hash=False)

    def __post_init__(self) -> None:
        _check_written("a queue", self.name)
        _check_flags(durable=self.durable, exclusive=self.exclusive)
        _check_arguments(self.arguments)

    @property
    def drops(self) -> bool:
        """Whether it throws the oldest away when it is full, which nobody learns."""
        is_bounded = not BOUNDS.isdisjoint(self.arguments)
        return is_bounded and self.arguments.get("x-overflow", "drop-head") == "drop-head"


@dataclass(frozen=True, slots=True)
class Binding:
    """What has an exchange give messages to a queue.

    Attributes:
        queue: The queue.
        exchange: The exchange.
        routing_key: Which of its messages.
    """

    queue: str
    exchange: str
    routing_key: str = ""

    def __post_init__(self) -> None:
        _check_written("a queue", self.queue)
        _check_written("an exchange", self.exchange)
        _checked(self.routing_key)


Part = Exchange | Queue | Binding
"""What can be declared; in the order in which it has to be."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a publisher sends the messages of a topic.

    Attributes:
        exchange: The exchange; empty for the default one.
        routing_key: The routing key.
        must_arrive: Whether it is an error when no queue gets one; else it is counted.
        parts: What is declared before.
        texts_only: Whether headers of other types go as texts. Watermill's reader asks for a
            message with any other one again at once, for ever.
    """

    exchange: str
    routing_key: str = ""
    must_arrive: bool = False
    parts: tuple[Part, ...] = ()
    texts_only: bool = False

    def __post_init__(self) -> None:
        _checked(self.exchange)
        _checked(self.routing_key)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the members of a group get the messages of a topic.

    Attributes:
        queue: The queue.
        parts: What is declared before.
        counts: Whether the server counts deliveries, as quorum queues do.
    """

    queue: str
    parts: tuple[Part, ...] = ()
    counts: bool = False

    def __post_init__(self) -> None:
        _check_written("a queue", self.queue)


@runtime_checkable
class Topology(Protocol):
    """What a preset answers. Any object that does is a topology: a builder for the rest."""

    @property
    def has_groups(self) -> bool:
        """Whether each group gets every message; else all receivers share them."""
        ...

    def route(self, topic: str) -> Route:
        """Where a publisher sends a topic's messages."""
        ...

    def source(self, topic: str, group: Group) -> Source:
        """Where a group gets a topic's messages."""
        ...

    def keeping(self, topic: str) -> Route:
        """Where a topic's messages go that are to be kept though nobody receives them yet.

        Dead letters are published so.
        """
        ...


def check_topology(value: object) -> Topology:
    """Return a topology, or say what is wrong with it.

    Raises:
        InvalidOptionError: It is none, or a class.
    """
    if isinstance(value, type):
        raise InvalidOptionError(
            f"topology is an object, not the class {value.__name__}: call it, as in PubSub()",
            option="topology",
        )
    if not isinstance(value, Topology):
        raise InvalidOptionError(
            "topology is PubSub(), WorkQueue(), Topics(…), or an object with their methods",
            option="topology",
        )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queues:
    """How the queues of a preset are made.

    Args:
        queue_type: ``"quorum"``: replicated, and the server counts deliveries. ``"classic"``:
            as Watermill declares them, for topics that are shared with it, and every header that
            is published is a text.
        single_active_consumer: Whether one receiver at a time gets all of a queue's messages,
            and another takes over when it goes: order, without several at once.
    """

    queue_type: QueueType = "quorum"
    single_active_consumer: bool = False

    def __post_init__(self) -> None:
        if self.queue_type not in ("quorum", "classic"):
            raise InvalidOptionError(
                f'queue_type is "quorum" or "classic", not {self.queue_type!r}',
                option="queue_type",
            )
        _check_flags(single_active_consumer=self.single_active_consumer)

    def queue(self, name: str, dead_letters: str = "") -> Queue:
        """A queue of this kind."""
        arguments: dict[str, str | int | bool] = {}
        if self.single_active_consumer:
            arguments["x-single-active-consumer"] = True
        if self.queue_type == "quorum":
            arguments["x-queue-type"] = "quorum"
            if not dead_letters:
                arguments["x-delivery-limit"] = NO_LIMIT
            else:
                arguments |= {
                    "x-delivery-limit": DELIVERY_LIMIT,
                    "x-dead-letter-exchange": dead_letters,
                    # The usual strategy may lose what it moves.
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                }
        return Queue(_checked(name), arguments=MappingProxyType(arguments))

    @property
    def counts(self) -> bool:
        """Whether the server counts deliveries."""
        return self.queue_type == "quorum"

    @property
    def texts_only(self) -> bool:
        """Whether headers of other types are published as texts."""
        return self.queue_type == "classic"


@dataclass(frozen=True, slots=True, kw_only=True)
class PubSub(_Queues):
    """Each group gets every message: a fanout exchange a topic, a queue a group.

    The exchange is named like the topic, the queue ``<topic>_<group>``. A group gets what is
    published from when its queue was first declared. Nobody learns whether anybody listens: a
    message that reaches no queue is counted, and logged.

    Args:
        queue_type: ``"quorum"``, or ``"classic"`` to share the topic with Watermill, whose durable
            pub/sub preset this is, then.
        single_active_consumer: Whether one member of a group at a time gets all messages.
    """

    @property
    def has_groups(self) -> bool:
        """Each group gets every message."""
        return True

    def route(self, topic: str) -> Route:
        """To the exchange of the topic."""
        exchange = Exchange(_checked(topic))
        return Route(topic, parts=(exchange,), texts_only=self.texts_only)

    def source(self, topic: str, group: Group) -> Source:
        """The group's queue; for `Broadcast` one that goes with the connection."""
        exchange = Exchange(_checked(topic))
        if isinstance(group, Broadcast):
            return _own(topic, exchange, "")
        name = f"{topic}_{group}"
        if self.queue_type == "classic":
            queue = self.queue(name)
            return Source(name, (exchange, queue, Binding(name, topic)))
        letters = _kept(f"{topic}.{DEAD_LETTERS}", self.queue_type)
        queue = self.queue(name, letters.exchange)
        parts = (exchange, queue, *letters.parts, Binding(name, topic))
        return Source(name, parts, counts=True)

    def keeping(self, topic: str) -> Route:
        """To the exchange of the topic, with a queue of the same name."""
        return _kept(topic, self.queue_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkQueue(_Queues):
    """All receivers share the messages: a queue named like the topic, and no groups.

    A publisher names the queue, so that a message that reaches none is an error.

    Args:
        queue_type: ``"quorum"``, or ``"classic"`` to share the queue with Watermill, whose durable
            queue preset this is, then.
        single_active_consumer: Whether one receiver at a time gets all messages.
    """

    @property
    def has_groups(self) -> bool:
        """All receivers share the messages."""
        return False

    def route(self, topic: str) -> Route:
        """To the queue, by the default exchange."""
        parts = self.source(topic, "").parts
        return Route("", topic, must_arrive=True, parts=parts, texts_only=self.texts_only)

    def source(self, topic: str, group: Group) -> Source:
        """The queue, whoever receives it."""
        if isinstance(group, Broadcast):
            raise InvalidOptionError(
                "receivers of a WorkQueue share its messages: Broadcast() needs PubSub or Topics",
                option="group",
            )
        if self.queue_type == "classic" or topic.endswith(f".{DEAD_LETTERS}"):
            return Source(topic, (self.queue(topic),), counts=self.counts)
        letters = f"{topic}.{DEAD_LETTERS}"
        kept = _kept(letters, self.queue_type)
        return Source(topic, (self.queue(topic, letters), *kept.parts), counts=True)

    def keeping(self, topic: str) -> Route:
        """To the queue of that name."""
        return self.route(topic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics(_Queues):
    """One exchange for many topics, which routes by their names.

    Each group gets every message, as with `PubSub`; other programs can bind to many topics at
    once, by patterns. A message that reaches no queue is counted, and logged.

    Args:
        exchange: Name of the exchange.
        durable: Whether it outlives a restart of the server. Watermill's preset does not.
        queue_type: ``"quorum"``, or ``"classic"``, as Watermill has them.
        single_active_consumer: Whether one member of a group at a time gets all messages.
    """

    exchange: str = "eventflow"
    durable: bool = True

    def __post_init__(self) -> None:
        _Queues.__post_init__(self)
        _check_flags(durable=self.durable)
        if not (_WRITTEN.fullmatch(self.exchange) and 0 < len(self.exchange) <= MAX_EXCHANGE):
            raise InvalidOptionError(
                f"exchange is a name of 1 to {MAX_EXCHANGE} characters: {CHARACTERS}",
                option="exchange",
            )

    @property
    def has_groups(self) -> bool:
        """Each group gets every message."""
        return True

    @property
    def _declared(self) -> Exchange:
        return Exchange(self.exchange, "topic", durable=self.durable)

    def route(self, topic: str) -> Route:
        """To the exchange, under the topic's name."""
        parts = (self._declared,)
        return Route(self.exchange, _checked(topic), parts=parts, texts_only=self.texts_only)

    def source(self, topic: str, group: Group) -> Source:
        """The group's queue; for `Broadcast` one that goes with the connection."""
        if isinstance(group, Broadcast):
            return _own(topic, self._declared, topic)
        name = f"{topic}_{group}"
        binding = Binding(name, self.exchange, topic)
        if self.queue_type == "classic":
            return Source(name, (self._declared, self.queue(name), binding))
        letters = _kept(f"{topic}.{DEAD_LETTERS}", self.queue_type)
        queue = self.queue(name, letters.exchange)
        return Source(name, (self._declared, queue, *letters.parts, binding), counts=True)

    def keeping(self, topic: str) -> Route:
        """To an exchange and a queue of the topic's name."""
        return _kept(topic, self.queue_type)


def _kept(topic: str, queue_type: QueueType) -> Route:
    """An exchange with a queue, both of one name; alike in all presets, as they may share it."""
    kind = _Queues(queue_type=queue_type)
    parts = (Exchange(topic), kind.queue(topic), Binding(topic, topic))
    return Route(topic, must_arrive=True, parts=parts, texts_only=kind.texts_only)


def _own(topic: str, exchange: Exchange, routing_key: str) -> Source:
    """The queue of one instance."""
    name = _checked(f"{topic}_{uuid.uuid4().hex}")
    queue = Queue(name, durable=False, exclusive=True)
    return Source(name, (exchange, queue, Binding(name, exchange.name, routing_key)))


def _checked(name: str) -> str:
    if name.isascii() and len(name) <= MAX_NAME:
        return name
    if not is_text(name):
        raise InvalidTopicError(f"no UTF-8 stands for the name {name!r}", topic=name)
    if len(name.encode()) > MAX_NAME:
        raise InvalidTopicError(
            f"a name in RabbitMQ has at most {MAX_NAME} bytes, and {name[:32]!r}… has more",
            topic=name,
        )
    return name


def _check_written(what: str, name: str, *, most: int = MAX_NAME) -> None:
    """Refuse a name that AMQP has, and the client library does not write."""
    _checked(name)
    if _WRITTEN.fullmatch(name) is None:
        raise InvalidTopicError(
            f"{what} can't be named {name!r}: its name is made of {CHARACTERS}. Choose another "
            "topic or group",
            topic=name,
        )
    if len(name) > most:
        raise InvalidTopicError(
            f"the name of {what} has at most {most} characters, and {name[:32]!r}… has more",
            topic=name,
        )


def _check_flags(**given: object) -> None:
    for option, value in given.items():
        if not isinstance(value, bool):
            raise InvalidOptionError(f"{option} is True or False, not {value!r}", option=option)


def _check_arguments(arguments: Mapping[str, str | int | bool]) -> None:
    for name, value in arguments.items():
        _checked(name)
        of: object = value
        if not (is_text(of) or (isinstance(of, int) and -(2**63) <= of < 2**63)):
            raise InvalidOptionError(
                f"the argument {name!r} is a text, a number of 64 bits, or true or false",
                option="arguments",
            )
