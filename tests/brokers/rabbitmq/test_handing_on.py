"""What is due and is handed on: to several groups, by a broker that is left, with limits set."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiormq
import pytest
from pamqp import commands

from eventflow.brokers.rabbitmq import _forwarder
from eventflow.brokers.rabbitmq._ladder import DUE_QUEUE
from eventflow.errors import PublishError
from eventflow.messaging import Message
from eventflow.messaging.metadata import delay_metadata
from tests.brokers.rabbitmq.support import broker_at, named, outside, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.messaging import Subscriber
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]


def later(seconds: float) -> Message:
    return Message(b"x", delay_metadata(seconds, now=datetime.now(UTC)))


@asynccontextmanager
async def counted(subscriber: Subscriber, topic: str) -> AsyncGenerator[Counter[str]]:
    """How often each message comes."""
    came = Counter[str]()

    async def read() -> None:
        while True:
            for delivery in await deliveries.receive(10):
                came[delivery.message.id] += 1
                delivery.ack()

    async with subscriber.subscribe(topic) as deliveries:
        reading = asyncio.create_task(read())
        try:
            yield came
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def test_one_of_several_groups_refuses(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others get it twice at most, and it is kept for somebody to look at."""
    monkeypatch.setattr(_forwarder, "REFUSED_S", 0.3)
    topic = named("fan")
    async with outside(rabbitmq.address) as look, broker_at(rabbitmq.address) as broker:
        await broker.publisher().prepare(topic)
        full = f"{topic}_full"
        arguments: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
        await look.channel.queue_declare(full, arguments=arguments)
        await look.channel.queue_bind(full, topic)
        await look.channel.basic_publish(b"fill", routing_key=full)
        async with counted(broker.subscriber(group="g"), topic) as came:
            message = later(0.5)
            await broker.publisher().publish(topic, message)
            kept: list[str] = []

            async def is_kept() -> bool:
                kept.extend(name for name, _ in await look.drain(_forwarder.ASIDE))
                return message.id in kept

            await until(lambda: "message_put_aside" in caplog.text, "it is put aside")
            await until(is_kept, "it is kept")
            assert came[message.id] == 2
        await look.channel.queue_delete(full)


async def test_a_broker_that_is_left_meanwhile(rabbitmq: RabbitMQ) -> None:
    """What it has handed on is not handed on by the next one, too."""
    topic = named("left")
    messages = [later(0.5) for _ in range(200)]
    async with (
        broker_at(rabbitmq.address, delays=False) as reader,
        counted(reader.subscriber(group="g"), topic) as came,
    ):
        async with broker_at(rabbitmq.address) as broker:
            await broker.publisher().publish(topic, *messages)
            await until(lambda: bool(came), "some are handed on")
        async with broker_at(rabbitmq.address):
            await until(lambda: len(came) == len(messages), "all are")
        async with outside(rabbitmq.address) as look:
            await look.settled(DUE_QUEUE)
    assert came.total() == len(messages)


async def test_no_server_drops_what_comes_again_and_again(rabbitmq: RabbitMQ) -> None:
    """Those queues say how often, behind which nothing stands: else it is 20 times since 4.0."""
    topic = named("limits")
    async with broker_at(rabbitmq.address) as broker:
        group = broker.subscriber(group="g")
        await group.prepare(topic)
        await group.publisher().prepare(f"{topic}.dead_letter")
        await broker.publisher().publish(topic, later(0.01))
    limits: dict[str, str] = {}
    for line in rabbitmq.control("list_queues", "name", "arguments").splitlines():
        name, _, arguments = line.partition("\t")
        limits[name] = arguments
    assert '{"x-delivery-limit",1000}' in limits[f"{topic}_g"]
    for name in (DUE_QUEUE, f"{topic}.dead_letter"):
        assert '{"x-delivery-limit",1000000000}' in limits[name]


async def test_some_now_and_some_later(rabbitmq: RabbitMQ) -> None:
    """The step of the latter can't be declared: the error says that the former are stored."""
    topic, step = named("mixed"), "eventflow.delay.43200"
    connection: Any = await aiormq.connect(rabbitmq.address)
    channel = await connection.channel()
    await channel.rpc(commands.Queue.Delete(queue=step))
    await channel.queue_declare(step, durable=True)
    try:
        async with broker_at(rabbitmq.address) as broker:
            subscriber = broker.subscriber(group="g")
            await subscriber.prepare(topic)
            now, then = Message(b"now"), later(40_000)
            with pytest.raises(PublishError, match="other properties") as caught:
                await broker.publisher().publish(topic, now, then)
            assert caught.value.stored == (now.id,)
            assert caught.value.not_stored == (then.id,)
            assert await subscriber.messages_ready(topic) == 1
    finally:
        await channel.queue_delete(step)
        await connection.close()
