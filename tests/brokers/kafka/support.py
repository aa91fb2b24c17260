"""What tests with a real Kafka share: an event, brokers with short times, an outside reader."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, TopicPartition

from eventflow import Event
from eventflow.brokers.kafka import KafkaBroker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.kafka import Kafka

__all__ = ("Counted", "broker_at", "committed", "records", "until")

log = logging.getLogger("tests.kafka")


class Counted(Event, topic="counted"):
    """An event with a number."""

    n: int
    key: str = ""


def broker_at(hosts: str, **options: Any) -> KafkaBroker:
    """A client with the times of a test; in other processes too."""
    return KafkaBroker(hosts, **{"session_timeout": 2.0, "connect_timeout": 15.0, **options})


async def until(condition: Callable[[], bool], what: str, *, within: float = 30) -> None:
    """Real time: wait for what a broker does."""
    scope = asyncio.timeout(within)
    try:
        async with scope:
            while not condition():  # noqa: ASYNC110 - a broker does it
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {within} s: {what}") from None


def _consumer(kafka: Kafka, group: str) -> Consumer:
    settings: dict[str, Any] = {"bootstrap.servers": kafka.address, "logger": log}
    return Consumer(
        settings | {"group.id": group, "enable.auto.commit": False, "enable.partition.eof": True}
    )


def records(kafka: Kafka, topic: str, *, partitions: int = 4) -> list[Any]:
    """All records of a topic, by a client of its own, by partition and offset."""
    consumer = _consumer(kafka, "outside")
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: list[Any] = []
    ended = 0
    while ended < partitions:
        record = consumer.poll(30)
        assert record is not None, f"no end of {topic}"
        if record.error() is None:
            found.append(record)
        else:
            ended += 1
    consumer.close()
    return sorted(found, key=lambda record: (record.partition(), record.offset()))


def committed(kafka: Kafka, topic: str, group: str, *, partitions: int = 4) -> dict[int, Any]:
    """Where a group stands, by partition: offset and metadata, as the broker has it."""
    consumer = _consumer(kafka, group)
    places = [TopicPartition(topic, number) for number in range(partitions)]
    found = {p.partition: (p.offset, p.metadata) for p in consumer.committed(places, timeout=30)}
    consumer.close()
    return found
