"""What all contenders share: the records, the events they stand for, and how many are in flight."""

from __future__ import annotations

import json
import uuid

from pydantic import BaseModel

from eventflow import Event

__all__ = (
    "BODY",
    "DEAD_LETTERS",
    "ID",
    "IN_FLIGHT",
    "LATENCY",
    "NAME",
    "PARTITIONS",
    "PUBLISHED",
    "READ",
    "SHARED",
    "WARM_UP",
    "Bare",
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
WARM_UP = 20
"""Events of a latency run that do not count."""

READ = "bench.orders"
"""Filled beforehand, and read by everybody who consumes."""
SHARED = "bench.shared"
"""The same, longer: for one worker process and for two."""
PUBLISHED = "bench.published"
LATENCY = "bench.pinged"
DEAD_LETTERS = tuple(f"{topic}.dead_letter" for topic in (READ, SHARED, LATENCY))

NAME = "OrderPlaced"
ID = "_watermill_message_uuid"


class Order(Event):
    """An event of 100 bytes; its subclasses are the same under other names."""

    order_id: str
    amount_cents: int
    note: str


class OrderPlaced(Order, topic=READ):
    """What is consumed."""


class OrderShared(Order, topic=SHARED):
    """What worker processes share."""


class OrderBooked(Order, topic=PUBLISHED):
    """What is published."""


class OrderPinged(Order, topic=LATENCY):
    """What is published and waited for."""


class Bare(BaseModel):
    """What an event is without eventflow."""

    order_id: str
    amount_cents: int
    note: str


def _body(size: int) -> bytes:
    given = {"order_id": "A-1", "amount_cents": 1250, "note": ""}
    given["note"] = "x" * (size - len(json.dumps(given, separators=(",", ":"))))
    return json.dumps(given, separators=(",", ":")).encode()


BODY = _body(100)


Headers = list[tuple[str, str | bytes | None]]


def headers(name: str = NAME) -> Headers:
    """The two headers of a record: an id of its own, and the event's name."""
    return [(ID, str(uuid.uuid4()).encode()), ("name", name.encode())]


def group() -> str:
    """A group that has read nothing yet."""
    return f"bench-{uuid.uuid4().hex[:12]}"
