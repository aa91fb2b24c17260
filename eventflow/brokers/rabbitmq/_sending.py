"""Sends messages to RabbitMQ, and says what became of each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.brokers.rabbitmq._confirms import Call, ConfirmingChannel
from eventflow.brokers.rabbitmq._deadlines import LATE, Deadlines
from eventflow.brokers.rabbitmq._errors import limit_of, reason_of
from eventflow.brokers.rabbitmq._frames import BESIDE
from eventflow.errors import (
    BrokerClosedError,
    BrokerConnectionError,
    MessageTooLargeError,
    PublishError,
    PublishTimeoutError,
)

if TYPE_CHECKING:
    from eventflow.brokers.rabbitmq._session import Session
    from eventflow.brokers.rabbitmq.broker import RabbitMQBroker

__all__ = ("Sender",)

FIRST_WAIT_S = 0.01
LONGEST_WAIT_S = 1.0
"""Seconds between two attempts to get ready."""
DOUBT_S = 1.0
"""Seconds between two channels that are given up because the server refused something."""


class Sender:
    """Sends calls to their ends, each within ``publish_timeout``; a broker has one.

    What can't be sent at once waits for a connection that takes messages, with all declared that
    the messages go through.
    """

    def __init__(self, broker: RabbitMQBroker) -> None:
        self._broker = broker
        self._timeout = broker.settings.publish_timeout
        self._deadlines = Deadlines(self._timeout)

    async def send(self, call: Call, until: float | None = None) -> None:
        """Send a call's messages, and wait for its end.

        Args:
            call: The messages, all to one exchange.
            until: Loop time of the deadline; by default ``publish_timeout`` from now.

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
        if call.channel is not None and call.has_no_queue:
            call.channel.session.forget(call.parts)  # the queue is there no more
        if call.refused or call.left:
            if call.channel is not None and call.is_nacked:
                self._retire(call.channel, at_most_each=DOUBT_S)
            raise self._error(call)

    async def _carefully(self, call: Call) -> None:
        """Publish once there is a connection that takes messages, and all is declared."""
        while not call.sent:
            session = await self._ready(call)
            _check_headers(call, session.most - BESIDE)
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
        wait = FIRST_WAIT_S
        while True:
            session: Session = await link.wait()
            try:
                await session.may_publish()
                channel = await session.publishing(call.exchange)
                await session.declare(call.parts)
            except (BrokerConnectionError, ConnectionError) as exc:
                call.problem = str(exc)
                if session.is_open:  # a channel ended, or what is declared is away
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, LONGEST_WAIT_S)
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

    def _late(self, call: Call, began: float) -> PublishError:
        if call.channel is not None and call.channel.heard < began:
            self._retire(call.channel)
        why = self._broker.problem or ("" if call.sent else call.problem) or "it was not confirmed"
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


def _check_headers(call: Call, most: int) -> None:
    """Raise where some have more bytes than a frame of this connection: the last one's had more."""
    for message, _, table in call.items:
        if len(table) > most:
            raise _failed(
                call,
                MessageTooLargeError(
                    f"the headers of message {message.id!r} have {len(table):,} bytes; this "
                    f"RabbitMQ takes {most:,}",
                    message_id=message.id,
                    size=len(table),
                    limit=most,
                ),
            )


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
