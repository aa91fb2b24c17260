"""A queue that Watermill and we share."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.rabbitmq import RabbitMQBroker
from eventflow.messaging import Message
from tests.brokers.kafka.support import until
from tests.interop.rabbitmq import DURABLE, Preset, left_in, member_of
from tests.interop.support import BUILT_WITHIN_S, Written

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from eventflow.messaging import Deliveries, Delivery
    from tests.interop.support import Watermill
    from tests.servers.rabbitmq import RabbitMQ

    # Ids of what one has handled so far.
    Handled = Callable[[], list[str]]

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(BUILT_WITHIN_S)]

AGAIN = "_watermill_amqp_redelivered"


@pytest.fixture(params=DURABLE)
def preset(request: pytest.FixtureRequest, rabbitmq: RabbitMQ, program: Path) -> Preset:
    return Preset(str(request.param), rabbitmq.address, program)


@pytest.fixture
def topic() -> str:
    return f"interop.{uuid.uuid4().hex[:12]}"


@pytest.fixture
def group() -> str:
    return f"interop-{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def our_member(
    broker: RabbitMQBroker, preset: Preset, topic: str, group: str
) -> AsyncGenerator[Handled]:
    acked: list[str] = []

    async def read(deliveries: Deliveries) -> None:
        async for delivery in deliveries:
            assert delivery.ack()
            acked.append(delivery.message.id)

    # It fetches as few messages ahead as Watermill does, so that both have some to do.
    subscriber = member_of(broker, preset, group)
    async with subscriber.subscribe(topic, max_in_flight=1) as deliveries:
        reading = asyncio.create_task(read(deliveries))
        yield lambda: acked
    await reading


@asynccontextmanager
async def their_member(watermill: Watermill, topic: str, group: str) -> AsyncGenerator[Handled]:
    async with watermill.running("consume", topic=topic, group=group) as reader:
        yield lambda: [one.id for one in reader.received]


@pytest.mark.parametrize("leader", ["ours", "theirs"])
async def test_a_group_of_both(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str, leader: str
) -> None:
    """Each message is handled once, by either; when one leaves, the other one has them all.

    A group of another name gets all of it too, where a topic has groups.
    """
    ours = [Message(b"x") for _ in range(200)]
    theirs = [Written(b"x", id=f"theirs-{n}") for n in range(200)]
    later = [Message(b"x") for _ in range(100)]
    sent = Counter([m.id for m in ours] + [m.id for m in theirs])
    has_groups = preset.topology.has_groups
    async with (
        RabbitMQBroker(rabbitmq.address, topology=preset.topology) as broker,
        AsyncExitStack() as staying,
        AsyncExitStack() as leaving,
    ):
        members = {
            "ours": our_member(broker, preset, topic, group),
            "theirs": their_member(preset.watermill, topic, group),
        }
        if has_groups:
            assert await preset.watermill.declare(topic, f"{group}-other") == ""
        assert await preset.watermill.declare(topic, group) == ""
        first = await leaving.enter_async_context(members.pop(leader))
        await preset.watermill.publish(topic, Written(b"x", id="first"))
        sent["first"] += 1
        await until(lambda: first() == ["first"], "the first one is there")
        ((_, joining),) = members.items()
        second = await staying.enter_async_context(joining)
        await asyncio.gather(
            broker.publisher().publish(topic, *ours), preset.watermill.publish(topic, *theirs)
        )
        await until(lambda: len(first()) + len(second()) >= len(sent), "all handled")
        assert Counter(first() + second()) == sent
        assert len(first()) > 1
        assert second()

        await leaving.aclose()
        alone = len(second())
        await broker.publisher().publish(topic, *later)
        sent += Counter(message.id for message in later)
        await until(lambda: len(second()) >= alone + len(later), "all handled")
        assert Counter(first() + second()) == sent
    assert await left_in(rabbitmq, preset.topology.source(topic, group).queue) == 0
    if has_groups:
        other = preset.topology.source(topic, f"{group}-other").queue
        assert await left_in(rabbitmq, other) == sent.total()


@pytest.mark.parametrize("way", ["leaves", "is killed"])
async def test_what_watermill_held_comes_here(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str, way: str
) -> None:
    """Also when it is killed. What it has acked does not; what it held was delivered before."""
    sent = [Message(str(n).encode(), {"n": str(n)}) for n in range(6)]
    assert await preset.watermill.declare(topic, group) == ""
    async with RabbitMQBroker(rabbitmq.address, topology=preset.topology) as broker:
        await broker.publisher().publish(topic, *sent)
        options = {"topic": topic, "group": group, "limit": 2}
        async with preset.watermill.running("consume", **options) as reader:
            came = await reader.wait(3)
            if way == "is killed":
                await reader.kill()
        assert [(one.id, one.did) for one in came] == [
            (message.id, did)
            for message, did in zip(sent, ("acked", "acked", "held"), strict=False)
        ]
        found: list[Delivery] = []
        async with (
            member_of(broker, preset, group).subscribe(topic) as deliveries,
            asyncio.timeout(30),
        ):
            while len(found) < 4:
                for delivery in await deliveries.receive(4):
                    assert delivery.ack()
                    found.append(delivery)
    assert [delivery.message for delivery in found] == sent[2:]
    assert [delivery.coordinates["redelivered"] for delivery in found] == [1, 0, 0, 0]
    assert await left_in(rabbitmq, preset.topology.source(topic, group).queue) == 0


async def test_what_we_held_comes_to_watermill(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str
) -> None:
    """In its order, with the pair that Watermill adds; what we have acked does not."""
    sent = [Written(str(n).encode(), {"n": str(n)}, f"m-{n}") for n in range(6)]
    assert await preset.watermill.declare(topic, group) == ""
    await preset.watermill.publish(topic, *sent)
    async with RabbitMQBroker(rabbitmq.address, topology=preset.topology) as broker:
        held: list[Delivery] = []
        subscriber = member_of(broker, preset, group)
        async with (
            subscriber.subscribe(topic, max_in_flight=6) as deliveries,
            asyncio.timeout(30),
        ):
            while len(held) < 6:
                held += await deliveries.receive(6)
            assert [delivery.message.id for delivery in held] == [one.id for one in sent]
            for delivery in held[:2]:
                assert delivery.ack()
    async with preset.watermill.running("consume", topic=topic, group=group) as reader:
        came = await reader.wait(4)
    assert [(one.id, one.payload) for one in came] == [(one.id, one.payload) for one in sent[2:]]
    assert [one.metadata for one in came] == [{**one.metadata, AGAIN: "true"} for one in sent[2:]]
    assert await left_in(rabbitmq, preset.topology.source(topic, group).queue) == 0


@pytest.mark.parametrize("preset", ["durable-topic"], indirect=True)
async def test_the_exchange_that_goes_with_a_restart_is_declared_again(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str
) -> None:
    """By both; queues, and what is in them, outlive the server."""
    other = f"{group}-other"
    async with (
        RabbitMQBroker(rabbitmq.address, topology=preset.topology) as broker,
        member_of(broker, preset, group).subscribe(topic) as deliveries,
        asyncio.timeout(60),
    ):
        publisher = broker.publisher()
        assert await preset.watermill.declare(topic, other) == ""
        await publisher.publish(topic, Message(b"before"))
        (delivery,) = await deliveries.receive()
        assert delivery.ack()
        await delivery.settled()
        await asyncio.to_thread(rabbitmq.control, "stop_app")
        await until(lambda: bool(deliveries.problem), "ours is away")
        await asyncio.to_thread(rabbitmq.control, "start_app")
        await until(lambda: not deliveries.problem, "ours is back")
        async with preset.watermill.running("consume", topic=topic, group=other) as reader:
            assert [one.payload for one in await reader.wait(1)] == [b"before"]
            await publisher.publish(topic, Message(b"ours"))
            await preset.watermill.publish(topic, Written(b"theirs", id="theirs"))
            assert [one.payload for one in (await reader.wait(3))[1:]] == [b"ours", b"theirs"]
        came: list[bytes] = []
        while len(came) < 2:
            for delivery in await deliveries.receive(2):
                assert delivery.ack()
                came.append(delivery.message.payload)
        assert came == [b"ours", b"theirs"]
        assert not broker.unrouted
