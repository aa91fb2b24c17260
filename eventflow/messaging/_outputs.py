"""What a handler gives back, on its way to a broker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from eventflow._cause import current_cause, envelope
from eventflow.errors import RouterError
from eventflow.events import Event
from eventflow.messaging import metadata as meta
from eventflow.messaging.codec import message_of
from eventflow.messaging.message import Message

if TYPE_CHECKING:
    from eventflow.messaging._binding import Binding
    from eventflow.messaging.codec import Codec
    from eventflow.messaging.delivery import Delivery

__all__ = ("Outputs",)


class Outputs:
    """Publishes the outputs of one handler: confirmed before its message is acked.

    Attributes:
        are_looked_at: Whether what the handler returns means something. What a handler of
            events returns is ignored, as on the bus; a transform's is published.
    """

    def __init__(self, binding: Binding, codec: Codec) -> None:
        self._binding = binding
        self._codec = codec
        self.are_looked_at = binding.publisher is not None or binding.takes_message

    async def publish(self, given: object, delivery: Delivery) -> None:
        """Publish what a handler returned.

        Raises:
            RouterError: The handler has no publisher, or returned what can't be published.
            PublishError: As the publisher says.
        """
        name, publisher = self._binding.name, self._binding.publisher
        if publisher is None:
            raise RouterError(
                f"{name} returned {type(given).__name__}, and has nowhere to publish it: give "
                "add_handler(…, publisher=…, publish_topic=…), or return None"
            )
        by_topic: dict[str, list[Message]] = {}
        for output in self._each(given):
            topic, message = self._message(output, delivery)
            by_topic.setdefault(topic, []).append(message)
        for topic, messages in by_topic.items():
            await publisher.publish(topic, *messages)

    def _each(self, given: object) -> Iterable[object]:
        kind = type(given).__name__
        if isinstance(given, (Message, Event)):
            return (given,)
        if isinstance(given, Iterable):
            several = cast("Iterable[object]", given)
            if type(several) not in (str, bytes, dict):
                return several
        raise RouterError(
            f"{self._binding.name} returned {kind}; a transform returns messages, events, or None"
        )

    def _message(self, output: Any, delivery: Delivery) -> tuple[str, Message]:
        topic = self._binding.publish_topic
        if isinstance(output, Event):
            cause = current_cause.get()
            carried = None if cause is None else envelope(output, cause)
            message = message_of(output, carried, self._codec)
            topic = topic or output.topic
        elif isinstance(output, Message):
            message = self._caused(output, delivery)
        else:
            raise RouterError(
                f"{self._binding.name} returned {type(output).__name__} among its outputs; a "
                "transform returns messages or events"
            )
        if topic is None:
            raise RouterError(
                f"{self._binding.name} returned {type(output).__name__}, whose topic nobody names: "
                "give add_handler(…, publish_topic=…)"
            )
        return topic, message

    def _caused(self, message: Message, delivery: Delivery) -> Message:
        """Let correlation and causation follow, unless the message says otherwise."""
        original = delivery.message
        if message is original:
            return message
        causes = {
            meta.CORRELATION_ID: meta.read_id(original.metadata, meta.CORRELATION_ID)
            or original.id,
            meta.CAUSATION_ID: original.id,
        }
        return message.copy(metadata={**causes, **message.metadata})
