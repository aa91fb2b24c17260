"""A message on its way through a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.messaging.codec import Received

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable
    from datetime import datetime

    from eventflow.events import Event
    from eventflow.messaging._reader import Reader
    from eventflow.messaging.delivery import Delivery

__all__ = ("Job",)


class Job(Received):
    """One delivery that a handler has to end, from its dispatch to its ack.

    Attributes:
        event: The event; where the handler takes messages, what stands for one.
        delivery: The delivery.
        reader: Where it came from.
        number: Number of the next attempt, from 1; failures recorded by earlier deliveries count.
        lane: Key of its lane, where ``has_lane``.
        has_lane: Whether its lane waits for its end.
        first_failed_at: When its first attempt here failed.
        timer: Wakes it for its next attempt.
    """

    __slots__ = (
        "first_failed_at",
        "has_lane",
        "lane",
        "number",
        "reader",
        "timer",
    )

    def __init__(self, delivery: Delivery, event: Event, reader: Reader) -> None:
        self.delivery = delivery
        self.event = event
        self.reader = reader
        self.number = delivery.failures + 1
        self.lane: Hashable = None
        self.has_lane = False
        self.first_failed_at: datetime | None = None
        self.timer: asyncio.TimerHandle | None = None
