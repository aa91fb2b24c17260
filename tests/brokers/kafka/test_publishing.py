"""Publishing: which partition, which topics, and a broker that is not there."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import FailurePolicy
from eventflow.brokers.kafka import KafkaBroker
from eventflow.errors import (
    BrokerConnectionError,
    ConfigurationError,
    MessageTooLargeError,
    TopicNotFoundError,
)
from eventflow.failure import DeadLetter
from eventflow.messaging import Message, Router
from tests.brokers.kafka.support import broker_at, records
from tests.servers.process import free_port

if TYPE_CHECKING:
    from tests.servers.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


def new_name() -> str:
    return f"publishing.{uuid.uuid4().hex[:12]}"


def fnv1a(key: bytes, partitions: int) -> int:
    """Sarama's hash partitioner, which Watermill uses: signed, and the rest made positive."""
    value = 0x811C9DC5
    for byte in key:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    signed = value - (1 << 32) if value >= 1 << 31 else value
    rest = abs(signed) % partitions  # the sign of Go's remainder is the dividend's
    return abs(rest)


def murmur2(key: bytes, partitions: int) -> int:
    """The Java client's partitioner: murmur2, the sign cut off."""
    mask = 0xFFFFFFFF
    value = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        part = int.from_bytes(key[at : at + 4], "little") * 0x5BD1E995 & mask
        part = (part ^ part >> 24) * 0x5BD1E995 & mask
        value = (value * 0x5BD1E995 & mask) ^ part
    rest = key[whole:]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * 0x5BD1E995 & mask
    value = (value ^ value >> 13) * 0x5BD1E995 & mask
    return ((value ^ value >> 15) & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize("partitioner", ["murmur2", "fnv1a"])
async def test_a_key_has_its_partition(kafka: Kafka, partitioner: str) -> None:
    """As other clients place it; messages without a key go to several."""
    topic = kafka.create_topic(new_name(), partitions=7)
    keys = [f"customer-{n}" for n in range(60)] + ["", "ż", "k" * 100]
    async with broker_at(kafka.address, partitioner=partitioner) as broker:
        await broker.publisher().publish(topic, *(Message(b"x", key=key) for key in keys))
    place = {"murmur2": murmur2, "fnv1a": fnv1a}[partitioner]
    found = records(kafka, topic, partitions=7)
    assert len(found) == len(keys)
    wrong = [r.key() for r in found if r.key() and r.partition() != place(r.key(), 7)]
    assert not wrong


async def test_what_a_record_is(kafka: Kafka) -> None:
    """Value, key and headers, byte by byte, as Watermill writes them."""
    topic = kafka.create_topic(new_name())
    async with broker_at(kafka.address) as broker:
        await broker.publisher().publish(
            topic, Message(b"\x00x", {"name": "Ping", "t": "ż"}, id="m-1", key="k"), Message(b"")
        )
    found: dict[Any, Any] = {record.key(): record for record in records(kafka, topic)}
    assert found[b"k"].value() == b"\x00x"
    assert found[b"k"].headers() == [
        ("_watermill_message_uuid", b"m-1"),
        ("name", b"Ping"),
        ("t", "ż".encode()),
    ]
    assert found[None].value() == b""


async def test_a_topic_that_nobody_has_created(kafka: Kafka) -> None:
    """Each use is refused at once, with the remedy; nothing creates it by the way."""
    topic = new_name()
    async with broker_at(kafka.address) as broker:
        subscriber = broker.subscriber(group="g")
        began = time.monotonic()
        for use in (
            broker.publisher().publish(topic, Message(b"x")),
            broker.publisher().prepare(topic),
            subscriber.prepare(topic),
            subscriber.lag(topic),
            subscriber.subscribe(topic).__aenter__(),
        ):
            with pytest.raises(TopicNotFoundError, match="create it") as caught:
                await use
            assert caught.value.topic == topic
        assert time.monotonic() - began < 10
        await broker.ensure_topics(topic, partitions=3)
        await broker.ensure_topics(topic, partitions=5)  # stays as it is
        await broker.publisher().publish(topic, Message(b"x"))
    assert len(records(kafka, topic, partitions=3)) == 1


async def test_a_broker_that_is_not_there() -> None:
    """A typed error by the deadline, with the address; entering again works the same."""
    port = free_port()
    broker = KafkaBroker(f"127.0.0.1:{port}", connect_timeout=1.0)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(BrokerConnectionError, match=rf"127\.0\.0\.1:{port}"):
            await broker.__aenter__()
        assert time.monotonic() - began < 4


async def test_metadata_has_a_bound(kafka: Kafka) -> None:
    """So that the dead letter of any message fits, which has more of it."""
    topic = kafka.create_topic(new_name())
    async with broker_at(kafka.address) as broker:
        publisher, limit = broker.publisher(), broker.features.max_payload_bytes
        assert limit is not None
        await publisher.publish(topic, Message(b"x" * limit, {"m": "y" * 32_000}))
        with pytest.raises(MessageTooLargeError, match="metadata"):
            await publisher.publish(topic, Message(b"x"), Message(b"x", {"m": "y" * 33_000}))
    assert len(records(kafka, topic)) == 1


async def test_all_of_a_key_stay_in_order(kafka: Kafka) -> None:
    """Also where the calls overlap: in the order in which they were made."""
    topic = kafka.create_topic(new_name())
    async with broker_at(kafka.address) as broker:
        publisher = broker.publisher()
        await publisher.prepare(topic)
        async with asyncio.TaskGroup() as group:
            for n in range(0, 2_000, 2):
                pair = [Message(str(n + i).encode(), key=f"k{n % 6}") for i in (0, 1)]
                group.create_task(publisher.publish(topic, *pair))
    came: defaultdict[bytes, list[int]] = defaultdict(list)
    for record in records(kafka, topic):
        came[record.key()].append(int(record.value()))
    assert sum(map(len, came.values())) == 2_000
    assert all(numbers == sorted(numbers) for numbers in came.values())


async def test_a_topic_for_dead_letters_that_takes_less(kafka: Kafka) -> None:
    """Found out at the start, and not when something has failed; said with the way out."""
    topic = kafka.create_topic(new_name())
    small = f"{topic}.small"

    async def handler(message: Message) -> None: ...

    router = Router(on_failure=FailurePolicy(then=DeadLetter(small)))
    async with broker_at(kafka.address) as broker:
        await broker.ensure_topics(small, properties={"max.message.bytes": "100000"})
        with pytest.raises(ConfigurationError, match=r"takes 100,000 bytes.*=51412$"):
            await broker.publisher().prepare(small)
        router.add_handler("h", topic, handler, subscriber=broker.subscriber(group="small"))
        with pytest.raises(ConfigurationError, match="max_payload_bytes=51412"):
            async with router:
                pytest.fail("started")
    async with broker_at(kafka.address, max_payload_bytes=51_412) as broker:
        await broker.publisher().prepare(small)
