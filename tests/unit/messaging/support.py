"""What the tests of messages share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow import Event, FailurePolicy, Retry

if TYPE_CHECKING:
    from eventflow.brokers.memory import MemoryBroker
    from eventflow.messaging import Message


class Placed(Event, topic="orders"):
    n: int
    key: str = ""


class Paid(Event, topic="orders"):
    n: int


class Shipped(Event, topic="shipments"):
    n: int


QUICK = FailurePolicy(retry=Retry(attempts=3, initial=0.1, jitter=0.0))


def now() -> float:
    return asyncio.get_running_loop().time()


async def stored(broker: MemoryBroker, topic: str, *, group: str = "looks") -> list[Message]:
    """Everything that is stored under a topic now."""
    found: list[Message] = []
    subscriber = broker.subscriber(group=group)
    async with subscriber.subscribe(topic, max_in_flight=100_000) as deliveries:
        while await subscriber.lag(topic) > len(found):
            found += [delivery.message for delivery in await deliveries.receive(1_000)]
    return found
