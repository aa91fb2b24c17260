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

__all__ = ("create_topics", "lag_of")

_library: Any = confluent_kafka.admin
"""Untyped: its own annotations are in part unknown."""


def lag_of(config: Mapping[str, Any], topic: str, partitions: int, *, within: float) -> int:
    """How many messages of a topic a group has not done; the group is in ``config``.

    Raises:
        KafkaException: The cluster did not say in time.
    """
    client = Consumer(dict(config))  # of no group, as it subscribes to nothing
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
                left += max(end - at, 0) - sum(
                    last - max(first, at) for first, last in done if last > at
                )
        return max(left, 0)
    finally:
        client.close()


def create_topics(
    config: Mapping[str, Any],
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
    client = _library.AdminClient(dict(config))
    made = client.create_topics(new, request_timeout=within)
    problems = [error for done in made.values() if (error := done.exception()) is not None]
    for error in problems:
        exists = isinstance(error, KafkaException) and (
            error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
        )
        if not exists:
            raise error
