"""`BrokerEventPublisher`: what a service publishes through when others listen elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from eventflow._cause import current_cause, envelope
from eventflow._texts import check_texts
from eventflow.errors import EventDefinitionError, InvalidOptionError, UnknownEventError
from eventflow.events import Event, event_name
from eventflow.lifecycle.options import check_seconds
from eventflow.messaging import metadata as meta
from eventflow.messaging.codec import Codec, JsonCodec, check_codec, message_of
from eventflow.messaging.protocols import check_publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from eventflow.messaging.protocols import Publisher

__all__ = ("BrokerEventPublisher",)

LONGEST_DELAY_S = 315_360_000
"""Ten years."""


class BrokerEventPublisher:
    """An `eventflow.EventPublisher` whose events go to a broker.

    Args:
        publisher: Where they go.
        events: The classes it publishes, as documentation and as a check: another class is
            refused. ``None``: any.
        key: Gives the key of an event, by which order is kept. Default: no key.
        codec: How events become bytes. Default: their JSON.

    Example::

        orders = BrokerEventPublisher(broker.publisher(), events=[OrderPlaced])
        await orders.publish(OrderPlaced(order_id="A-1", amount_cents=1250))
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        events: Iterable[type[Event]] | None = None,
        key: Callable[[Any], str | None] | None = None,
        codec: Codec | None = None,
    ) -> None:
        check_publisher(publisher)
        if key is not None and not callable(key):
            raise InvalidOptionError(f"key takes a function of an event, not {key!r}", option="key")
        self._publisher = publisher
        self._events = None if events is None else tuple(_checked(event) for event in events)
        self._key = key
        self._codec = JsonCodec() if codec is None else check_codec(codec)

    @property
    def events(self) -> tuple[type[Event], ...] | None:
        """The classes it publishes; ``None``: any."""
        return self._events

    async def publish(
        self,
        event: Event,
        *,
        key: str | None = None,
        delay: float = 0.0,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Publish one event; returns when the broker has confirmed it.

        Inside a handler, correlation and causation follow by themselves. Who should know nothing
        of brokers calls it with the event alone, as any `eventflow.EventPublisher`.

        Args:
            event: An event whose class has a topic.
            key: Of this publication, in the place of what ``key=`` of the publisher gives.
            delay: Seconds after which it is delivered, at the earliest; rounded up to a whole
                second, at most ten years. Needs `Features.publish_delay`.
            metadata: Custom texts, in addition to those of `eventflow.publishing`, which says
                what they may be.

        Raises:
            UnknownEventError: The class is not among ``events``.
            EventDefinitionError: Not an event, or of a class without a topic.
            EventEncodeError: The event has no body.
            InvalidOptionError: A delay or metadata that can't be.
            InvalidMessageError: A key that is no text.
            UnsupportedFeatureError: A delay that the backend can't keep.
            PublishError: See `eventflow.messaging.Publisher.publish`.
        """
        topic = _checked(type(event)).topic
        if self._events is not None and not isinstance(event, self._events):
            raise UnknownEventError(
                f"{type(event).__name__} is not among the events that this publisher declares: "
                f"{', '.join(declared.__name__ for declared in self._events)}",
                topic=topic or "",
                message_id=event.id,
                name=event_name(event),
            )
        cause = current_cause.get()
        carried = None if cause is None else envelope(event, cause)
        if key is None and self._key is not None:
            key = self._key(event)
        message = message_of(event, carried, self._codec, key=key)
        if metadata is not None:
            message = message.copy(metadata={**message.metadata, **check_texts(metadata)})
        if delay:
            check_seconds("delay", delay)
            if delay > LONGEST_DELAY_S:
                raise InvalidOptionError(
                    f"delay is at most {LONGEST_DELAY_S:,} s, not {delay!r}", option="delay"
                )
            self._publisher.features.require("publish_delay")
            texts = meta.delay_metadata(delay, now=datetime.now(UTC))
            message = message.copy(metadata={**message.metadata, **texts})
        await self._publisher.publish(topic or "", message)


def _checked(event: object) -> type[Event]:
    if not (isinstance(event, type) and issubclass(event, Event)):
        raise EventDefinitionError(f"only events are published, not {event!r}")
    if event.topic is None:
        raise EventDefinitionError(
            f"{event.__name__} has no topic, so it is a base and can't be published; publish one "
            f"of its subclasses, or declare it as class {event.__name__}(…, topic='…')",
            event=event.__name__,
        )
    return event
