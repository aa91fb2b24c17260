"""Channels whose messages and acks don't go through the client library's queues and tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from eventflow._log import EventLogger
from eventflow.brokers.rabbitmq._errors import closed_by
from eventflow.brokers.rabbitmq._frames import (
    ACK,
    BODY,
    CHANNEL_CLOSE,
    DELIVER,
    HEADER,
    METHOD,
    NACK,
    RETURN,
    Properties,
    method_of,
    read_close,
    read_properties,
    read_text,
)

if TYPE_CHECKING:
    import asyncio

    from eventflow.brokers.rabbitmq._session import Session

__all__ = ("Arrived", "MessageChannel")

log = EventLogger("eventflow.rabbitmq")


class Arrived(NamedTuple):
    """A message as it came.

    Attributes:
        tag: Its number on the channel.
        is_again: Whether it was delivered before.
        source: The exchange that it was published to, and its routing key, as `read_source` reads.
        properties: What stands between that and the body.
        body: The body.
    """

    tag: int
    is_again: bool
    source: bytes
    properties: Properties
    body: bytes


class MessageChannel:
    """A channel of ours on a connection.

    Attributes:
        number: Its number.
        session: The connection.
        ended: Is done when the channel is no more; its result says why.
    """

    def __init__(self, session: Session, channel: Any) -> None:
        self.session = session
        self.number: int = channel.number
        self.ended: asyncio.Future[BaseException | None] = session.loop.create_future()
        self.channel = channel
        self._method: tuple[int, bytes] | None = None
        self._properties = b""
        self._chunks: list[bytes] = []
        self._left = 0
        session.sifter.takers[self.number] = self
        # Of the library: an exception, a cancellation, or a result, as it was closed.
        channel.closing.add_done_callback(self._closed)

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return not self.ended.done() and self.session.is_open

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """It is no more: nothing is taken, and nothing written, from now on."""
        if not self.ended.done():
            self.ended.set_result(error)
            takers = self.session.sifter.takers
            if takers.get(self.number) is self:  # the number may be another one's by now
                del takers[self.number]
            self.on_end(error)

    def write(self, data: bytes) -> None:
        """Send whole frames."""
        self.session.write(data)

    async def close(self) -> None:
        """Close it: what is unsettled goes back to its queue. Bounded."""
        self.end(None)
        await self.session.close_channel(self.channel)

    def take(self, kind: int, data: bytes, at: int, end: int) -> bool:
        """Take a frame of a message, or an ack; called by the `Sifter`."""
        if kind == BODY:
            self._chunks.append(data[at:end])
            self._left -= end - at
            if self._left <= 0:
                self._complete()
            return True
        if kind == METHOD:
            method = method_of(data, at)
            if method in (DELIVER, RETURN):
                self._method = method, data[at + 4 : end]
                self._chunks = []
                return True
            if method in (ACK, NACK):
                tag = int.from_bytes(data[at + 4 : at + 12])
                self.on_confirm(tag, multiple=bool(data[at + 12] & 1), is_ack=method == ACK)
                return True
            if method == CHANNEL_CLOSE:
                # Whatever is written after the library's answer would end the connection.
                self.end(closed_by(*read_close(data, at, end)))
            return False
        if kind == HEADER:
            self._left = int.from_bytes(data[at + 4 : at + 12])
            self._properties = data[at + 12 : end]
            if not self._left:
                self._complete()
            return True
        return False

    def _complete(self) -> None:
        """All of a message is there."""
        begun, self._method = self._method, None
        if begun is None:
            return
        method, data = begun
        chunks, self._chunks = self._chunks, []
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        properties = read_properties(self._properties)
        if method == DELIVER:
            at = 1 + data[0]  # the consumer's name
            tag = int.from_bytes(data[at : at + 8])
            is_again = bool(data[at + 8] & 1)
            try:
                self.on_deliver(Arrived(tag, is_again, data[at + 9 :], properties, body))
            except Exception as exc:  # noqa: BLE001 - a fault of ours ends the channel alone
                self.end(exc)
        else:
            _, after = read_text(data, 2)  # why, in words
            exchange, after = read_text(data, after)
            routing_key, _ = read_text(data, after)
            self.on_return(exchange, routing_key, properties)

    # What channels of one kind or the other make of it

    def on_end(self, error: BaseException | None) -> None:
        """It is no more."""

    def on_deliver(self, arrived: Arrived) -> None:
        """A message has come."""

    def on_confirm(self, tag: int, *, multiple: bool, is_ack: bool) -> None:
        """The server has stored what was published, or has not."""

    def on_return(self, exchange: str, routing_key: str, properties: Properties) -> None:
        """What was published has reached no queue."""
