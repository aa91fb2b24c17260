"""A topic that is full."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from eventflow.messaging import Broadcast, Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.messaging import Broker

ROOM = 1_000


@asynccontextmanager
async def full(broker: Broker, topic: str) -> AsyncGenerator[None]:
    """While the block lasts, somebody holds as many messages as a topic has room for."""
    holder = broker.subscriber(group=Broadcast())
    async with holder.subscribe(topic, max_in_flight=ROOM) as deliveries:
        held = 0
        while held < ROOM:
            await broker.publisher().publish(topic, Message(b"in the way"))
            held += len(await deliveries.receive(ROOM))
        yield
