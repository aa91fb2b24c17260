"""The contract, on the backend inside the process."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.testing.contract import BrokerContract
from tests.contract.full import ROOM, full

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from eventflow.messaging import Broker

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"


@pytest.mark.virtual_clock
class TestMemory(BrokerContract):
    """As it comes."""

    def new_broker(self) -> MemoryBroker:
        return MemoryBroker()

    @pytest.mark.fault("ACK-01")
    @pytest.mark.promise("3")
    async def test_a_crash_between_handler_and_ack(self) -> None:
        await super().test_a_crash_between_handler_and_ack()

    @pytest.mark.fault("ACK-04")
    async def test_a_stop_with_messages_in_flight(self) -> None:
        await super().test_a_stop_with_messages_in_flight()


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

    @pytest.mark.fault("PUB-05")
    async def test_one_bad_message_of_several(self) -> None:
        await super().test_one_bad_message_of_several()

    @pytest.mark.fault("PUB-07")
    async def test_sizes_at_the_limit(self) -> None:
        await super().test_sizes_at_the_limit()


class Together(BrokerContract):
    """Beside others on one loop: what looks at the whole process is left to the classes above."""

    def new_broker(self) -> MemoryBroker:
        return MemoryBroker()


ALONE = {
    "test_nothing_is_left_behind",
    "test_nothing_starts_before_it_is_entered",
    "test_a_cancelled_opening_or_closing_can_be_repeated",
}


@pytest.mark.stress
@pytest.mark.virtual_clock
async def test_the_whole_contract_beside_itself() -> None:
    """Twice (ten times in a stress run) at once, on one event loop."""
    names = [n for n in dir(Together) if n.startswith("test_") and n not in ALONE]
    async with asyncio.TaskGroup() as group:
        for _ in range(10 if STRESS else 2):
            for name in names:
                case = Together()
                case.begin(name)
                group.create_task(getattr(case, name)(), name=name)
