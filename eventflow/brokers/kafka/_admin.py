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
    from collections.abc import Iterable, Mapping

    from eventflow.brokers.kafka._settings import Settings

__all__ = ("create_topics", "lag_of")

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


def create_topics(
    settings: Settings,
    topics: Iterable[str],
    *,
    partitions: int,
    replication_factor: int,
    properties: Mapping[str, str],
    within: float,
) -> None:
    """Create the topics that there are not yet.

    Raises:
        KafkaException: One can't be.
    """
    new = [
        _library.NewTopic(name, partitions, replication_factor, config=dict(properties))
        for name in topics
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
