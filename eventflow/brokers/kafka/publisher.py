"""`KafkaPublisher`."""

from __future__ import annotations

import time
from math import ceil
from typing import TYPE_CHECKING, cast

from confluent_kafka import KafkaError, KafkaException

from eventflow.brokers.kafka._errors import NOT_FOUND, NOT_STORED, code_name
from eventflow.brokers.kafka._ladder import DELAYS, check_steps, stamp_for
from eventflow.brokers.kafka._producer import Call
from eventflow.brokers.kafka._progress import NEVER
from eventflow.brokers.kafka._wire import headers_of, key_bytes
from eventflow.errors import (
    BrokerConnectionError,
    InvalidMessageError,
    InvalidTopicError,
    MessageTooLargeError,
    PublishError,
    PublishTimeoutError,
)
from eventflow.messaging import Message
from eventflow.messaging.metadata import DELAYED_UNTIL, delayed_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from eventflow.brokers.kafka._producer import Extra, Sender, Step
    from eventflow.brokers.kafka._progress import Note
    from eventflow.brokers.kafka._wire import Headers
    from eventflow.brokers.kafka.broker import KafkaBroker
    from eventflow.messaging import Delivery, Features

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
        assert features.max_payload_bytes is not None
        self._limit = features.max_payload_bytes
        self._has_delays = features.publish_delay

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
        is_known = topic in broker.topics
        if not is_known:  # perhaps because it is closed
            broker.check_open()
        until = broker.loop.time() + self._timeout
        has_waited = not is_known
        if not is_known:
            await self._find_new(topic, messages)
        if not messages:
            return
        extras: list[Extra] = []
        for message in messages:
            extras.append(self._checked(topic, message, messages))  # noqa: PERF401 - takes a frame
        if self._has_delays and not broker.has_delays:
            has_waited = True
            await self._find_new(topic, messages, extras)
        producer = broker.sound_producer()
        if producer is None:
            has_waited = True
            producer = await broker.producer()
        call = Call(producer, topic, messages, until)
        try:
            producer.send(call, extras)
        except Exception as exc:  # noqa: BLE001 - told apart there
            self._not_sent(call, exc)
            await self._send_rest(producer, call, extras)
        del extras  # else a collector has them to visit until the answer comes
        if not has_waited:
            await call.ended
        else:  # others that were sent before it end later
            ending = broker.loop.call_at(until, producer.late, call)
            try:
                await call.ended
            finally:
                ending.cancel()
        if call.has_failed:
            raise self._error(call)

    def begin_again(self, delivery: Delivery, ladder: str, note: Note, due: float) -> Call | None:
        """Begin to store a message where it waits to be tried again.

        Args:
            delivery: What was received.
            ladder: The topic with the steps.
            note: What is known of it from now on.
            due: Until when, as seconds since the epoch.

        Returns:
            ``None`` if there is no room, or no connection, at present.

        Raises:
            PublishError: It is not going to be stored.
        """
        producer = self._broker.last_producer
        if producer is None:
            return None
        until = self._broker.loop.time() + self._timeout
        call = Call(producer, ladder, (delivery.original,), until)
        extra = self.record_again(delivery, ladder, note, due)
        return call if self._send(producer, call, [extra]) else None

    def record_again(self, delivery: Delivery, ladder: str, note: Note, due: float) -> Extra:
        """What there is to store beside the payload of a message that waits to be tried again."""
        message = delivery.original
        step, stamp = stamp_for(_now_ms(), ceil(due * 1_000), note, delivery.topic)
        headers, _ = headers_of(message)
        headers.append(stamp.header())
        key = None if message.key is None else key_bytes(message.key)
        return key, headers, (ladder, step)

    def failure_of(self, call: Call) -> PublishError | None:
        """What became of a call that has ended; ``None`` if all of it is stored."""
        return self._error(call) if call.has_failed else None

    async def _send_rest(self, producer: Sender, call: Call, extras: Sequence[Extra]) -> None:
        """Send what the library had no room for, as it has."""
        loop = self._broker.loop
        while not self._send(producer, call, extras):
            if loop.time() >= call.until:
                raise self._no_room(call)
            await producer.room.wait(min(call.until, loop.time() + ROOM_S))

    def _send(self, producer: Sender, call: Call, extras: Sequence[Extra]) -> bool:
        """Hand the rest of a call to the library. Whether it had room for all."""
        try:
            producer.send(call, extras)
        except Exception as exc:  # noqa: BLE001 - told apart there
            self._not_sent(call, exc)
            return False
        return True

    def _not_sent(self, call: Call, exc: Exception) -> None:
        """Raise why the rest of a call was not sent, unless the library only had no room for it."""
        if isinstance(exc, KafkaException):
            raise self._refused(call, exc.args[0]) from None
        if isinstance(exc, RuntimeError):  # closed under it
            if not call.sent:
                self._broker.check_open()
            raise self._cut(call) from None
        if not isinstance(exc, BufferError):
            raise exc

    async def _find_new(
        self, topic: str, messages: tuple[Message, ...], extras: Sequence[Extra] = ()
    ) -> None:
        """Look up the topics that are not known yet: this, and the one for delays if it takes it.

        Raises:
            InvalidTopicError: It is the one for delays.
            TopicNotFoundError: There is none.
            BrokerError: The one for delays is not fit for them.
            PublishTimeoutError: The cluster did not say.
        """
        broker = self._broker
        if topic == DELAYS:
            raise InvalidTopicError(
                f"{topic!r} is where delayed messages wait: publish to the topic that they are "
                "for, with a delay",
                topic=topic,
            )
        if topic not in broker.topics:
            await self._find(topic, messages)
        if not broker.has_delays and any(step for _, _, step in extras):
            check_steps(DELAYS, await self._find(DELAYS, messages))

    async def _find(self, topic: str, messages: tuple[Message, ...]) -> int:
        try:
            return await self._broker.look_up(topic, within=self._timeout)
        except BrokerConnectionError as exc:
            raise PublishTimeoutError(
                f"nothing was sent to {topic!r}: {exc}",
                topic=topic,
                waited_s=self._timeout,
                not_stored=tuple(message.id for message in messages),
            ) from None

    def _checked(self, topic: str, message: Message, messages: tuple[Message, ...]) -> Extra:
        """Key, headers and step of one of some messages, if it may be sent."""
        if type(message) is not Message and not isinstance(cast("object", message), Message):
            raise InvalidMessageError(
                f"only messages are published, as Message(b'…'), not {type(message).__name__}"
            )
        headers, extra = headers_of(message)
        key: bytes | None = None
        if message.key is not None:
            key = key_bytes(message.key)
            extra += len(key)
        step: Step | None = None
        if DELAYED_UNTIL in message.metadata:
            self._features.require("publish_delay")
            step = _delay(headers, topic, delayed_until(message.metadata))
        if len(message.payload) > self._limit or extra > MAX_EXTRAS:
            raise self._too_large(topic, message, extra, messages)
        return key, headers, step

    def _too_large(
        self, topic: str, message: Message, extra: int, messages: tuple[Message, ...]
    ) -> MessageTooLargeError:
        size, limit = len(message.payload), self._limit
        what = (
            f"a payload of {size:,} bytes; the broker takes {limit:,}"
            if size > limit
            else f"{extra:,} bytes of key, metadata and headers; {MAX_EXTRAS:,} are taken"
        )
        return MessageTooLargeError(
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
                limit=self._limit,
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
        for at, message in enumerate(call.messages):
            if at not in call.verdicts:
                is_late = True
                groups["unknown"].append(message.id)
            elif (verdict := call.verdicts[at]) is None:
                groups["stored"].append(message.id)
            else:
                code = verdict.code()
                groups["not_stored" if code in NOT_STORED else "unknown"].append(message.id)
                reasons.add(code_name(verdict))
                is_late = is_late or code in _TIMED_OUT
                if code in NOT_FOUND:
                    self._broker.topics.discard(call.topic)
                    self._broker.has_delays = False
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
            ConfigurationError: It takes only smaller ones, as far as we may know.
            BrokerConnectionError: The broker did not say.
        """
        self._broker.check_open()
        await self._broker.look_up(topic)
        await self._broker.check_limit(topic)


def _delay(headers: Headers, topic: str, until: datetime | None) -> Step | None:
    """Where a record waits until it is due, which its headers say from now on."""
    if until is None:
        return None
    now, due = _now_ms(), ceil(until.timestamp() * 1_000)
    if due <= now:
        return None
    number, stamp = stamp_for(now, due, NEVER, topic)
    headers.append(stamp.header())
    return DELAYS, number


def _now_ms() -> int:
    return int(time.time() * 1_000)


def _half_sent(failed: PublishError, call: Call) -> PublishError:
    """An error of a call that was not sent to its end: what was sent may be stored."""
    ids = tuple(message.id for message in call.messages)
    failed.topic = call.topic
    failed.unknown, failed.not_stored = ids[: call.sent], ids[call.sent :]
    return failed
