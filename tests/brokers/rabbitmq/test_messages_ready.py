"""How many messages wait in a group's queue: what the server itself says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.rabbitmq import WorkQueue
from eventflow.errors import InvalidOptionError, UnsupportedFeatureError
from eventflow.messaging import Broadcast, Message
from tests.brokers.rabbitmq.support import broker_at, named, take, until

if TYPE_CHECKING:
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbitmq


@pytest.mark.fault("OBS-04")
async def test_what_waits_and_is_in_nobodys_hands(rabbitmq: RabbitMQ) -> None:
    """As ``rabbitmqctl`` counts it; once all is settled, 0."""
    topic = named("ready")
    async with broker_at(rabbitmq.address) as broker:
        subscriber = broker.subscriber(group="g")
        assert await subscriber.messages_ready(topic) == 0  # and the queue is there
        await broker.publisher().publish(topic, *(Message(b"%d" % n) for n in range(5)))
        assert await subscriber.messages_ready(topic) == 5
        async with subscriber.subscribe(topic, max_in_flight=3) as deliveries:
            held = await take(deliveries, 3)
            assert await subscriber.messages_ready(topic) == 2
            await _agreed(rabbitmq, f"{topic}_g", 2)
            for delivery in held:
                delivery.ack()
            held += await take(deliveries, 2)
            for delivery in held[3:]:
                delivery.ack()
            for delivery in held:
                await delivery.settled()
        assert await subscriber.messages_ready(topic) == 0


async def test_a_queue_of_all(rabbitmq: RabbitMQ) -> None:
    topic = named("ready")
    async with broker_at(rabbitmq.address, topology=WorkQueue()) as broker:
        await broker.publisher().publish(topic, Message(b"1"), Message(b"2"))
        assert await broker.subscriber().messages_ready(topic) == 2


async def test_what_it_does_not_say(rabbitmq: RabbitMQ) -> None:
    """The queues of instances are theirs alone; a group's lag has what is in hand, too."""
    async with broker_at(rabbitmq.address) as broker:
        with pytest.raises(InvalidOptionError, match="each instance"):
            await broker.subscriber(group=Broadcast()).messages_ready(named("ready"))
        with pytest.raises(UnsupportedFeatureError, match="lag"):
            await broker.subscriber(group="g").lag(named("ready"))


async def _agreed(server: RabbitMQ, queue: str, count: int) -> None:
    """``rabbitmqctl`` says so too, which it learns of every few seconds."""

    async def is_so() -> bool:
        asked = asyncio.to_thread(server.control, "list_queues", "name", "messages_ready")
        return f"{queue}\t{count}" in (await asked).splitlines()

    await until(is_so, f"{queue} has {count}")
