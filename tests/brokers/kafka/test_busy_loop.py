"""An event loop that is never idle, as beside many requests: messages come and go all the same."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from eventflow.messaging import Message, Router
from tests.brokers.kafka.support import broker_at, until

if TYPE_CHECKING:
    from tests.servers.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

COUNT = 3_000
TASKS = 500


async def keep_busy(seconds: float) -> None:
    """Compute for so long in each turn of the loop."""
    while True:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            pass
        await asyncio.sleep(0)


@pytest.mark.parametrize("turn", [0.001, 0.0001])
async def test_a_loop_that_is_never_idle(
    kafka: Kafka, caplog: pytest.LogCaptureFixture, turn: float
) -> None:
    """Confirmed and handled within seconds; what is handled is committed before it is left."""
    topic = kafka.create_topic(f"busy.{uuid.uuid4().hex[:12]}")
    kafka.create_topic(f"{topic}.dead_letter")
    waiting = [Message(str(n).encode(), key=str(n % 50)) for n in range(COUNT)]
    handled: list[str] = []

    async def handle(message: Message) -> None:
        handled.append(message.id)

    busy = asyncio.create_task(keep_busy(turn))
    async with broker_at(kafka.address) as broker:
        publisher = broker.publisher()

        async def publish() -> None:
            while waiting:
                await publisher.publish(topic, waiting.pop())

        router, group = Router(), f"busy-{topic}"
        router.add_handler("work", topic, handle, subscriber=broker.subscriber(group=group))
        async with router:
            async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
                for _ in range(TASKS):
                    tasks.create_task(publish())
            await until(lambda: len(handled) == COUNT, "all are handled", within=20)
        assert await broker.subscriber(group=group).lag(topic) == 0
    busy.cancel()
    assert len({*handled}) == COUNT
    assert "consumer_abandoned" not in caplog.text
