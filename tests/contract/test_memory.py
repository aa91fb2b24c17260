"""The contract, on the backend inside the process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.messaging import Broadcast, Message
from eventflow.testing.contract import BrokerContract

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.messaging import Broker

ROOM = 1_000


@pytest.mark.virtual_clock
class TestMemory(BrokerContract):
    """As it comes."""

    def new_broker(self) -> MemoryBroker:
        return MemoryBroker()


@pytest.mark.virtual_clock
class TestSmallMemory(BrokerContract):
    """Little room, small payloads, and a publish that gives up early."""

    size = 0.1  # some tests publish everything before they read
    publish_timeout = 3.0

    def new_broker(self) -> MemoryBroker:
        return MemoryBroker(
            capacity=ROOM, publish_timeout=self.publish_timeout, max_payload_bytes=65_536
        )

    @asynccontextmanager
    async def blocked(self, broker: Broker, topic: str) -> AsyncGenerator[None]:
        """Somebody holds as many messages as the topic has room for."""
        holder = broker.subscriber(group=Broadcast())
        async with holder.subscribe(topic, max_in_flight=ROOM) as deliveries:
            held = 0
            while held < ROOM:
                await broker.publisher().publish(topic, Message(b"in the way"))
                held += len(await deliveries.receive(ROOM))
            yield
