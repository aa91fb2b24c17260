"""A message on its way through a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable
    from datetime import datetime

    from eventflow._cause import Envelope
    from eventflow.messaging._reader import Reader
    from eventflow.messaging.delivery import Delivery

__all__ = ("Job",)


class Job:
    """One delivery that a handler has to end, from its dispatch to its ack.

    Attributes:
        delivery: The delivery.
        item: The event, or the message, with what came along.
        reader: Where it came from.
        number: Number of the next attempt, from 1; failures recorded by earlier deliveries count.
        lane: Key of its lane, where ``has_lane``.
        has_lane: Whether its lane waits for its end.
        first_failed_at: When its first attempt here failed.
        timer: Wakes it for its next attempt.
    """

    __slots__ = (
        "delivery",
        "first_failed_at",
        "has_lane",
        "item",
        "lane",
        "number",
        "reader",
        "timer",
    )

    def __init__(self, delivery: Delivery, item: Envelope, reader: Reader) -> None:
        self.delivery = delivery
        self.item = item
        self.reader = reader
        self.number = delivery.failures + 1
        self.lane: Hashable = None
        self.has_lane = False
        self.first_failed_at: datetime | None = None
        self.timer: asyncio.TimerHandle | None = None
