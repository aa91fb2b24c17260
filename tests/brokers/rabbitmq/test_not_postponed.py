"""What can't be stored for later waits here: it does not come again and again meanwhile."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import aiormq
import pytest
from pamqp import commands

from eventflow import FailurePolicy, Retry
from eventflow.brokers.rabbitmq import WorkQueue
from eventflow.brokers.rabbitmq._frames import BESIDE
from eventflow.brokers.rabbitmq.publisher import ROOM
from eventflow.errors import MessageTooLargeError
from eventflow.messaging import Message, Router
from eventflow.messaging.dead_letter import LEFT_OUT, REASON
from tests.brokers.rabbitmq.support import ID, broker_at, named, take, until

if TYPE_CHECKING:
    from eventflow.messaging import Delivery
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]

FRAME = 131_072


async def foreign(address: str, exchange: str, headers: dict[str, Any]) -> None:
    """Publish as others may, up to the last byte of a frame."""
    connection: Any = await aiormq.connect(address)
    try:
        channel = await connection.channel(publisher_confirms=True)
        properties = commands.Basic.Properties(headers=headers, delivery_mode=2)
        await channel.basic_publish(b"x", exchange=exchange, properties=properties)
    finally:
        await connection.close()


def full() -> dict[str, Any]:
    """Headers that leave no room for a note."""
    beside = BESIDE + 4 + len(ID) + 6 + 36 + len("big") + 6 + 64  # for what the client adds
    return {ID: "0" * 36, "big": "a" * (FRAME - beside)}


async def test_headers_with_no_room_for_a_note(rabbitmq: RabbitMQ) -> None:
    """The connection stays, for all; it comes again after the delay."""
    topic = named("full")
    async with (
        broker_at(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        await foreign(rabbitmq.address, topic, full())
        (one,) = await take(deliveries, 1)
        session, began = broker.link.session, time.monotonic()
        one.nack(delay=1)
        (again,) = await take(deliveries, 1)
        assert time.monotonic() - began >= 1
        assert broker.link.session is session
        assert session is not None
        assert again.ack()
        await again.settled()


async def test_a_subscription_that_is_left_does_not_wait_for_it(rabbitmq: RabbitMQ) -> None:
    topic = named("full")
    async with broker_at(rabbitmq.address) as broker:
        async with broker.subscriber(group="g").subscribe(topic) as deliveries:
            await foreign(rabbitmq.address, topic, full())
            (one,) = await take(deliveries, 1)
            one.nack(delay=600)
            await asyncio.sleep(0)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        async with broker.subscriber(group="g").subscribe(topic) as deliveries:
            (again,) = await take(deliveries, 1)
            assert again.ack()


async def test_a_step_that_is_something_else(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue of its name has other properties: no hot loop of a handler that fails."""
    topic, times = named("step"), list[float]()
    monkeypatch.setattr("eventflow.brokers.rabbitmq._ladder.LADDER_S", (7, 8))
    connection: Any = await aiormq.connect(rabbitmq.address)
    channel = await connection.channel()
    await channel.queue_declare("eventflow.delay.7", durable=True)
    try:
        async with broker_at(rabbitmq.address) as broker:

            async def fail(message: Message) -> None:
                times.append(time.monotonic())
                raise ValueError

            router = Router(on_failure=FailurePolicy(retry=Retry(attempts=3, initial=1, jitter=0)))
            router.add_handler(
                "fail", topic, fail, subscriber=broker.subscriber(group="g"), order="relaxed"
            )
            async with router:
                await broker.publisher().publish(topic, Message(b"x"))
                await until(lambda: len(times) >= 3, "three attempts")
            assert all(late - early > 0.9 for early, late in pairwise(times))
    finally:
        await channel.queue_delete("eventflow.delay.7")
        await connection.close()


async def test_a_dead_letter_of_what_has_no_room(rabbitmq: RabbitMQ) -> None:
    """It is kept without its headers, and those behind it are handled."""
    topic, done = named("full"), list[str]()
    async with broker_at(rabbitmq.address) as broker:

        async def handle(message: Message) -> None:
            if "big" in message.metadata:
                raise ValueError("no")
            done.append(message.id)

        router = Router(on_failure=FailurePolicy(retry=Retry(attempts=1)))
        router.add_handler("h", topic, handle, subscriber=broker.subscriber(group="g"))
        async with router:
            await foreign(rabbitmq.address, topic, full())
            await broker.publisher().publish(topic, Message(b"y"))
            await until(lambda: len(done) == 1, "the next one is handled")
        letters = broker.subscriber(topology=WorkQueue())
        async with letters.subscribe(f"{topic}.dead_letter") as deliveries:
            (letter,) = await take(deliveries, 1)
            _check_bare(letter)
            assert letter.ack()


def _check_bare(letter: Delivery) -> None:
    assert letter.message.payload == b"x"
    assert letter.message.metadata[REASON] == "no"
    assert letter.message.metadata[LEFT_OUT] == "1"
    assert "big" not in letter.message.metadata


async def test_what_is_published_leaves_room(rabbitmq: RabbitMQ) -> None:
    """Whatever a publisher takes can be put off, and can be a dead letter with all it has."""
    topic = named("full")
    beside = BESIDE + 4 + len(ID) + 6 + 36 + len("big") + 6 + ROOM
    async with (
        broker_at(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        publisher = broker.publisher()
        with pytest.raises(MessageTooLargeError):
            await publisher.publish(topic, Message(b"x", {"big": "a" * (FRAME - beside + 1)}))
        await publisher.publish(topic, Message(b"x", {"big": "a" * (FRAME - beside)}))
        (one,) = await take(deliveries, 1)
        one.nack(delay=0.5, failures=2)
        (again,) = await take(deliveries, 1)
        assert again.failures == 2
        await (
            broker.subscriber(group="g").publisher().publish(f"{topic}.dead_letter", again.message)
        )
        assert again.ack()
        await again.settled()
