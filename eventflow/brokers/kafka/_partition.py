"""One partition while it is ours: what was fetched, handed out and settled. Plain state, no I/O."""

from __future__ import annotations

import heapq
from collections import deque
from math import inf
from operator import methodcaller
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from confluent_kafka import TopicPartition

from eventflow.brokers.kafka._delivery import KafkaDelivery
from eventflow.brokers.kafka._outcome import CONFIRMED, Outcome
from eventflow.brokers.kafka._progress import NEVER, NOTHING, Note, Progress, done_beyond, to_text
from eventflow.brokers.kafka._record import headers_of

if TYPE_CHECKING:
    from eventflow.brokers.kafka._deliveries import KafkaDeliveries
    from eventflow.brokers.kafka._record import Record
    from eventflow.brokers.kafka._wire import RawHeaders

__all__ = ("CAREFUL_FOR", "FLUSH_AT", "UNCLEAN", "Commit", "Part", "Partition", "note_of")

FLUSH_AT = 500
"""Acks of a partition that are committed at once."""

UNCLEAN = 3
"""Openings without progress after which a partition is careful: perhaps a message kills us."""
CAREFUL_FOR = 100
"""Messages that it handles then before it trusts them again."""


class Part(NamedTuple):
    """What one commit says of one partition.

    Attributes:
        outcomes: Of the decisions that it tells the broker.
        permits: Whether something may be handed out once it is confirmed.
        deliveries: Of an `ExactPartition` those that are done by it, whose outputs go with it.
        refusals: How many commits of that were known to be refused when this was made.
    """

    partition: Partition
    place: TopicPartition
    outcomes: list[Outcome]
    permits: bool
    deliveries: tuple[KafkaDelivery, ...] = ()
    refusals: int = 0


Commit = dict[int, Part]
"""A commit, by the numbers of its partitions."""


