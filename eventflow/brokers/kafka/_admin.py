"""Questions to the cluster that neither the producer nor a feed asks, and topics that it makes.

Each call blocks, and has a connection of its own that it lets go when it has its answer: one that
is let go earlier makes librdkafka abort the process when the answer comes late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import confluent_kafka.admin
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from eventflow.brokers.kafka._progress import from_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventflow.brokers.kafka._settings import Settings

__all__ = ("create_topics", "lag_of", "record_limit")

LIMIT = "max.message.bytes"
UNTOLD = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_VERSION,
    }
)

_library: Any = confluent_kafka.admin
"""Untyped: its own annotations are in part unknown."""


def lag_of(settings: Settings, group: str, topic: str, partitions: int, *, within: float) -> int:
    """How many messages of a topic a group has not done.

    Raises:
        KafkaException: The cluster did not say in time.
    """
    # In no local variable, which tracebacks may show: it has secrets. As it subscribes to nothing,
    # it is a member of nothing.
    client = Consumer(settings.consumer(group))
    try:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        left = 0
        for place in client.committed(places, timeout=within):
            start, end = client.get_watermark_offsets(place, timeout=within)
            if place.offset < 0:
                left += end - start
            else:
                done = from_text(place.metadata, place.offset).done
                at = max(place.offset, start)  # what lay before was taken by retention
                beyond = sum(last - max(first, at) for first, last in done if last > at)
                left += max(end - at - beyond, 0)
        return left
    finally:
        client.close()


def record_limit(settings: Settings, topic: str, *, within: float) -> int | None:
    """Most bytes that a topic takes of one batch; ``None`` where we may not know.

    Raises:
        KafkaException: The cluster did not say in time.
    """
    resource = _library.ConfigResource(_library.ResourceType.TOPIC, topic)
    client = _library.AdminClient(settings.admin())
    asked = client.describe_configs([resource], request_timeout=within)[resource]
    try:
        found = asked.result()
    except KafkaException as exc:
        if exc.args[0].code() in UNTOLD:
            return None
        raise
    limit = found.get(LIMIT)
    return None if limit is None or limit.value is None else int(limit.value)


def create_topics(
    settings: Settings,
    topics: Mapping[str, tuple[int, Mapping[str, str]]],
    *,
    replication_factor: int,
    within: float,
) -> None:
    """Create the topics that there are not yet, with their numbers of partitions and properties.

    Raises:
        KafkaException: One can't be.
    """
    new = [
        _library.NewTopic(name, partitions, replication_factor, config=dict(properties))
        for name, (partitions, properties) in topics.items()
    ]
    client = _library.AdminClient(settings.admin())
    made = client.create_topics(new, request_timeout=within)
    problems = [error for done in made.values() if (error := done.exception()) is not None]
    for error in problems:
        exists = isinstance(error, KafkaException) and (
            error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
        )
        if not exists:
            raise error
