"""A handler, what it reads, and how it is run: checked when it is said, started with the router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from eventflow.errors import InvalidHandlerError, InvalidOptionError, InvalidTopicError
from eventflow.events import Event, validate_topic
from eventflow.failure import DeadLetter
from eventflow.lifecycle.callables import check_handler
from eventflow.messaging._options import Options
from eventflow.messaging.protocols import Publisher, Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventflow.failure import FailurePolicy

__all__ = ("Binding",)


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """A handler of a router.

    Attributes:
        name: Its name.
        handler: The handler.
        events: Classes it takes; empty for one that takes messages as they come.
        topics: Topics it reads.
        subscriber: How it reads them.
        publisher: Where its outputs go; ``None``: it has none.
        publish_topic: Topic of its outputs; ``None``: that of each event.
        options: How it is run.
    """

    name: str
    handler: Callable[..., Any]
    events: tuple[type[Event], ...]
    topics: tuple[str, ...]
    subscriber: Subscriber
    publisher: Publisher | None
    publish_topic: str | None
    options: Options

    @property
    def takes_message(self) -> bool:
        """Whether the handler gets messages, not events."""
        return not self.events

    @property
    def dead_letters(self) -> DeadLetter:
        """Where its dead letters go."""
        then = self.options.on_failure.then
        return then if isinstance(then, DeadLetter) else DeadLetter()

    @classmethod
    def check(
        cls,
        name: str,
        source: object,
        handler: Callable[..., Any],
        *,
        subscriber: object,
        publisher: object,
        publish_topic: str | None,
        options: Mapping[str, object],
        default_policy: FailurePolicy,
    ) -> Binding:
        """A binding, or a `ConfigurationError` that says what is wrong with it."""
        checked = Options.check(options, default_policy=default_policy)
        events, topics = _source(source)
        what = "batch" if checked.batch else "event" if events else "message"
        check_handler(
            handler, arguments=(what,) if checked.resources is None else (what, "resource")
        )
        if not isinstance(subscriber, Subscriber):
            raise InvalidOptionError(
                "subscriber takes what broker.subscriber(group=…) returns, "
                f"not {type(subscriber).__name__}",
                option="subscriber",
            )
        if checked.batch and subscriber.features.transactional:
            raise InvalidOptionError(
                f"{name}: nobody could tell which output of a batch belongs to which message: with "
                "transactional=True, a handler takes one message at a time",
                option="batch",
            )
        if checked.order == "partition":
            subscriber.features.require("partitions")
        if publisher is None and publish_topic is not None:
            raise InvalidOptionError(
                "publish_topic has a meaning only with publisher=", option="publish_topic"
            )
        if publisher is not None and not isinstance(publisher, Publisher):
            raise InvalidOptionError(
                f"publisher takes what broker.publisher() returns, not {type(publisher).__name__}",
                option="publisher",
            )
        if checked.batch and publisher is not None:
            raise InvalidHandlerError(
                f"{name}: a batch handler has no outputs; publish them in the handler"
            )
        if publish_topic is not None:
            validate_topic(publish_topic)
        for topic in topics:
            letters = _dead(checked)
            if validate_topic(letters.topic_for(topic)) == topic and letters.publisher is None:
                raise InvalidOptionError(
                    f"{name}: dead letters of {topic!r} would go to {topic!r}, and come back: give "
                    "DeadLetter another topic",
                    option="on_failure",
                )
        return cls(name, handler, events, topics, subscriber, publisher, publish_topic, checked)


def _dead(options: Options) -> DeadLetter:
    then = options.on_failure.then
    return then if isinstance(then, DeadLetter) else DeadLetter()


def _source(source: object) -> tuple[tuple[type[Event], ...], tuple[str, ...]]:
    """Classes and topics that a handler is bound to."""
    if isinstance(source, str):
        return (), (validate_topic(source),)
    several = isinstance(source, (tuple, list))
    given = tuple(cast("tuple[object, ...]", source)) if several else (source,)
    classes: list[type[Event]] = []
    for event in given:
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise InvalidTopicError(
                f"a handler is bound to a subclass of Event, several, or a topic, not {event!r}"
            )
        if event.topic is None:
            raise InvalidTopicError(
                f"{event.__name__} is a base without a topic, and a broker can't be asked for its "
                "subclasses: name them, as in add_handler(name, (OrderPlaced, OrderPaid), …), or "
                "in include(…, events=[…])"
            )
        classes.append(event)
    if not classes:
        raise InvalidTopicError("a handler is bound to one event class or more")
    return tuple(classes), tuple(dict.fromkeys(event.topic or "" for event in classes))
