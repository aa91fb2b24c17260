"""Questions to the cluster that neither a producer nor a consumer asks, and topics that it makes.

Each call blocks, for at most the seconds that it is given; they run in threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import confluent_kafka.admin
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from eventflow.brokers.kafka._progress import from_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ("Admin",)

_library: Any = confluent_kafka.admin
"""Untyped: its own annotations are in part unknown."""


class Admin:
    """One connection for all questions; made with the first one."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._client: Any = None

    def _connected(self) -> Any:
        if self._client is None:
            self._client = _library.AdminClient(self._config)
        return self._client

    def close(self) -> None:
        """Let the connection go, whoever still holds this object."""
        self._client = None

    def lag(
        self, topic: str, group: str, partitions: int, *, starts_early: bool, within: float
    ) -> int:
        """How many messages of a topic a group has not done.

        Raises:
            KafkaException: The cluster did not say.
        """
        client = self._connected()
        places = [TopicPartition(topic, number) for number in range(partitions)]
        request = [ConsumerGroupTopicPartitions(group, places)]
        (asked,) = client.list_consumer_group_offsets(request, request_timeout=within).values()
        committed = {p.partition: p for p in asked.result(within).topic_partitions}
        ends = self._offsets(places, _library.OffsetSpec.latest(), within)
        new = [p for p in places if committed[p.partition].offset < 0]
        starts = ends
        if new and starts_early:
            starts = self._offsets(new, _library.OffsetSpec.earliest(), within)
        left = 0
        for number, place in committed.items():
            if place.offset < 0:
                left += ends[number] - starts[number]
                continue
            left += max(ends[number] - place.offset, 0)
            left -= sum(end - first for first, end in from_text(place.metadata, place.offset))
        return max(left, 0)

    def _offsets(
        self, places: Iterable[TopicPartition], what: Any, within: float
    ) -> dict[int, int]:
        asked = self._connected().list_offsets(dict.fromkeys(places, what), request_timeout=within)
        return {place.partition: done.result(within).offset for place, done in asked.items()}

    def create(
        self,
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
        made = self._connected().create_topics(new, operation_timeout=within)
        for done in made.values():
            try:
                done.result(within)
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
