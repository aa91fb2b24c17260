"""What all contenders share: the records, the events they stand for, and how many are in flight."""

from __future__ import annotations

import uuid

from tests.bench.orders import ID, NAME, Order

__all__ = (
    "DEAD_LETTERS",
    "IN_FLIGHT",
    "LATENCY",
    "PARTITIONS",
    "PUBLISHED",
    "READ",
    "SHARED",
    "Headers",
    "OrderBooked",
    "OrderPinged",
    "OrderPlaced",
    "OrderShared",
    "group",
    "headers",
)

PARTITIONS = 8
IN_FLIGHT = 1_000

READ = "bench.orders"
"""Filled beforehand, and read by everybody who consumes."""
SHARED = "bench.shared"
"""The same, longer: for one worker process and for two."""
PUBLISHED = "bench.published"
LATENCY = "bench.pinged"
DEAD_LETTERS = tuple(f"{topic}.dead_letter" for topic in (READ, SHARED, LATENCY))


class OrderPlaced(Order, topic=READ):
    """What is consumed."""


class OrderShared(Order, topic=SHARED):
    """What worker processes share."""


class OrderBooked(Order, topic=PUBLISHED):
    """What is published."""


class OrderPinged(Order, topic=LATENCY):
    """What is published and waited for."""


Headers = list[tuple[str, str | bytes | None]]


def headers(name: str = NAME) -> Headers:
    """The two headers of a record: an id of its own, and the event's name."""
    return [(ID, str(uuid.uuid4()).encode()), ("name", name.encode())]


def group() -> str:
    """A group that has read nothing yet."""
    return f"bench-{uuid.uuid4().hex[:12]}"
