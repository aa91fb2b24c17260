"""Offsets that no message has: of transactions, and of what retention took."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin
import pytest
from confluent_kafka import Producer, TopicPartition

from eventflow.messaging import Message
from tests.brokers.kafka.support import broker_at, committed

if TYPE_CHECKING:
    from eventflow.messaging import Deliveries
    from tests.servers.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

_library: Any = confluent_kafka.admin


@pytest.fixture
def topic(kafka: Kafka) -> str:
    return kafka.create_topic(f"gaps.{uuid.uuid4().hex[:12]}", partitions=1)


async def handled(deliveries: Deliveries, count: int) -> list[bytes]:
    found: list[bytes] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            for delivery in await deliveries.receive(count - len(found)):
                assert delivery.ack()
                await delivery.settled()
                found.append(delivery.message.payload)
    return found


def transactions(kafka: Kafka, topic: str, *, first: int) -> list[bytes]:
    """Three committed, one aborted and two committed records, and what marks each end."""
    producer = Producer(
        {"bootstrap.servers": kafka.address, "transactional.id": f"t-{uuid.uuid4().hex}"}
    )
    producer.init_transactions(30)
    stored: list[bytes] = []
    for count, is_kept in ((3, True), (1, False), (2, True)):
        producer.begin_transaction()
        for _ in range(count):
            body = f"{first + len(stored)}".encode() if is_kept else b"never"
            producer.produce(topic, body)
            if is_kept:
                stored.append(body)
        assert producer.flush(30) == 0  # else an abort takes back what was never sent
        if is_kept:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    producer.close()
    return stored


async def test_transactions_of_others(kafka: Kafka, topic: str) -> None:
    """What was aborted is not seen; marks are passed over, and a restart begins behind them."""
    group = f"group-{uuid.uuid4().hex[:12]}"
    async with broker_at(kafka.address) as broker:
        subscriber = broker.subscriber(group=group)
        for first in (0, 5, 10):
            stored = await asyncio.to_thread(transactions, kafka, topic, first=first)
            async with subscriber.subscribe(topic) as deliveries:
                assert await handled(deliveries, 5) == stored
        # 6 records and 3 marks each time; a mark at the end is nobody's to be done.
        assert committed(kafka, topic, group, partitions=1)[0] == (26, "")


async def test_what_retention_has_taken(kafka: Kafka, topic: str) -> None:
    """A group whose place is gone goes on with what there still is; so does one that reads."""
    group = f"group-{uuid.uuid4().hex[:12]}"
    admin = _library.AdminClient({"bootstrap.servers": kafka.address})

    def take_until(offset: int) -> None:
        place = TopicPartition(topic, 0, offset)
        admin.delete_records([place])[place].result(30)

    async with broker_at(kafka.address) as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group=group)
        bodies = [str(n).encode() for n in range(40)]
        await publish(publisher, topic, bodies[:20])
        async with subscriber.subscribe(topic, max_in_flight=1) as deliveries:
            assert await handled(deliveries, 5) == bodies[:5]
        await asyncio.to_thread(take_until, 12)
        assert await subscriber.lag(topic) == 8
        async with subscriber.subscribe(topic, max_in_flight=1) as deliveries:
            assert await handled(deliveries, 3) == bodies[12:15]
            await publish(publisher, topic, bodies[20:])
            await asyncio.to_thread(take_until, 25)
            # What was fetched before may still come; what was not, and is there, has to.
            rest = await handled(deliveries, 15)
            while rest[-1] != bodies[-1]:
                rest += await handled(deliveries, 1)
            assert rest == bodies[15 : 15 + len(rest) - 15] + bodies[25:]
    assert committed(kafka, topic, group, partitions=1)[0] == (40, "")


async def publish(publisher: Any, topic: str, bodies: list[bytes]) -> None:
    await publisher.publish(topic, *(Message(body) for body in bodies))
