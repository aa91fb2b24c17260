"""The thread of a topic whose records wait, each on its step."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from eventflow.brokers.kafka._consumer import BATCH, MOST_READY, ConsumerThread
from eventflow.brokers.kafka._record import readable
from eventflow.brokers.kafka._waiting import Waiting

if TYPE_CHECKING:
    from confluent_kafka import Consumer, TopicPartition

__all__ = ("LadderThread",)

EXTENT_S = 0.1
"""Seconds that are waited for the extent of a step that is not read on."""


class LadderThread(ConsumerThread):
    """The same for a topic whose records wait, each on its step: it hands on what is due."""

    _waiting: Waiting | None = None

    def _take(self, first: Any) -> None:
        self._hand_on([] if first is None else [first, *self._consumer.consume(BATCH - 1, 0)])

    def _hand_on(self, found: list[Any]) -> None:
        waiting = self._waiting = self._waiting or Waiting(self._consumer, self._topic)
        # Not what was taken away while the rest was received.
        waiting.add(
            readable(r)
            for r in found
            if r is not None and self._is_record(r) and r.partition() in self._terms
        )
        self._pass_on(waiting.due(MOST_READY - self._came + self._used))

    def _read(self) -> list[TopicPartition]:
        paused = self._waiting.paused() if self._waiting else ()
        return [place for place in super()._read() if place.partition not in paused]

    def _extent(self, place: TopicPartition) -> tuple[int, int]:
        if self._waiting is not None and place.partition in self._waiting.paused():
            with suppress(KafkaException):  # what is known is of the last fetch, long ago
                found: tuple[int, int] = self._consumer.get_watermark_offsets(
                    place, timeout=EXTENT_S
                )
                return found
        return super()._extent(place)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        super()._on_assign(consumer, partitions)

    def _go(self, consumer: Consumer, numbers: set[int], partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        super()._go(consumer, numbers, partitions)

    def _let_go(self) -> None:
        self._waiting = None
        super()._let_go()

    def _forget(self, partitions: list[TopicPartition]) -> None:
        if self._waiting is not None:
            self._waiting.forget(place.partition for place in partitions)
