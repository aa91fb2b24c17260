"""The channel that messages are published on, and what became of each of them."""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from eventflow.brokers.rabbitmq._channel import MessageChannel
from eventflow.brokers.rabbitmq._errors import limit_of, refusal_of
from eventflow.brokers.rabbitmq._frames import content_frames, publish_frame
from eventflow.brokers.rabbitmq._wire import ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.brokers.rabbitmq._frames import Properties
    from eventflow.brokers.rabbitmq._session import Session
    from eventflow.brokers.rabbitmq.topology import Part, Route
    from eventflow.messaging import Message

__all__ = ("Call", "ConfirmingChannel")

REFUSED = "the queue takes no more, or has no leader"
UNROUTED = "no queue gets it"
BEHIND = "RabbitMQ drops what comes behind a message that is too large for it"
MOST_PREFIXES = 1_000
ENOUGH = 65_536
"""Bytes that are written at once, whatever else is sent in this turn of the loop."""


class Call:
    """One call of ``publish``, and what became of its messages.

    Attributes:
        topic: The topic.
        items: The messages, each with where it goes, all by one exchange, and its headers.
        exchange: The exchange.
        parts: What is declared before.
        size: Bytes of the largest payload.
        sent: How many of them were written.
        channel: What they were written on.
        stored: Places of those that the server has stored.
        refused: Places of those that it has not, with the reason.
        partly: Places of those among them that other queues of the exchange may have.
        problem: Why it was not sent the last time that this was tried.
        unrouted: How many have reached no queue, where that is no error.
        lost: Why no more answers will come; ``None`` while they may.
        ended: Is done at the end.
    """

    __slots__ = (
        "channel",
        "ended",
        "exchange",
        "items",
        "left",
        "lost",
        "partly",
        "parts",
        "problem",
        "refused",
        "sent",
        "size",
        "stored",
        "topic",
        "unrouted",
    )

    def __init__(self, topic: str, items: Sequence[tuple[Message, Route, bytes]]) -> None:
        message, route, _ = items[0]
        self.topic = topic
        self.items = items
        self.exchange = route.exchange
        if len(items) == 1:
            self.parts, self.size = route.parts, len(message.payload)
        else:
            self.parts = _parts([route for _, route, _ in items])
            self.size = max(len(message.payload) for message, _, _ in items)
        self.sent = 0
        self.channel: ConfirmingChannel | None = None
        self.left = len(items)
        self.stored: list[int] = []
        self.refused: dict[int, str] = {}
        self.partly: set[int] = set()
        self.problem = ""
        self.unrouted = 0
        self.lost: BaseException | str | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def messages(self) -> list[Message]:
        """The messages."""
        return [message for message, _, _ in self.items]

    @property
    def is_nacked(self) -> bool:
        """Whether a queue has refused some of it: it takes no more, or has no leader."""
        return REFUSED in self.refused.values()

    @property
    def has_no_queue(self) -> bool:
        """Whether some of it has reached no queue, where that is an error."""
        return UNROUTED in self.refused.values()

    def told(self, at: int, refusal: str) -> None:
        """One was stored, or was not; the last one ends the call."""
        if refusal:
            self.refused[at] = refusal
        else:
            self.stored.append(at)
        self.left -= 1
        if not self.left:
            self.end()

    def end(self, lost: BaseException | str | None = None) -> None:
        """No more will be heard of it."""
        if self.left and self.lost is None:
            self.lost = lost
        if not self.ended.done():
            self.ended.set_result(None)