class Partition:
    """One assignment of a partition to us.

    It is open once a commit has said so: the next owner can then tell whether the last one left it
    in good order. After `UNCLEAN` openings without progress it is careful: it hands out one
    message at a time, each after a commit has counted that.

    Args:
        topic: Its topic.
        number: Its number.
        progress: What the group knows of it.
        term: Of the assignment that it came by.
        is_kept: Whether its place is committed: not with `Broadcast`.

    Attributes:
        topic: Its topic.
        number: Its number.
        term: Of the assignment that it came by.
        outcome: Of what is settled next.
        ready: Records that were fetched and not handed out, in order.
        owner: Who has some of it in its hands: until all of that is settled nobody else gets any,
            so that the partition's order holds.
        out: How many deliveries are in the owner's hands.
        acks: How many there were since the last commit.
        is_dirty: Whether there is something that no commit has had.
        is_ending: Whether it is being taken away: nothing more is handed out.
        is_lost: Whether it is somebody else's now.
        is_waiting: Whether it waits for the commit that permits the next message.
        is_ladder: Whether it is a step on which messages have waited.
        owes: Whether so much waits to be stored with a commit that nothing new is handed out.
        kind: What its deliveries are.
    """

    is_ladder = False
    owes: bool = False
    kind: ClassVar[type[KafkaDelivery]] = KafkaDelivery

    __slots__ = (
        "_again",
        "_begin",
        "_careful_for",
        "_counted",
        "_done",
        "_held",
        "_is_open",
        "_next",
        "_notes",
        "_opened_at",
        "_openings",
        "_position",
        "_refused",
        "_tell_at",
        "acks",
        "is_dirty",
        "is_ending",
        "is_lost",
        "is_waiting",
        "number",
        "out",
        "outcome",
        "owner",
        "ready",
        "term",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        number: int,
        progress: Progress = NOTHING,
        *,
        term: int = 0,
        is_kept: bool = True,
    ) -> None:
        self.topic = topic
        self.term = term
        self.number = number
        self.outcome = Outcome() if is_kept else CONFIRMED
        self._refused: list[Outcome] = []  # of commits that were not taken
        self.ready: deque[Any] = deque()
        self.owner: object | None = None
        self.out = self.acks = 0
        self._tell_at = 1
        self.is_dirty = self.is_ending = self.is_lost = False
        self._done = deque(progress.done)
        self._notes = dict(progress.notes)
        self._held: dict[int, KafkaDelivery] = {}  # handed out and not acked, by offset, in order
        self._again: list[int] = []
        self._position: int | None = None  # one past the last that was handed out, or was done
        self._begin = progress.offset
        self._is_open = not is_kept
        self._openings = progress.openings
        self._opened_at = 0
        self._careful_for = CAREFUL_FOR if progress.openings >= UNCLEAN else 0
        self.is_waiting = False
        self._next: int | None = None  # the one that may be handed out, while it is careful
        self._counted: int | None = None  # the one that is counted, and not handed out yet

    @property
    def is_watched(self) -> bool:
        """Whether commits have to permit what is handed out."""
        return not self._is_open or self._careful_for > 0

    @property
    def is_careful(self) -> bool:
        """Whether it hands out one message at a time, each after a commit has counted it."""
        return self._careful_for > 0

    @property
    def has_some(self) -> bool:
        """Whether something can be handed out."""
        if not (self.ready or self._again) or not self._is_open:
            return False
        if not self._careful_for:
            return True
        if self._next is not None:
            return not self.is_waiting
        return not self._again and self._is_done(self.ready[0].offset())

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in anybody's hands."""
        return not self.out

    @property
    def is_unclean(self) -> bool:
        """Whether leaving it in good order takes a commit."""
        return self.is_dirty or (self._position is not None and self._openings > 0)

    @property
    def in_hands(self) -> list[KafkaDelivery]:
        """What is in somebody's hands."""
        waiting = set(self._again)
        return [held for offset, held in self._held.items() if offset not in waiting]

    def lag(self, begin: int, end: int) -> int:
        """How many messages are not done, of a partition from ``begin`` to ``end``; gaps count."""
        at = self._position
        if at is None:
            at = self.ready[0].offset() if self.ready else self._begin
        at = begin if at is None else max(at, begin)
        done = sum(last - max(first, at) for first, last in self._done if last > at)
        return max(end - at - done, 0) + len(self._held)

    def prepare(self) -> bool:
        """Ask for the commit that permits the next message, if it takes one. Whether it does."""
        if self.is_waiting or not (self.ready or self._again):
            return False
        if not self._is_open:
            self._opened_at = self._position = self.ready[0].offset()
            self._openings += 1
        elif not self._careful_for or self.out or self._next is not None:
            return False
        if self._careful_for:
            self._next = self._counted = found = self._first_open()
            if found is not None:
                self._count(found, 1)
            elif self._is_open:
                return False  # all of them are done, and may be passed over
        self.is_waiting = self.is_dirty = True
        return True

    def _known(self, offset: int) -> Note:
        """How often a message was delivered before, and failed."""
        return self._notes.get(offset, NEVER)

    def _count(self, offset: int, deliveries: int) -> None:
        note = self._known(offset)
        self._notes[offset] = note = note._replace(deliveries=note.deliveries + deliveries)
        if note == (0, 0):
            del self._notes[offset]

    def _first_open(self) -> int | None:
        if self._again:
            return self._again[0]
        offsets = (record.offset() for record in self.ready)
        return next((offset for offset in offsets if not self._is_done(offset)), None)

    def _is_done(self, offset: int) -> bool:
        return any(first <= offset < end for first, end in self._done)

    def permit(self) -> None:
        """The commit that was asked for is confirmed."""
        self._is_open = True
        self.is_waiting = False

    def take(
        self, taken: list[KafkaDelivery], limit: int, member: KafkaDeliveries
    ) -> tuple[int, int]:
        """Hand out until ``taken`` has ``limit``, or fewer of a careful one.

        Returns:
            How many fetched records that took, and how many bytes they have.
        """
        before = len(taken)
        is_plain = not (
            self._careful_for or self._again or self._done or self._notes or self.is_ladder
        )
        take = self._take if is_plain else self._take_each
        used = take(taken, limit, member)
        self.out += len(taken) - before
        return used

    def _take(
        self, taken: list[KafkaDelivery], limit: int, member: KafkaDeliveries
    ) -> tuple[int, int]:
        """Hand out records of which nothing is known."""
        ready = self.ready
        records = [ready.popleft() for _ in range(min(limit - len(taken), len(ready)))]
        if not records:
            return 0, 0
        offsets = [*map(_offset_of, records)]
        found = self.kind.of_records(records, offsets, self, member)
        self._held.update(zip(offsets, found, strict=True))
        self._position = offsets[-1] + 1
        taken += found
        return len(records), sum(map(len, records))

    def _take_each(
        self, taken: list[KafkaDelivery], limit: int, member: KafkaDeliveries
    ) -> tuple[int, int]:
        """The same, one by one, where some come again, were done before, or have to be counted."""
        last: float = inf
        is_careful = self._careful_for > 0
        if is_careful and len(taken) < limit:
            # What was done is passed over; of the rest only what is permitted.
            limit, last = min(limit, len(taken) + 1), -1 if self._next is None else self._next
            self._next = self._counted = None
        again, held = self._again, self._held
        while again and len(taken) < limit and again[0] <= last:
            offset = heapq.heappop(again)
            held[offset] = delivery = held[offset].again(member, self._note(offset))
            taken.append(delivery)
        ready, used, size, room = self.ready, 0, 0, limit - len(taken)
        while ready and room:
            record = ready.popleft()
            offset = record.offset()
            if is_careful and offset > last and not self._is_done(offset):
                ready.appendleft(record)
                break
            used += 1
            size += len(record)
            self._position = offset + 1
            if self._done and self._was_done(offset):
                self.is_dirty = True
                continue
            room -= 1
            held[offset] = delivery = self._delivery(record, offset, member)
            taken.append(delivery)
        return used, size

    def _delivery(self, record: Any, offset: int, member: KafkaDeliveries) -> KafkaDelivery:
        return self.kind(record, offset, self, member, *self._note(offset))

    def headers_of(self, record: Record) -> RawHeaders | None:
        """Its headers as they were published."""
        return headers_of(record)

    def _note(self, offset: int) -> Note:
        """Counts of a message that is handed out, this time included."""
        note = self._known(offset)
        return note if self._careful_for else note._replace(deliveries=note.deliveries + 1)

    def _was_done(self, offset: int) -> bool:
        done = self._done
        while done and done[0][1] <= offset:
            done.popleft()
        return bool(done) and done[0][0] <= offset

    def ack(self, delivery: KafkaDelivery) -> bool:
        """It is done.

        Returns:
            Whether that is to be told: it is the first since the last commit, or the last of many,
            or nothing is in anybody's hands any more, or somebody has asked for it.
        """
        del self._held[delivery.offset]
        if self._notes:
            self._notes.pop(delivery.offset, None)
        if self._careful_for:
            self._careful_for -= 1
        delivery._outcome = self.outcome  # pyright: ignore[reportPrivateUsage] # no call
        if delivery._watcher is not None:  # pyright: ignore[reportPrivateUsage]
            delivery.ends_with(self.outcome)
        self.out = out = self.out - 1
        self.acks = acks = self.acks + 1
        if out and acks < self._tell_at:
            return False
        if not out:
            self.owner = None
        self.is_dirty = True
        self._tell_at = FLUSH_AT if acks < FLUSH_AT else acks + FLUSH_AT
        return True

    def tell_next(self) -> None:
        """Have the next ack told, whichever it is."""
        self._tell_at = 0

    def put_back(self, delivery: KafkaDelivery, *, failures: int | None, counts: bool) -> bool:
        """It is to be handed out again, before all that were not yet.

        Args:
            delivery: The one that was in hands.
            failures: How often it failed so far; ``None``: as before.
            counts: Whether it counts as a delivery.

        Returns:
            Whether that has to be committed: then the delivery is confirmed by a commit.
        """
        heapq.heappush(self._again, delivery.offset)
        self.out -= 1
        if not self.out:
            self.owner = None
        note = note_of(delivery, failures=failures, counts=counts)
        if note == self._known(delivery.offset):
            return False
        self._notes[delivery.offset] = note
        self.is_dirty = True
        return True

    def commit(self, *, is_last: bool = False) -> Part | None:
        """What is to be committed, which is no news from now on; ``None`` while there is nothing.

        The offset is the first that is not done.

        Args:
            is_last: Whether the partition is left with it, in good order.
        """
        end = self._position
        if end is None:
            return None
        held = self._held
        first = next(iter(held), end)
        # What is in hands yet, when a partition has to go, may be what kills the next owner.
        is_clean = is_last and not self.out
        if is_clean or (first > self._opened_at and not self._careful_for):
            self._openings = 0
        if is_last and self._counted is not None:
            self._count(self._counted, -1)  # it was not handed out after all
            self._counted = None
        text = ""
        if self._notes:
            # Also those of messages that retention or compaction has taken.
            self._notes = {
                at: note for at, note in self._notes.items() if at >= first and any(note)
            }
        if first != end or self._done or self._notes or self._openings:
            # What was done before, and was not fetched again yet, is done still.
            before = ((max(start, end), last) for start, last in self._done if last > end)
            done = (*done_beyond(first, held, end), *before)
            text = self._text(Progress(self._openings, self._notes, done), first)
        outcomes = [*self._refused, self.outcome]
        self._refused, self.outcome, self.is_dirty = [], Outcome(), False
        self.acks, self._tell_at = 0, 1
        place = TopicPartition(self.topic, self.number, first, metadata=text)
        return Part(self, place, outcomes, self.is_waiting)

    def _text(self, progress: Progress, first: int) -> str:
        """The metadata of a commit."""
        return to_text(progress, first)

    def took(self, part: Part) -> None:
        """A commit was taken."""
        for outcome in part.outcomes:
            outcome.confirm()
        if part.permits:
            self.permit()

    def take_back(self, part: Part) -> None:
        """A commit was not taken: what was settled in it is for the next one."""
        self._refused += part.outcomes
        self.is_dirty = True

    def lose(self) -> list[KafkaDelivery]:
        """It is somebody else's now; returns what was in somebody's hands."""
        self.is_lost = True
        given_up = self.in_hands
        for delivery in given_up:
            delivery.lost()
        for outcome in (*self._refused, self.outcome):
            outcome.lose()
        return given_up


_offset_of = methodcaller("offset")


def note_of(delivery: KafkaDelivery, *, failures: int | None, counts: bool) -> Note:
    """What is known of a message that comes again; see `Partition.put_back`."""
    return Note(
        (delivery.deliveries or 1) - (not counts),
        delivery.failures if failures is None else failures,
    )
