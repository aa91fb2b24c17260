"""What tests with a real Kafka share: an event, brokers with short times, an outside reader."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin
from confluent_kafka import Consumer, IsolationLevel, KafkaError, TopicPartition

from eventflow import Event
from eventflow.brokers.kafka import KafkaBroker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from tests.servers.kafka import Kafka

__all__ = (
    "TIMES",
    "Counted",
    "broker_at",
    "committed",
    "ends",
    "records",
    "settled_records",
    "side_by_side",
    "until",
)

log = logging.getLogger("tests.kafka")
_library: Any = confluent_kafka.admin


class Counted(Event, topic="counted"):
    """An event with a number."""

    n: int
    key: str = ""


TIMES: Mapping[str, Any] = {
    "session_timeout": 2.0,
    "connect_timeout": 15.0,
    "properties": {
        # A member hears of a rebalance by its next heartbeat.
        "heartbeat.interval.ms": 200,
        # The cluster keeps a fetch so long that finds nothing, also of partitions to come.
        "fetch.wait.max.ms": 100,
    },
}
"""What a client of a test waits for, where it is shorter than for users."""


def broker_at(hosts: str, **options: Any) -> KafkaBroker:
    """A client with the times of a test; in other processes too."""
    properties = {**TIMES["properties"], **options.pop("properties", {})}
    return KafkaBroker(hosts, **{**TIMES, **options, "properties": properties})


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
    settings: dict[str, Any] = {
        "bootstrap.servers": kafka.address,
        "logger": log,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        # The end is told with an answer, which comes so late where there is nothing.
        "fetch.wait.max.ms": 10,
    }
    return Consumer(settings)


def records(kafka: Kafka, topic: str, *, partitions: int = 4) -> list[Any]:
    """All committed records of a topic, by a client of its own, by partition and offset."""
    consumer = _consumer(kafka, "outside")
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found: list[Any] = []
    ended = set[int]()
    while len(ended) < partitions:
        record = consumer.poll(30)
        assert record is not None, f"no end of {topic}"
        if (error := record.error()) is None:
            found.append(record)
        elif (
            error.code() == KafkaError._PARTITION_EOF and (number := record.partition()) is not None
        ):
            ended.add(number)
    consumer.close()
    return sorted(found, key=lambda record: (record.partition(), record.offset()))


def ends(kafka: Kafka, topic: str, *, partitions: int = 4) -> dict[int, tuple[int, int]]:
    """By partition: where it ends for who reads what is committed, and for who reads all.

    They differ while a transaction is open.
    """
    admin = _library.AdminClient({"bootstrap.servers": kafka.address, "logger": log})
    asked = {TopicPartition(topic, n): _library.OffsetSpec.latest() for n in range(partitions)}
    found: list[dict[int, int]] = []
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        told = admin.list_offsets(asked, isolation_level=level, request_timeout=30)
        found.append({place.partition: end.result(30).offset for place, end in told.items()})
    return {n: (found[0][n], found[1][n]) for n in range(partitions)}


async def settled_records(kafka: Kafka, topic: str, *, partitions: int = 4) -> list[Any]:
    """The same as `records`, once no open transaction hides any of them."""
    there: dict[int, tuple[int, int]] = {}
    try:
        async with asyncio.timeout(30):
            while True:
                there = await asyncio.to_thread(ends, kafka, topic, partitions=partitions)
                if all(readable == end for readable, end in there.values()):
                    break
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(
            f"a transaction holds up the readers of {topic}: {there}; marks that Kafka has lost: "
            f"{kafka.lost_marks()}"
        ) from None
    return await asyncio.to_thread(records, kafka, topic, partitions=partitions)


def committed(kafka: Kafka, topic: str, group: str, *, partitions: int = 4) -> dict[int, Any]:
    """Where a group stands, by partition: offset and metadata, as the broker has it."""
    consumer = _consumer(kafka, group)
    places = [TopicPartition(topic, number) for number in range(partitions)]
    found = {p.partition: (p.offset, p.metadata) for p in consumer.committed(places, timeout=30)}
    consumer.close()
    return found


async def side_by_side(test: Callable[[str], Awaitable[None]], names: Iterable[str]) -> None:
    """Show the same of several: most of it is waiting. A failure says of which."""

    async def one(name: str) -> None:
        try:
            await test(name)
        except Exception as exc:
            exc.add_note(f"of: {name}")
            raise

    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(one(name))