class ConfirmingChannel(MessageChannel):
    """Publishes; the server confirms each message, in any order, several at once.

    Attributes:
        heard: When something was last confirmed, in loop time.
    """

    def __init__(self, session: Session, channel: Any) -> None:
        super().__init__(session, channel)
        self._next = 1
        self._open: dict[int, tuple[Call, int]] = {}  # by number, in their order
        # Those that came back, by where they went and by id, and how often.
        self._returned: dict[tuple[str, str, str], int] = {}
        self._prefixes: dict[tuple[str, str], bytes] = {}
        self._most = session.most
        self._unwritten: list[bytes] = []
        self._unwritten_size = 0
        self.heard = session.loop.time()

    def send(self, call: Call) -> None:
        """Write the messages of a call that were not written yet, with others of this turn."""
        parts = self._unwritten
        if not parts:
            self.session.loop.call_soon(self.flush)
        number, most, size = self.number, self._most, 0
        for at in range(call.sent, len(call.items)):
            message, route, table = call.items[at]
            self._open[self._next] = call, at
            self._next += 1
            content = content_frames(number, table, message.payload, most)
            parts += (self._prefix(route), content)
            size += len(content)
        call.sent = len(call.items)
        call.channel = self
        self._unwritten_size += size
        if self._unwritten_size > ENOUGH:
            self.flush()

    def flush(self) -> None:
        """Write what was sent."""
        if self._unwritten:
            data = b"".join(self._unwritten)
            self._unwritten, self._unwritten_size = [], 0
            self.write(data)

    def _prefix(self, route: Route) -> bytes:
        """The frame in front of each message that goes there."""
        where = route.exchange, route.routing_key
        found = self._prefixes.get(where)
        if found is None:
            if len(self._prefixes) >= MOST_PREFIXES:
                self._prefixes.clear()
            found = self._prefixes[where] = publish_frame(self.number, *where, mandatory=True)
        return found

    def on_confirm(self, tag: int, *, multiple: bool, is_ack: bool) -> None:
        """One was stored, or was not, or all up to it."""
        self.heard = self.session.loop.time()
        if not multiple:
            self._tell(tag, is_ack=is_ack)
            return
        for number in [*takewhile(tag.__ge__, self._open)]:
            self._tell(number, is_ack=is_ack)

    def _tell(self, tag: int, *, is_ack: bool) -> None:
        found = self._open.pop(tag, None)
        if found is None:
            return
        call, at = found
        if not is_ack:
            if call.items[at][1].exchange:
                call.partly.add(at)  # one queue's answer is for all that it was routed to
            call.told(at, REFUSED)
            return
        if self._returned:
            message, route, _ = call.items[at]
            which = route.exchange, route.routing_key, message.id
            if again := self._returned.pop(which, 0):
                if again > 1:
                    self._returned[which] = again - 1
                if route.must_arrive:
                    call.told(at, UNROUTED)
                    return
                call.unrouted += 1
        call.told(at, "")

    def on_return(self, exchange: str, routing_key: str, properties: Properties) -> None:
        """One has reached no queue; its confirmation follows."""
        for name, value in properties.headers:
            if name == ID:
                which = exchange, routing_key, value.decode()
                self._returned[which] = self._returned.get(which, 0) + 1
                return

    def on_end(self, error: BaseException | None) -> None:
        """What was not confirmed may be stored."""
        open_, self._open = self._open, {}
        self._returned.clear()
        self._unwritten.clear()
        if open_ and (refusal := refusal_of(error)):
            self._refused([*open_.values()], refusal)
        for call, _ in open_.values():
            call.end(error or "the connection was closed")

    @staticmethod
    def _refused(sent: list[tuple[Call, int]], refusal: str) -> None:
        """The server has refused one of them, and dropped all behind that.

        Which one can be told where it was too large; else it was the last one if no other.
        """
        limit, first = limit_of(refusal), len(sent) - 1
        large = [0 < limit < len(call.items[at][0].payload) for call, at in sent]
        if any(large):
            first = large.index(True)
        for (call, at), is_large in zip(sent[first:], large[first:], strict=True):
            call.told(at, refusal if is_large or not limit else BEHIND)


def _parts(routes: Sequence[Route]) -> tuple[Part, ...]:
    """All that routes go through."""
    first = routes[0]
    if all(route is first for route in routes):
        return first.parts
    return tuple(dict.fromkeys(part for route in routes for part in route.parts))
