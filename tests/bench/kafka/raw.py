"""The raw loops on confluent-kafka: what one writes without eventflow, and nothing to spare.

Fixed, so that figures of different times are of the same loops. The settings are those that
eventflow gives to the same library, so that what differs is eventflow.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.bench.kafka.conditions import (
    IN_FLIGHT,
    LATENCY,
    PARTITIONS,
    OrderPinged,
    group,
    headers,
)
from tests.bench.orders import BODY, WARM_UP, Bare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confluent_kafka import KafkaError

    from tests.bench.kafka.conditions import Headers

__all__ = ("CONSUMER", "PRODUCER", "consume", "fill", "latencies", "publish")

PRODUCER: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 1,
    "queue.buffering.max.messages": 100_000,
    "message.timeout.ms": 27_000,
    "message.max.bytes": 1_048_588,
    "partitioner": "murmur2_random",
}
CONSUMER: dict[str, Any] = {
    "auto.offset.reset": "earliest",
    "fetch.message.max.bytes": 1_048_588,
    "queued.max.messages.kbytes": 16_384,
    "partition.assignment.strategy": "cooperative-sticky",
}


def fill(hosts: str, topic: str, number: int, *, name: str) -> None:
    """Put so many records into a topic, as many into each partition."""
    # A new cluster has it ask again for its id, of which it would warn.
    producer = Producer({**PRODUCER, "bootstrap.servers": hosts, "log_level": 3})
    for at in range(number):
        if not at % 10_000:
            producer.flush()
        producer.produce(topic, BODY, headers=headers(name), partition=at % PARTITIONS)
    left = producer.flush(60)
    producer.close()
    assert not left, f"{left} records of {topic} were not stored"


def consume(hosts: str, topic: str, number: int) -> float:
    """Seconds from the first record handled to the last. The library commits every 5 s."""
    consumer = Consumer({**CONSUMER, "bootstrap.servers": hosts, "group.id": group()})
    consumer.subscribe([topic])
    left, began = number, 0.0
    while left > 0:
        first = consumer.poll(1.0)
        if first is None:
            continue
        began = began or perf_counter()
        for record in (first, *consumer.consume(499, 0)):
            value = record.value()
            assert value is not None, record.error()
            Bare.model_validate_json(value)
            left -= 1
    took = perf_counter() - began
    consumer.close()
    return took


def publish(hosts: str, topic: str, given: Sequence[Headers]) -> float:
    """Seconds from the first record of so many to the confirmation of the last."""
    producer = Producer({**PRODUCER, "bootstrap.servers": hosts})
    in_flight = 0

    def delivered(error: KafkaError | None, _: object) -> None:
        nonlocal in_flight
        assert error is None, error
        in_flight -= 1

    producer.produce(topic, BODY)
    producer.flush()
    began = perf_counter()
    for its in given:
        while in_flight >= IN_FLIGHT:
            producer.poll(1.0)
        producer.produce(topic, BODY, headers=its, on_delivery=delivered)
        in_flight += 1
    while in_flight:
        producer.poll(1.0)
    took = perf_counter() - began
    producer.close()
    return took


def latencies(hosts: str, number: int) -> list[float]:
    """Seconds from before a produce to its record decoded; one thread, one record at a time."""
    producer = Producer({**PRODUCER, "bootstrap.servers": hosts})
    consumer = Consumer({**CONSUMER, "bootstrap.servers": hosts, "group.id": group()})

    def from_the_end(_: Consumer, places: list[TopicPartition]) -> None:
        for place in places:
            place.offset = consumer.get_watermark_offsets(place)[1]
        consumer.incremental_assign(places)

    consumer.subscribe([LATENCY], on_assign=from_the_end)
    while not consumer.assignment():
        consumer.poll(0.1)
    took: list[float] = []
    for _ in range(WARM_UP + number):
        its = headers(OrderPinged.__name__)
        began = perf_counter()
        producer.produce(LATENCY, BODY, headers=its)
        record = consumer.poll(10.0)
        assert record is not None
        value = record.value()
        assert value is not None, record.error()
        Bare.model_validate_json(value)
        took.append(perf_counter() - began)
        assert record.headers() == its
        producer.poll(0)
    producer.flush()
    producer.close()
    consumer.close()
    return took[WARM_UP:]
