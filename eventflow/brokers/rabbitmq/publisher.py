"""`RabbitMQPublisher`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from eventflow.brokers.rabbitmq._confirms import REFUSED, UNROUTED, Call, ConfirmingChannel
from eventflow.brokers.rabbitmq._deadlines import LATE, Deadlines
from eventflow.brokers.rabbitmq._errors import limit_of, reason_of
from eventflow.brokers.rabbitmq._ladder import AGAIN, Note, again, due_ms, waiting
from eventflow.brokers.rabbitmq._wire import table_of
from eventflow.errors import (
    BrokerClosedError,
    BrokerConnectionError,
    InvalidMessageError,
    MessageTooLargeError,
    PublishError,
    PublishTimeoutError,
)
from eventflow.events import validate_topic
from eventflow.messaging import Message, SettlementState
from eventflow.messaging.metadata import DELAYED_UNTIL, delayed_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.brokers.rabbitmq._session import Session
    from eventflow.brokers.rabbitmq.broker import RabbitMQBroker
    from eventflow.brokers.rabbitmq.topology import Route
    from eventflow.messaging import Delivery, Features

__all__ = ("RabbitMQPublisher",)

MOST_ROUTES = 10_000
DOUBT_S = 1.0
"""Seconds between two channels that are given up because the server refused something."""

BESIDE = 23
"""Bytes in a frame of headers beside these."""


class RabbitMQPublisher:
    """Stores messages in RabbitMQ: persistent, and confirmed by the server.

    Where a topology names no queue, nobody learns whether anybody listens: a message that reaches
    no queue is counted by the broker, and logged. All publishers of a broker share a connection.
    """

    def __init__(self, broker: RabbitMQBroker, route_of: Callable[[str], Route]) -> None:
        self._broker = broker
        self._route_of = route_of
        self._timeout = broker.settings.publish_timeout
        self._deadlines = Deadlines(self._timeout)
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
                later.append((message, waiting(delay), table))
            else:
                now.append((message, route, self._checked(topic, message, messages, route)))
        calls = [Call.of(topic, some) for some in (now, later) if some]
        until = self._broker.loop.time() + self._timeout if len(calls) > 1 else None
        for number, call in enumerate(calls):
            try:
                await self.send(call, until)
            except PublishError as exc:
                before = [one.id for done in calls[:number] for one in done.messages]
                behind = [one.id for rest in calls[number + 1 :] for one in rest.messages]
                exc.stored, exc.not_stored = (*before, *exc.stored), (*exc.not_stored, *behind)
                raise

    async def put_off(self, queue: str, delivery: Delivery) -> None:
        """Store a message anew, as its nack or release asks, so that it can be acked.

        Args:
            queue: The group's queue.
            delivery: What was received.

        Raises:
            PublishError: It is not stored, as far as is known.
            BrokerError: Where it would wait can't be declared.
        """
        failures, delay = delivery.nack_failures, delivery.nack_delay
        counted = (delivery.deliveries or 0) - (delivery.state is SettlementState.RELEASED)
        note = Note(
            AGAIN,
            queue,
            due_ms(delay),
            delivery.failures if failures is None else failures,
            max(counted, 0),
        )
        # Classic queues, which don't count, may be shared with Watermill.
        texts_only = delivery.deliveries is None
        pairs = note.pairs() if delay else note.counts()
        table = table_of(delivery.original, pairs, texts_only=texts_only)
        route = waiting(delay) if delay else again(queue)
        await self.send(Call.of(delivery.topic, [(delivery.original, route, table)]))

    async def send(self, call: Call, until: float | None = None) -> None:
        """Send a call's messages, and wait for its end.

        Args:
            call: The messages, all to one exchange.
            until: Loop time of the deadline; by default the publisher's own from now.

        Raises:
            PublishError: Something of it was not stored, as far as is known.
            BrokerError: What it goes through can't be declared; nothing was sent.
        """
        broker = self._broker
        began = broker.loop.time()
        try:
            channel = broker.ready_channel(call.exchange, call.parts, call.size)
            if channel is not None and until is None:
                channel.send(call)
                self._deadlines.add(call)
                try:
                    await call.ended
                finally:
                    self._deadlines.discard(call)
            else:
                async with asyncio.timeout_at(began + self._timeout if until is None else until):
                    await self._carefully(call)
        except TimeoutError:
            raise self._late(call, began) from None
        except BrokerClosedError:
            raise _failed(call, PublishError("the broker was closed")) from None
        if call.lost is LATE:
            raise self._late(call, began)
        if call.unrouted:
            broker.unrouted_in(call.topic, call.unrouted)
        if call.channel is not None and UNROUTED in call.refused.values():
            call.channel.session.forget(call.parts)  # the queue is there no more
        if call.refused or call.left:
            if call.channel is not None and REFUSED in call.refused.values():
                self._retire(call.channel, at_most_each=DOUBT_S)
            raise self._error(call)

    async def _carefully(self, call: Call) -> None:
        """Publish once there is a connection that takes messages, and all is declared."""
        while not call.sent:
            session = await self._ready(call)
            try:
                if call.size > session.proven:
                    async with session.trying:
                        await self._try(session, call)
                else:
                    channel = await session.publishing(call.exchange)
                    channel.send(call)
            except BrokerConnectionError:
                continue
        await call.ended

    async def _try(self, session: Session, call: Call) -> None:
        """Publish what is larger than all before, unless another one was meanwhile.

        A server with a smaller limit ends the channel that it comes on; so it has its own.
        """
        if call.size <= session.proven:
            return
        channel = await session.open(ConfirmingChannel, confirms=True)
        try:
            channel.send(call)
            await call.ended
        finally:
            self._broker.link.spawn(channel.close(), "trial")
        if not call.refused and not call.left:
            session.proven = max(session.proven, call.size)

    async def _ready(self, call: Call) -> Session:
        """A connection that takes messages, with all declared, and a channel for it."""
        link = self._broker.link
        while True:
            session: Session = await link.wait()
            try:
                await session.may_publish()
                channel = await session.publishing(call.exchange)
                await session.declare(call.parts)
            except (BrokerConnectionError, ConnectionError):
                if session.is_open:  # a channel ended, for whatever somebody else did
                    await asyncio.sleep(0.01)
                continue
            if channel.is_open:
                return session

    def _retire(self, channel: ConfirmingChannel, *, at_most_each: float = 0.0) -> None:
        """Nothing was confirmed on a channel for as long as a publish lasts, or it was refused.

        A channel that has looked for a quorum queue's leader just when its node died refuses all
        for that queue until the node is back, though others lead it (RabbitMQ 3.10).
        """
        link, session = self._broker.link, channel.session
        if session is link.session and session.retire(channel, at_most_each=at_most_each):
            link.spawn(session.close_later(channel, after=self._timeout), "close-later")

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
        most = self._broker.frame_max - BESIDE
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

    def _late(self, call: Call, began: float) -> PublishError:
        if call.channel is not None and call.channel.heard < began:
            self._retire(call.channel)
        why = self._broker.problem or "it was not confirmed"
        text = f"nothing was heard of a publish to {call.topic!r} for {self._timeout:g} s: {why}"
        return _failed(call, PublishTimeoutError(text, waited_s=self._timeout))

    def _error(self, call: Call) -> PublishError:
        """What became of a call of which something failed."""
        said = sorted({*call.refused.values()})
        if limit := max((limit_of(refusal) for refusal in said), default=0):
            large = max(call.messages, key=lambda message: len(message.payload))
            return _failed(
                call,
                MessageTooLargeError(
                    f"message {large.id!r} has {len(large.payload):,} bytes; this RabbitMQ takes "
                    f"{limit:,}",
                    message_id=large.id,
                    size=len(large.payload),
                    limit=limit,
                ),
            )
        if call.left:
            lost = call.lost
            said.append(reason_of(lost) if isinstance(lost, BaseException) else str(lost))
        count = len(call.messages)
        return _failed(
            call,
            PublishError(
                f"{count - len(call.stored)} of {count} messages for {call.topic!r} were not "
                f"confirmed: {', '.join(said)}"
            ),
        )

    async def prepare(self, topic: str) -> None:
        """Declare what a topic is published to.

        Raises:
            TopologyError: Something is there with other properties.
            BrokerConnectionError: The broker can't be reached.
        """
        await self._broker.declare(self._route_of(validate_topic(topic)).parts)


def _failed(call: Call, failed: PublishError) -> PublishError:
    """An error, with what became of each message."""
    ids = [message.id for message in call.messages]
    stored, refused = {*call.stored}, call.refused.keys() - call.partly
    failed.topic = call.topic
    failed.stored = tuple(ids[at] for at in sorted(stored))
    failed.not_stored = tuple(ids[at] for at in range(len(ids)) if at in refused or at >= call.sent)
    failed.unknown = tuple(
        ids[at] for at in range(call.sent) if at not in stored and at not in refused
    )
    return failed
