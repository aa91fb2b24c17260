"""`KafkaPublisher`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from confluent_kafka import KafkaError, KafkaException

from eventflow.brokers.kafka._errors import NOT_FOUND, NOT_STORED, code_name
from eventflow.brokers.kafka._producer import Call
from eventflow.brokers.kafka._wire import headers_of, key_bytes
from eventflow.errors import (
    BrokerConnectionError,
    InvalidMessageError,
    MessageTooLargeError,
    PublishError,
    PublishTimeoutError,
)
from eventflow.messaging import Message
from eventflow.messaging.metadata import DELAYED_UNTIL

if TYPE_CHECKING:
    from eventflow.brokers.kafka._wire import Headers
    from eventflow.brokers.kafka.broker import KafkaBroker
    from eventflow.messaging import Features

__all__ = ("KafkaPublisher",)

MAX_EXTRAS = 32_768
"""Most bytes of key, id, metadata and headers together; what dead letters add fits beside them."""

ROOM_S = 0.1

_TIMED_OUT = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT})


class KafkaPublisher:
    """Stores messages in Kafka: acknowledged by all replicas in sync, in order, and once.

    Once as far as the broker sees it: what is published again, because the caller did not get
    an answer, is another record. When a publish has timed out on its way, others that were on
    theirs may be stored twice. All publishers of a broker share one connection.
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
        broker.check_open()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        if topic not in broker.topics:
            await self._find(topic, messages)
        if not messages:
            return
        extras = [self._checked(topic, message, messages) for message in messages]
        call = Call(loop, topic, messages, until=until)
        producer = await broker.producer()
        while call.sent < len(messages):
            key, headers = extras[call.sent]
            try:
                producer.send(call, messages[call.sent].payload, key, headers)
            except BufferError:
                if loop.time() >= until:
                    raise self._no_room(call) from None
                await producer.room.wait(min(until, loop.time() + ROOM_S))
            except KafkaException as exc:
                raise self._refused(call, exc.args[0]) from None
            except RuntimeError:  # closed under it
                if not call.sent:
                    broker.check_open()
                raise self._cut(call) from None
        await call.ended
        if call.has_failed:
            raise self._error(call)

    async def _find(self, topic: str, messages: tuple[Message, ...]) -> None:
        try:
            await self._broker.look_up(topic, within=self._timeout)
        except BrokerConnectionError as exc:
            raise PublishTimeoutError(
                f"nothing was sent to {topic!r}: {exc}",
                topic=topic,
                waited_s=self._timeout,
                not_stored=tuple(message.id for message in messages),
            ) from None

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

    def _refused(self, call: Call, error: KafkaError) -> PublishError:
        """The library did not take a record of a call: those before it are on their way."""
        failed: PublishError
        at = call.messages[call.sent]
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            failed = MessageTooLargeError(
                f"message {at.id!r} is larger than a record may be",
                message_id=at.id,
                size=len(at.payload),
                limit=self._features.max_payload_bytes or 0,
            )
        else:
            failed = PublishError(f"message {at.id!r} was refused: {code_name(error)}")
        return _half_sent(failed, call)

    def _no_room(self, call: Call) -> PublishError:
        return _half_sent(
            PublishTimeoutError(
                f"there was no room for message {call.messages[call.sent].id!r} for "
                f"{self._timeout:g} s: records are published faster than the broker takes them",
                waited_s=self._timeout,
            ),
            call,
        )

    def _cut(self, call: Call) -> PublishError:
        return _half_sent(PublishError("the broker was closed, or lost its connection"), call)

    def _error(self, call: Call) -> PublishError:
        """What became of a call of which something failed."""
        groups: dict[str, list[str]] = {"stored": [], "not_stored": [], "unknown": []}
        reasons: set[str] = set()
        is_late = False
        for message, verdict in zip(call.messages, call.verdicts, strict=True):
            if verdict is None:
                groups["stored"].append(message.id)
            elif not isinstance(verdict, KafkaError):
                is_late = True
                groups["unknown"].append(message.id)
            else:
                code = verdict.code()
                groups["not_stored" if code in NOT_STORED else "unknown"].append(message.id)
                reasons.add(code_name(verdict))
                is_late = is_late or code in _TIMED_OUT
                if code in NOT_FOUND:
                    self._broker.topics.discard(call.topic)
        said = ", ".join(sorted(reasons)) or "no answer in time"
        text = (
            f"{len(call.messages) - len(groups['stored'])} of {len(call.messages)} messages for "
            f"{call.topic!r} were not confirmed: {said}"
        )
        failed = PublishError(text)
        if is_late and self._broker.is_open:
            failed = PublishTimeoutError(text, waited_s=self._timeout)
        failed.topic = call.topic
        failed.stored = tuple(groups["stored"])
        failed.not_stored = tuple(groups["not_stored"])
        failed.unknown = tuple(groups["unknown"])
        return failed

    async def prepare(self, topic: str) -> None:
        """Make sure that a topic exists, and takes messages as large as ours may be.

        Raises:
            TopicNotFoundError: There is none.
            BrokerConnectionError: The broker did not say.
        """
        self._broker.check_open()
        await self._broker.look_up(topic)


def _half_sent(failed: PublishError, call: Call) -> PublishError:
    """An error of a call that was not sent to its end: what was sent may be stored."""
    ids = tuple(message.id for message in call.messages)
    failed.topic = call.topic
    failed.unknown, failed.not_stored = ids[: call.sent], ids[call.sent :]
    return failed
