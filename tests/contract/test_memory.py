"""The contract, on the backend inside the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.testing.contract import BrokerContract
from tests.contract.full import ROOM, full

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from eventflow.messaging import Broker


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

    def blocked(self, broker: Broker, topic: str) -> AbstractAsyncContextManager[None]:
        return full(broker, topic)
