"""A partition whose commits are transactions: what is done is told exactly, with its outputs."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from eventflow.brokers.kafka._delivery import KafkaDelivery
from eventflow.brokers.kafka._exact import covers, exact_text
from eventflow.brokers.kafka._outcome import Outcome
from eventflow.brokers.kafka._outputs import TransactionalDelivery
from eventflow.brokers.kafka._partition import Part, Partition
from eventflow.brokers.kafka._progress import NOTHING, Note, Progress
from eventflow.brokers.kafka._step import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("ExactPartition", "ExactStep")

MOST_OWED = 2_000
"""Messages that are done, whose outputs wait for a commit; one may have any number of those."""


MOST_BYTES = 4 * 1_024 * 1_024
"""Outputs of a partition that one transaction takes, unless those of one message are more."""
LEAST_BYTES = 16 * 1_024
"""The same after many that were refused: perhaps the way to the cluster is slow."""
PER_OUTPUT = 100


class ExactPartition(Partition):
    """What a commit does not tell as done is not confirmed by it, and its outputs stay with it.

    Attributes:
        settled: What is done, and is in no commit yet.
    """

    # No slots: it is one base of two.
    kind = TransactionalDelivery

    if TYPE_CHECKING:
        owes: bool

    def __init__(
        self, topic: str, number: int, progress: Progress = NOTHING, **options: Any
    ) -> None:
        super().__init__(topic, number, progress, **options)
        self.settled: list[KafkaDelivery] = []
        self._told = progress.done
        self._tells_all = True
        self._refusals = 0
        self._most = MOST_BYTES
        self._apart: set[int] = set()  # to be handed out after the next commit

    if not TYPE_CHECKING:

        @property
        def owes(self) -> bool:
            """Whether so much waits to be stored that nothing new is handed out."""
            return len(self.settled) >= MOST_OWED and not self._again

    def ack(self, delivery: KafkaDelivery) -> bool:
        # Each has an outcome of its own: some are told by a later commit than others.
        shared, self.outcome = self.outcome, Outcome()
        is_told = super().ack(delivery)
        self.outcome = shared
        self.settled.append(delivery)
        return is_told

    def commit(self, *, is_last: bool = False) -> Part | None:
        self._tells_all = True
        later = self._too_much()
        if later:  # as if they were open yet
            held, self._held = self._held, dict(sorted({**self._held, **later}.items()))
            part = super().commit(is_last=is_last)
            self._held = held
            self.is_dirty = True
        else:
            part = super().commit(is_last=is_last)
        if part is None:
            return None
        settled, self.settled = (
            [d for d in self.settled if d.offset not in later],
            [*later.values()],
        )
        if not self._tells_all:
            settled = self._keep_untold(settled, part.place.offset)
        return part._replace(
            outcomes=[*part.outcomes, *(delivery.outcome for delivery in settled)],
            deliveries=tuple(settled),
            refusals=self._refusals,
        )

    def _too_much(self) -> dict[int, KafkaDelivery]:
        """What is done, and has more outputs than one transaction should take; the last first."""
        sizes = {d.offset: _size(d) for d in self.settled}
        if sum(sizes.values()) <= self._most:
            return {}
        room, later = self._most, dict[int, KafkaDelivery]()
        for delivery in sorted(self.settled, key=_offset):
            size = sizes[delivery.offset]
            if later or (size > room and room < self._most):
                later[delivery.offset] = delivery
            room -= size
        return later

    def took(self, part: Part) -> None:
        super().took(part)
        self._most = min(self._most * 2, MOST_BYTES)
        for offset in self._apart:  # others were committed without them
            heapq.heappush(self._again, offset)
        self._apart.clear()

    def _text(self, progress: Progress, first: int) -> str:
        text, self._told = exact_text(progress, first, self._told)
        self._tells_all = self._told == progress.done
        return text

    def _keep_untold(self, settled: list[KafkaDelivery], first: int) -> list[KafkaDelivery]:
        """Leave to a later commit what finds no room in this one; returns the others."""
        told: list[KafkaDelivery] = []
        for one in settled:
            is_told = one.offset < first or covers(self._told, one.offset)
            (told if is_told else self.settled).append(one)
        return told

    def take_back(self, part: Part) -> None:
        self._refusals += 1
        self._most = max(self._most // 2, LEAST_BYTES)
        theirs = {id(delivery.outcome) for delivery in part.deliveries}
        shared = [outcome for outcome in part.outcomes if id(outcome) not in theirs]
        super().take_back(part._replace(outcomes=shared))
        self.settled[:0] = part.deliveries

    def restore(self, deliveries: Sequence[KafkaDelivery]) -> None:
        """They were done, and their outputs are not taken: they are handed out again.

        After a commit without them, so that they don't hold up the others. Unless the partition is
        somebody else's by now.
        """
        if self.is_lost:
            return
        offsets = {delivery.offset for delivery in deliveries}
        self.settled = [one for one in self.settled if one.offset not in offsets]
        for delivery in deliveries:
            delivery.lost()
            # No failure, which the retry policy would count: it ends by `max_deliveries`.
            self._notes[delivery.offset] = Note(delivery.deliveries or 1, delivery.failures)
        restored = {delivery.offset: delivery for delivery in deliveries}
        self._held = dict(sorted({**self._held, **restored}.items()))
        self._apart |= offsets
        self.is_dirty = True

    @property
    def in_hands(self) -> list[KafkaDelivery]:
        return [delivery for delivery in super().in_hands if delivery.offset not in self._apart]

    def lose(self) -> list[KafkaDelivery]:
        given_up = super().lose()
        for delivery in self.settled:
            delivery.lost()
        self.settled = []
        return given_up


def _size(delivery: KafkaDelivery) -> int:
    """About how many bytes its outputs have."""
    assert isinstance(delivery, TransactionalDelivery)
    return sum(PER_OUTPUT + len(output.value) for output in delivery.outputs)


def _offset(delivery: KafkaDelivery) -> int:
    return delivery.offset


class ExactStep(Step, ExactPartition):
    """The same for messages that have waited."""
