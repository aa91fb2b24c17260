"""Where messages wait: a queue for each step of the ladder, and one for what is due.

The server moves a message from its step, whose time is the same for all in it, to the queue of
what is due; both are quorum queues, and the move is at least once. From there one of the processes
hands it on, with headers that are texts alone: those that the server adds when it moves a message
are not, and Watermill's reader would ask for it again at once, for ever.

What is tried again comes through an exchange of its own. What was noted with a message, which
failures it had, counts only there: others can write the same headers.
"""

from __future__ import annotations

import time
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from eventflow.brokers.rabbitmq._frames import Field
from eventflow.brokers.rabbitmq.topology import (
    MAX_NAME,
    NO_LIMIT,
    Binding,
    Exchange,
    Queue,
    Route,
    Source,
)
from eventflow.messaging.ladder import LADDER_S, step_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventflow.brokers.rabbitmq.topology import Part

__all__ = (
    "AGAIN",
    "BROADCAST",
    "DUE",
    "DUE_QUEUE",
    "Note",
    "again",
    "again_to",
    "bound_again",
    "due_ms",
    "read_note",
    "waiting",
)

DUE_QUEUE = "eventflow.due"
AGAIN = "eventflow.again"
"""The exchange through which messages come that are tried again."""

EXCHANGE = "x-eventflow-exchange"
ROUTING_KEY = "x-eventflow-routing-key"
DUE_MS = "x-eventflow-due"
FAILURES = "x-eventflow-failures"
DELIVERIES = "x-eventflow-deliveries"

MOST = 1_000_000
"""The largest count that is believed."""
MOST_DIGITS = 15
BROADCAST = "eventflow.broadcast."
"""What the names begin with under which instances get what they try again."""

_QUORUM = {"x-queue-type": "quorum"}
_AGAIN = Exchange(AGAIN, "direct")
_DUE = Queue(DUE_QUEUE, arguments=MappingProxyType({**_QUORUM, "x-delivery-limit": NO_LIMIT}))

DUE = Source(DUE_QUEUE, (_DUE, _AGAIN))
"""Where what is due is handed on from."""


class Note(NamedTuple):
    """What is known of a message that waits, or is tried again.

    Attributes:
        exchange: Where it goes when it is due.
        routing_key: Its routing key there.
        due_ms: When that is, in milliseconds since the epoch.
        failures: Failures that were recorded with it.
        deliveries: How often it was delivered before.
    """

    exchange: str = ""
    routing_key: str = ""
    due_ms: int = 0
    failures: int = 0
    deliveries: int = 0

    def pairs(self) -> list[tuple[str, bytes]]:
        """As headers."""
        return [
            (EXCHANGE, self.exchange.encode()),
            (ROUTING_KEY, self.routing_key.encode()),
            (DUE_MS, b"%d" % self.due_ms),
            *self.counts(),
        ]

    def counts(self) -> list[tuple[str, bytes]]:
        """What goes with it where it is tried again."""
        if not (self.failures or self.deliveries):
            return []
        return [(FAILURES, b"%d" % self.failures), (DELIVERIES, b"%d" % self.deliveries)]

    def left(self) -> float:
        """Seconds until it is due; 0 or less when it is."""
        return self.due_ms / 1_000 - time.time()


def read_note(headers: Iterable[tuple[str, bytes]]) -> Note:
    """What stands in headers; nothing that makes no sense is believed."""
    found = {name: value for name, value in headers if type(value) is not Field}
    try:
        where = _name(found.get(EXCHANGE, b"")), _name(found.get(ROUTING_KEY, b""))
    except ValueError:
        where = "", ""
    return Note(
        *where,
        _number(found.get(DUE_MS)),
        min(_number(found.get(FAILURES)), MOST),
        min(_number(found.get(DELIVERIES)), MOST),
    )


def _name(text: bytes) -> str:
    if len(text) > MAX_NAME:
        raise ValueError(text)
    return text.decode()


def _number(text: bytes | None) -> int:
    return int(text) if text and len(text) <= MOST_DIGITS and text.isdigit() else 0


def waiting(delay: float) -> Route:
    """Where a message waits so many seconds, or longer: the first step that is long enough."""
    seconds = LADDER_S[step_for(delay)]
    name = f"eventflow.delay.{seconds}"
    step = Queue(
        name,
        arguments=MappingProxyType(
            {
                **_QUORUM,
                "x-message-ttl": seconds * 1_000,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": DUE_QUEUE,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
        ),
    )
    return Route("", name, must_arrive=True, parts=(_DUE, step))


def again(name: str) -> Route:
    """The way to the queue of a group, or of an instance, for what is tried again."""
    return Route(AGAIN, name, must_arrive=True, parts=(_AGAIN,))


def bound_again(source: Source, name: str) -> Source:
    """A queue, with that way to it under a name."""
    return Source(
        source.queue, (*source.parts, *again_to(source.queue, name)), counts=source.counts
    )


def again_to(queue: str, name: str) -> tuple[Part, ...]:
    """What leads to a queue that is there, for what is tried again under a name."""
    return _AGAIN, Binding(queue, AGAIN, name)


def due_ms(delay: float) -> int:
    """So many seconds from now; no later than can be written down, some 30,000 years."""
    return ceil(min((time.time() + delay) * 1_000, 10.0**MOST_DIGITS - 1))
