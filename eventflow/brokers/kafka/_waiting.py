"""Records of a ladder that are not due: a few of each step are kept, the rest stays in Kafka."""

from __future__ import annotations

import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import TopicPartition

from eventflow.brokers.kafka._ladder import read_stamp
from eventflow.messaging.ladder import LADDER_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka import Consumer

__all__ = ("Waiting",)

MOST = 1_000
"""Records of a step that are kept; to fetch what is beyond takes up to half a second each time."""
MOST_BYTES = 1_024 * 1_024


class _Waiter(NamedTuple):
    record: Any
    until: float  # of the wall clock


class _Step:
    """A partition: what of it waits, in order, and whether more is held back in Kafka."""

    __slots__ = ("is_paused", "size", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[_Waiter] = deque()
        self.size = 0
        self.is_paused = False


class Waiting:
    """Keeps records until they are due, those of a partition in their order.

    Of a partition that has more it pauses the consumer, which reads on there later.
    """

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic
        self._steps: dict[int, _Step] = {}

    def add(self, records: Iterable[Any]) -> None:
        """Take what was received."""
        held_back: set[int] = set()
        now = time.time()
        for record in records:
            number = record.partition()
            if number in held_back:
                continue
            step = self._steps.setdefault(number, _Step())
            if len(step.waiters) >= MOST or step.size >= MOST_BYTES:
                held_back.add(number)
                self._hold_back(number, record.offset())
                continue
            step.waiters.append(_Waiter(record, _until(record, now)))
            step.size += len(record)

    def _hold_back(self, number: int, offset: int) -> None:
        place = TopicPartition(self._topic, number, offset)
        self._steps[number].is_paused = True
        self._consumer.pause([place])
        self._consumer.seek(place)

    def due(self, most: int) -> list[Any]:
        """What is due now, up to so many records."""
        found: list[Any] = []
        now = time.time()
        # Whose head waits the longest first: else one step could hold up the others for good.
        for number, step in sorted(self._steps.items(), key=_head):
            waiters = step.waiters
            while waiters and waiters[0].until <= now and len(found) < most:
                found.append(waiters[0].record)
                step.size -= len(waiters.popleft().record)
            if step.is_paused and len(waiters) <= MOST // 2 and step.size < MOST_BYTES:
                step.is_paused = False
                self._consumer.resume([TopicPartition(self._topic, number)])
        return found

    def paused(self) -> set[int]:
        """Partitions that are not read on at present."""
        return {number for number, step in self._steps.items() if step.is_paused}

    def forget(self, numbers: Iterable[int]) -> None:
        """Partitions that come, or are somebody else's now."""
        for number in numbers:
            self._steps.pop(number, None)


def _head(item: tuple[int, _Step]) -> float:
    """When the first record of a step is due."""
    waiters = item[1].waiters
    return waiters[0].until if waiters else inf


def _until(record: Any, now: float) -> float:
    """When a record leaves its step: by its stamp, and as long as the step lasts at most."""
    stamp = read_stamp(record.headers())
    if stamp is None:
        return now
    number: int = record.partition()
    longest = LADDER_S[number] if number < len(LADDER_S) else LADDER_S[0]
    return min(stamp.wakes / 1_000, now + longest)
