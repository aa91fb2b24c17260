"""Between events and messages: a codec for the body, and the metadata beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from eventflow._cause import Envelope, Undecoded
from eventflow._texts import is_text
from eventflow.errors import InvalidMessageError, InvalidOptionError
from eventflow.events import Event, event_name
from eventflow.messaging import metadata as meta
from eventflow.messaging.message import Message

if TYPE_CHECKING:
    from eventflow.messaging.delivery import Delivery

__all__ = ("Codec", "JsonCodec", "Received", "check_codec", "message_of")

E = TypeVar("E", bound=Event)


class Codec(Protocol):
    """Bytes of an event, and back; the default is `JsonCodec`, which Watermill's services read."""

    def encode(self, event: Event) -> bytes:
        """Return the body of an event.

        Raises:
            EventEncodeError: It has none.
        """
        ...

    def decode(
        self, event_class: type[E], body: bytes, *, event_id: str, occurred_at: str | None
    ) -> E:
        """Return the event that a body stands for.

        Args:
            event_class: Class of the event; chosen by the metadata's ``name``, and only among
                the classes bound to the reader.
            body: The body.
            event_id: Id of the message, which becomes the event's.
            occurred_at: The event's time as it came along, for `Event.from_json`.

        Raises:
            EventDecodeError: The body is not this event. Whatever else it raises is treated
                like it.
        """
        ...


class JsonCodec:
    """The event's own JSON: `Event.to_json` and `Event.from_json`."""

    __slots__ = ()

    def encode(self, event: Event) -> bytes:
        """Return the event's JSON."""
        return event.to_json()

    def decode(
        self, event_class: type[E], body: bytes, *, event_id: str, occurred_at: str | None
    ) -> E:
        """Return the event that the JSON stands for."""
        return event_class.from_json(body, event_id=event_id, occurred_at=occurred_at)


def check_codec(codec: object) -> Codec:
    """Return a codec, or say that it is none.

    Raises:
        InvalidOptionError: It can't encode and decode.
    """
    if isinstance(codec, type) or not all(
        callable(getattr(codec, method, None)) for method in ("encode", "decode")
    ):
        raise InvalidOptionError(
            f"codec takes an object with encode and decode, such as JsonCodec(), not {codec!r}",
            option="codec",
        )
    return cast("Codec", codec)


class Received(Envelope):
    """An event that came as a message, with its delivery.

    What came along with it is read when somebody asks.
    """

    __slots__ = ("delivery",)

    def __init__(self, delivery: Delivery) -> None:
        event: Any = delivery.event
        if event is None:
            event = Undecoded(delivery.message.id, delivery.topic)
        self.event = event
        self.delivery = delivery
        self.receipt = None

    if not TYPE_CHECKING:

        @property
        def correlation(self) -> str | None:
            """Id of the first cause."""
            return meta.read_id(self.delivery.message.metadata, meta.CORRELATION_ID)

        @property
        def causation(self) -> str | None:
            """Id of what its publisher was handling."""
            return meta.read_id(self.delivery.message.metadata, meta.CAUSATION_ID)

        @property
        def metadata(self) -> dict[str, str] | None:
            """What its publisher added."""
            return meta.custom(self.delivery.message.metadata) or None


def message_of(
    event: Event, envelope: Envelope | None, codec: Codec, *, key: str | None = None
) -> Message:
    """Return the message that stands for an event.

    Its id is the event's. Its metadata are Watermill's ``name`` and ``correlation_id``, the time
    and the cause, and what `eventflow.publishing` added.
    """
    texts: dict[str, str] = {}
    correlation: Event | str | None = None
    causation: Event | str | None = None
    if envelope is not None:
        if envelope.metadata:
            texts.update(envelope.metadata)
        correlation, causation = envelope.correlation, envelope.causation
    texts[meta.NAME] = event_name(event)
    texts[meta.OCCURRED_AT] = meta.format_time(event.occurred_at)
    texts[meta.CORRELATION_ID] = _id(correlation) or event.id
    if causation is not None:
        texts[meta.CAUSATION_ID] = _id(causation) or ""
    if key is not None and not is_text(key):
        raise InvalidMessageError(f"the key of a message is a text, not {key!r}")
    return Message.received(event.id, codec.encode(event), texts, key=key)


def _id(source: Event | str | None) -> str | None:
    return source if source is None or isinstance(source, str) else source.id
