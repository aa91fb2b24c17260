"""What Watermill declares in RabbitMQ, and what we do."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.rabbitmq import PubSub, RabbitMQBroker, Topics, WorkQueue
from eventflow.brokers.rabbitmq._ladder import AGAIN
from eventflow.errors import TopologyError
from eventflow.messaging import Message
from tests.interop.rabbitmq import PRESETS, Preset, listed
from tests.interop.support import BUILT_WITHIN_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventflow.brokers.rabbitmq import Topology
    from tests.servers.rabbitmq import RabbitMQ

    Quorum = Callable[[str], Topology]

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(BUILT_WITHIN_S)]

# Ours with quorum queues, beside Watermill's preset of the same exchanges.
QUORUM: dict[str, Quorum] = {
    "durable-pubsub": lambda _: PubSub(),
    "durable-queue": lambda _: WorkQueue(),
    "durable-topic": lambda exchange: Topics(exchange=exchange, durable=False),
}
WHAT_TO_DO = r'is there with other properties.*say queue_type="classic".*no text'


@pytest.fixture
def topic() -> str:
    return f"topic-{uuid.uuid4().hex[:12]}"


async def declare(broker: RabbitMQBroker, topology: Topology, topic: str) -> None:
    group = "group" if topology.has_groups else None
    await broker.publisher(topology=topology).prepare(topic)
    await broker.subscriber(group=group, topology=topology).prepare(topic)


async def test_both_declare_the_same(rabbitmq: RabbitMQ, program: Path) -> None:
    """The server lists the same exchanges, queues and bindings, whoever was first, or alone.

    But for the binding by which our retries come, which is of no account to Watermill.
    It refuses what has other properties to whoever comes second.
    """
    places = list[tuple[str, str, str]]()
    async with RabbitMQBroker(rabbitmq.address) as broker:
        for name in PRESETS:
            for sides in (("ours",), ("theirs",), ("ours", "theirs"), ("theirs", "ours")):
                preset = Preset(name, rabbitmq.address, program)
                topic = f"topic-{uuid.uuid4().hex[:12]}"
                places.append((name, topic, preset.exchange))
                for side in sides:
                    if side == "ours":
                        await declare(broker, preset.topology, topic)
                    else:
                        assert await preset.watermill.declare(topic, "group") == ""
    lines = await asyncio.to_thread(listed, rabbitmq)
    lines = [line for line in lines if not line.startswith(f"binding {AGAIN} ")]
    found = dict[str, list[list[str]]]()
    for name, topic, exchange in places:
        words = [line.replace(topic, "TOPIC").replace(exchange, "EXCHANGE") for line in lines]
        there = [word for word, line in zip(words, lines, strict=True) if word != line]
        found.setdefault(name, []).append(sorted(there))
    wanted = {
        "durable-pubsub": [
            "binding  TOPIC_group TOPIC_group []",
            "binding TOPIC TOPIC_group  []",
            "exchange TOPIC fanout true false false []",
            "queue TOPIC_group true false false []",
        ],
        "durable-queue": ["binding  TOPIC TOPIC []", "queue TOPIC true false false []"],
        "durable-topic": [
            "binding  TOPIC_group TOPIC_group []",
            "binding EXCHANGE TOPIC_group TOPIC []",
            "exchange EXCHANGE topic false false false []",
            "queue TOPIC_group true false false []",
        ],
        "transient-pubsub": [
            "binding  TOPIC_group TOPIC_group []",
            "binding TOPIC TOPIC_group  []",
            "exchange TOPIC fanout false false false []",
            "queue TOPIC_group false false false []",
        ],
        "transient-queue": ["binding  TOPIC TOPIC []", "queue TOPIC false false false []"],
        "transient-topic": [
            "binding  TOPIC_group TOPIC_group []",
            "binding EXCHANGE TOPIC_group TOPIC []",
            "exchange EXCHANGE topic false false false []",
            "queue TOPIC_group false false false []",
        ],
    }
    assert found == {name: [there] * 4 for name, there in wanted.items()}


@pytest.mark.parametrize("name", QUORUM)
async def test_a_quorum_queue_is_refused_where_watermill_has_one(
    rabbitmq: RabbitMQ, program: Path, topic: str, name: str
) -> None:
    """With one error, which says what to do; the broker goes on, and so does Watermill's queue.

    Nothing stays behind that would be in the way of who then does what it says.
    """
    preset = Preset(name, rabbitmq.address, program)
    topology = QUORUM[name](preset.exchange)
    assert await preset.watermill.declare(topic, "group") == ""
    group = "group" if topology.has_groups else None
    async with RabbitMQBroker(rabbitmq.address, topology=topology) as broker:
        subscriber = broker.subscriber(group=group)
        with pytest.raises(TopologyError, match=WHAT_TO_DO) as refused:
            await subscriber.prepare(topic)
        assert not refused.value.retriable
        with pytest.raises(TopologyError, match=WHAT_TO_DO):
            async with subscriber.subscribe(topic):
                raise AssertionError("it began")
        publisher = broker.publisher()
        if name == "durable-queue":  # whose publisher declares the queue too
            with pytest.raises(TopologyError, match=WHAT_TO_DO):
                await publisher.publish(topic, Message(b"x"))
        else:
            await publisher.publish(topic, Message(b"x"))
        await broker.publisher(topology=preset.topology).publish(topic, Message(b"y"))
        shared = broker.subscriber(group=group, topology=preset.topology)
        await shared.publisher().publish(f"{topic}.dead_letter", Message(b"z"))
    expected = [b"y"] if name == "durable-queue" else [b"x", b"y"]
    async with preset.watermill.running("consume", topic=topic, group="group") as reader:
        assert [one.payload for one in await reader.wait(len(expected))] == expected


@pytest.mark.parametrize("name", QUORUM)
async def test_watermill_is_refused_where_we_have_a_quorum_queue(
    rabbitmq: RabbitMQ, program: Path, topic: str, name: str
) -> None:
    """And so is our classic one, with an error that says what to do."""
    preset = Preset(name, rabbitmq.address, program)
    topology = QUORUM[name](preset.exchange)
    async with RabbitMQBroker(rabbitmq.address) as broker:
        await declare(broker, topology, topic)
        assert "inequivalent arg 'x-" in await preset.watermill.declare(topic, "group")
        with pytest.raises(TopologyError, match=r"a quorum queue of ours.*empty and delete it"):
            await declare(broker, preset.topology, topic)


async def test_a_durable_exchange_is_refused_where_watermill_has_one(
    rabbitmq: RabbitMQ, program: Path, topic: str
) -> None:
    """Its topic preset's does not outlive the server; the error says what to do."""
    preset = Preset("durable-topic", rabbitmq.address, program)
    assert await preset.watermill.declare(topic, "group") == ""
    topology = Topics(exchange=preset.exchange, queue_type="classic")
    async with RabbitMQBroker(rabbitmq.address, topology=topology) as broker:
        with pytest.raises(TopologyError, match=r"durable=False in Topics"):
            await broker.publisher().publish(topic, Message(b"x"))


async def test_a_single_active_consumer_is_refused_where_watermill_has_a_queue(
    rabbitmq: RabbitMQ, program: Path, topic: str
) -> None:
    """It is an argument of the queue, which Watermill's presets don't have."""
    preset = Preset("durable-pubsub", rabbitmq.address, program)
    assert await preset.watermill.declare(topic, "group") == ""
    single = PubSub(queue_type="classic", single_active_consumer=True)
    async with RabbitMQBroker(rabbitmq.address) as broker:
        with pytest.raises(TopologyError, match="x-single-active-consumer"):
            await declare(broker, single, topic)
