"""`KafkaPublisher`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from confluent_kafka import KafkaError, KafkaException

from eventflow.brokers.kafka._errors import NOT_FOUND, NOT_STORED, code_name
from eventflow.brokers.kafka._producer import Call
from eventflow.brokers.kafka._wire import headers_of, key_bytes
from eventflow.errors import (
    InvalidMessageError,
    MessageTooLargeError,
    PublishError,
    PublishTimeoutError,
)
from eventflow.messaging import Message
from eventflow.messaging.metadata import DELAYED_UNTIL

if TYPE_CHECKING:
    from eventflow.brokers.kafka._producer import ProducerThread
    from eventflow.brokers.kafka._wire import Headers
    from eventflow.brokers.kafka.broker import KafkaBroker
    from eventflow.messaging import Features

__all__ = ("KafkaPublisher",)

MAX_EXTRAS = 32_768
"""Most bytes of key, id, metadata and headers together; what dead letters add fits beside them."""

_TIMED_OUT = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._PURGE_QUEUE})


class KafkaPublisher:
    """Stores messages in Kafka: acknowledged by all replicas in sync, in order, and once.

    Once as far as the broker sees it: what is published again, because the caller did not get
    an answer, is another record. All publishers of a broker share one connection.
    """

    def __init__(self, broker: KafkaBroker, features: Features, *, timeout: float) -> None:
        self._broker = broker
        self._features = features
        self._timeout = timeout

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._features

    async def publish(self, topic: str, *messages: Message) -> None:
        """Store messages; see `eventflow.messaging.Publisher`.

        Raises:
            TopicNotFoundError: There is no such topic; nothing was sent.
        """
        broker = self._broker
        producer = broker.producer()
        if topic not in broker.topics:
            await broker.look_up(topic)
            producer = broker.producer()
        if not messages:
            return
        extras = [self._checked(topic, message, messages) for message in messages]
        loop = asyncio.get_running_loop()
        call = Call(loop, topic, messages)
        until = loop.time() + self._timeout
        while call.sent < len(messages):
            key, headers = extras[call.sent]
            try:
                producer.send(call, messages[call.sent].payload, key, headers)
            except BufferError:
                await self._wait_for_room(producer, call, until)
            except KafkaException as exc:
                raise self._refused(call, exc.args[0]) from None
            except RuntimeError:
                broker.check_open()  # closed under it
                raise
        await call.ended
        if call.errors:
            raise self._error(call)

    def _checked(
        self, topic: str, message: Message, messages: tuple[Message, ...]
    ) -> tuple[bytes | None, Headers]:
        if type(message) is not Message and not isinstance(cast("object", message), Message):
            raise InvalidMessageError(
                f"only messages are published, as Message(b'…'), not {type(message).__name__}"
            )
        if DELAYED_UNTIL in message.metadata:
            self._features.require("publish_delay")
        key = key_bytes(message.key)
        headers, extra = headers_of(message)
        extra += len(key or b"")
        size, limit = len(message.payload), self._features.max_payload_bytes
        assert limit is not None
        if size <= limit and extra <= MAX_EXTRAS:
            return key, headers
        what = (
            f"a payload of {size:,} bytes; the broker takes {limit:,}"
            if size > limit
            else f"{extra:,} bytes of key, metadata and headers; {MAX_EXTRAS:,} are taken"
        )
        raise MessageTooLargeError(
            f"message {message.id!r} has {what}",
            topic=topic,
            message_id=message.id,
            size=size,
            limit=limit,
            not_stored=tuple(one.id for one in messages),
        )

    async def _wait_for_room(self, producer: ProducerThread, call: Call, until: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await producer.room.wait(min(until, loop.time() + 1.0))
            self._broker.check_open()
            if producer.has_room():
                return
            if loop.time() >= until:
                raise self._timed_out(call)

    def _refused(self, call: Call, error: KafkaError) -> PublishError:
        """The library did not take a record of a call: those before it are on their way."""
        ids = [message.id for message in call.messages]
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return MessageTooLargeError(
                f"message {ids[call.sent]!r} is larger than a record may be",
                topic=call.topic,
                message_id=ids[call.sent],
                size=len(call.messages[call.sent].payload),
                limit=self._features.max_payload_bytes or 0,
                not_stored=tuple(ids),
            )
        return PublishError(
            f"message {ids[call.sent]!r} was refused: {code_name(error)}",
            topic=call.topic,
            unknown=tuple(ids[: call.sent]),
            not_stored=tuple(ids[call.sent :]),
        )

    def _timed_out(self, call: Call) -> PublishTimeoutError:
        ids = tuple(message.id for message in call.messages)
        return PublishTimeoutError(
            f"there was no room for message {ids[call.sent]!r} for {self._timeout:g} s: records "
            "are published faster than the broker takes them",
            topic=call.topic,
            waited_s=self._timeout,
            unknown=ids[: call.sent],
            not_stored=ids[call.sent :],
        )

    def _error(self, call: Call) -> PublishError:
        """What became of a call of which something failed."""
        stored: list[str] = []
        not_stored: list[str] = []
        unknown: list[str] = []
        for at, message in enumerate(call.messages):
            error = call.errors.get(at)
            if error is None:
                stored.append(message.id)
            elif error.code() in NOT_STORED:
                not_stored.append(message.id)
            else:
                unknown.append(message.id)
        errors = list(call.errors.values())
        if any(error.code() in NOT_FOUND for error in errors):
            self._broker.topics.discard(call.topic)
        said = ", ".join(sorted({code_name(error) for error in errors}))
        text = (
            f"{len(errors)} of {len(call.messages)} messages for {call.topic!r} were not "
            f"confirmed: {said}"
        )
        is_late = any(error.code() in _TIMED_OUT for error in errors) and self._broker.is_open
        failed = (
            PublishTimeoutError(text, waited_s=self._timeout) if is_late else PublishError(text)
        )
        failed.topic = call.topic
        failed.stored, failed.not_stored = tuple(stored), tuple(not_stored)
        failed.unknown = tuple(unknown)
        return failed

    async def prepare(self, topic: str) -> None:
        """Make sure that a topic exists, and takes messages as large as ours may be.

        Raises:
            TopicNotFoundError: There is none.
            BrokerConnectionError: The broker did not say.
        """
        self._broker.check_open()
        await self._broker.look_up(topic)
