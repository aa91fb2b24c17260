"""`RabbitMQPublisher`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from eventflow.brokers.rabbitmq._confirms import Call
from eventflow.brokers.rabbitmq._frames import BESIDE
from eventflow.brokers.rabbitmq._ladder import Note, due_ms, waiting
from eventflow.brokers.rabbitmq._wire import table_of
from eventflow.errors import (
    BrokerError,
    InvalidMessageError,
    MessageTooLargeError,
    PublishError,
)
from eventflow.events import validate_topic
from eventflow.messaging import Message
from eventflow.messaging.metadata import DELAYED_UNTIL, delayed_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.brokers.rabbitmq.broker import RabbitMQBroker
    from eventflow.brokers.rabbitmq.topology import Route
    from eventflow.messaging import Features

__all__ = ("RabbitMQPublisher",)

MOST_ROUTES = 10_000
ROOM = 2_048
"""Bytes of headers that are left for what is noted of a message later, dead letters included."""


class RabbitMQPublisher:
    """Stores messages in RabbitMQ: persistent, and confirmed by the server.

    Where a topology names no queue, nobody learns whether anybody listens: a message that reaches
    no queue is counted by the broker, and logged. All publishers of a broker share a connection.
    """

    def __init__(
        self, broker: RabbitMQBroker, route_of: Callable[[str], Route], *, room: int = ROOM
    ) -> None:
        self._broker = broker
        self._route_of = route_of
        self._beside = BESIDE + room
        self._limit = broker.settings.max_payload_bytes
        self._routes: dict[str, Route] = {}

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._broker.features

    async def publish(self, topic: str, *messages: Message) -> None:
        """Store messages; see `eventflow.messaging.Publisher`.

        Raises:
            TopologyError: An exchange or a queue is there with other properties; nothing was sent.
        """
        route = self._routes.get(topic)
        if route is None:
            if len(self._routes) >= MOST_ROUTES:
                self._routes.clear()
            route = self._routes[topic] = self._route_of(validate_topic(topic))
        self._broker.check_open()
        now: list[tuple[Message, Route, bytes]] = []
        later: list[tuple[Message, Route, bytes]] = []
        for message in messages:
            if type(message) is Message and DELAYED_UNTIL not in message.metadata:
                now.append((message, route, self._checked(topic, message, messages, route)))
            elif (delay := self._delay(message)) > 0:
                note = Note(route.exchange, route.routing_key, due_ms(delay))
                table = self._checked(topic, message, messages, route, note)
                step = waiting(delay)  # what it goes through afterwards is declared by us, too
                way = replace(step, parts=(*step.parts, *route.parts))
                later.append((message, way, table))
            else:
                now.append((message, route, self._checked(topic, message, messages, route)))
        broker = self._broker
        calls = [Call(topic, some) for some in (now, later) if some]
        timeout = broker.settings.publish_timeout
        until = broker.loop.time() + timeout if len(calls) > 1 else None
        for number, call in enumerate(calls):
            try:
                await broker.sender.send(call, until)
            except PublishError as exc:
                before = [one.id for done in calls[:number] for one in done.messages]
                behind = [one.id for rest in calls[number + 1 :] for one in rest.messages]
                exc.stored, exc.not_stored = (*before, *exc.stored), (*exc.not_stored, *behind)
                raise
            except BrokerError as exc:
                if not number:
                    raise
                failed = PublishError(f"not all messages for {topic!r} were stored: {exc}")
                failed.topic = topic
                failed.stored = tuple(one.id for done in calls[:number] for one in done.messages)
                failed.not_stored = tuple(
                    one.id for rest in calls[number:] for one in rest.messages
                )
                raise failed from exc

    def _delay(self, message: Message) -> float:
        """Seconds until a message may be delivered."""
        if not isinstance(cast("object", message), Message):
            raise InvalidMessageError(
                f"only messages are published, as Message(b'…'), not {type(message).__name__}"
            )
        if DELAYED_UNTIL not in message.metadata:
            return 0.0
        self.features.require("publish_delay")
        until = delayed_until(message.metadata)
        return 0.0 if until is None else until.timestamp() - time.time()

    def _checked(
        self,
        topic: str,
        message: Message,
        messages: Sequence[Message],
        route: Route,
        note: Note | None = None,
    ) -> bytes:
        """The headers of one of some messages, if it may be sent."""
        if len(message.payload) > self._limit:
            raise MessageTooLargeError(
                f"message {message.id!r} has {len(message.payload):,} bytes; the broker takes "
                f"{self._limit:,}",
                topic=topic,
                message_id=message.id,
                size=len(message.payload),
                limit=self._limit,
                not_stored=tuple(one.id for one in messages),
            )
        pairs = () if note is None else note.pairs()
        table = table_of(message, pairs, texts_only=route.texts_only)
        most = self._broker.frame_max - self._beside
        if len(table) > most:
            # A larger frame would end the connection.
            raise MessageTooLargeError(
                f"the headers of message {message.id!r} have {len(table):,} bytes; RabbitMQ takes "
                f"{most:,}",
                topic=topic,
                message_id=message.id,
                size=len(table),
                limit=most,
                not_stored=tuple(one.id for one in messages),
            )
        return table

    async def prepare(self, topic: str) -> None:
        """Declare what a topic is published to.

        Raises:
            TopologyError: Something is there with other properties.
            BrokerConnectionError: The broker can't be reached.
        """
        await self._broker.declare(self._route_of(validate_topic(topic)).parts)
