"""The thread that talks to one consumer of the client library.

librdkafka has threads of its own for the network; this one waits for what they have fetched, and
hands it to the event loop many records at a time. It is also the one in which the library says
which partitions come and go, so that it is here that the loop's answer to that is waited for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from eventflow.brokers.kafka._calls import longer
from eventflow.brokers.kafka._errors import may_pass
from eventflow.brokers.kafka._progress import NOTHING, from_text
from eventflow.brokers.kafka._transactions import Refusal, Transactions

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    from eventflow.brokers.kafka._feed import Feed
    from eventflow.brokers.kafka._partition import Commit
    from eventflow.brokers.kafka._settings import Settings

__all__ = ("BATCH", "MOST_READY", "ConsumerThread")

BATCH = 500
POLL_S = 0.03
"""Seconds of one wait for records: as long as a commit may have to wait for its turn.

The library serves one thread at a time: whoever waits for records holds up everybody else."""
TRANSACTION_POLL_S = 0.01
"""The same where outputs wait for the commit."""
MOST_READY = 1_000
"""Records that wait to be handed out; then no more are taken from the library."""
MOST_READY_BYTES = 16 * 1_024 * 1_024
HEAR_S = 0.01
"""Seconds between two looks, while there is no room, for what became of a commit.

Each may bring a record more than there is room for."""
STALL_S = 1.0
"""Seconds without room after which partitions are paused, so that the library may be polled on.

Not at once: what it has fetched ahead is thrown away by a pause, and fetched again."""
LOOK_S = 10.0
"""Seconds until the ends of a topic have to be known, and between two looks for new partitions."""
SAY_S = 1.0
"""Seconds between two words to the event loop about how it is."""
ASK_S = 1.0
"""Seconds of the first attempt at a question."""
LAST_COMMIT_S = 2.0


class _Answer:
    """What the event loop says to a question of the thread; one of them may give up waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given = threading.Event()
        self._commit: Commit | None = None
        self._is_late = False

    def give(self, commit: Commit) -> bool:
        """Answer. Whether anybody has waited for it."""
        with self._lock:
            if not self._is_late:
                self._commit = commit
                self._given.set()
            return not self._is_late

    def wait(self, seconds: float) -> Commit:
        """Wait for the answer; an empty one if none comes."""
        self._given.wait(seconds)
        with self._lock:
            self._is_late = True
            return self._commit or {}


class _UnderWay:
    """A commit that the broker was asked for, and those of its places that it refused."""

    def __init__(self, commit: Commit) -> None:
        self.commit = commit
        self.refused: dict[int, KafkaError] = {}


class ConsumerThread:
    """Runs one consumer in a daemon thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        topic: str,
        group: str,
        feed: Feed,
        loop: asyncio.AbstractEventLoop,
        is_broadcast: bool,
        is_transactional: bool = False,
    ) -> None:
        self._used = self._used_bytes = 0  # counted on the event loop, as `_came` is in the thread
        self._settings = settings
        self._group = group
        self._topic = topic
        self._feed = feed
        self._loop = loop
        self._is_broadcast = is_broadcast
        self._is_transactional = is_transactional
        self._poll_s = TRANSACTION_POLL_S if is_transactional else POLL_S
        self._is_leaving = False  # there will be no later commit
        self._transactions: Transactions | None = None
        self._refusals: dict[int, int] = {}  # of transactions, by partition
        self._is_eager = settings.is_eager
        self._revoke_timeout = settings.revoke_timeout
        self._came = self._came_bytes = 0
        self._said = 0.0
        self._room = threading.Event()
        self._is_ending = False
        self._term = 0
        self._terms: dict[int, int] = {}  # of the partitions that are ours: the assignment's
        self._wanted: deque[Commit] = deque()
        self._last: Commit | None = None
        self._under_way: list[_UnderWay] = []
        self._refused: list[_UnderWay] = []
        self._newest: dict[int, Commit] = {}  # by partition: what was asked for last
        self._thread = threading.Thread(
            target=self._run, name=f"eventflow:kafka-{topic}", daemon=True
        )

    # On the event loop

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def used(self, records: int, size: int) -> None:
        """So many that came, with so many bytes, wait no more: there may be room again."""
        self._used += records
        self._used_bytes += size
        if self._has_room():  # else it would wake for nothing, and take the interpreter's lock
            self._room.set()

    def commit(self, commit: Commit) -> None:
        """Begin a commit, within `POLL_S`; ``committed`` of the feed tells its end."""
        self._wanted.append(commit)
        self._room.set()

    def end(self, commit: Commit) -> None:
        """Commit for the last time, leave the group, and end; ``ended`` of the feed follows."""
        self._last = commit
        self._is_ending = True
        self._room.set()

    # In the thread

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed: nobody is left to be told
            self._is_ending = True

    def _run(self) -> None:
        try:
            # Here, as it may wait for a token.
            consumer = self._consumer = Consumer(
                {**self._settings.consumer(self._group), "on_commit": self._on_commit}
            )
        except KafkaException as exc:
            self._tell(self._feed.not_made, exc.args[0])
            return
        given_up = False
        try:
            if self._is_transactional:
                self._transactions = Transactions(
                    self._settings,
                    group=self._group,
                    consumer=consumer,
                    is_ending=lambda: self._is_ending,
                )
                self._transactions.open()
            if self._is_broadcast:
                self._take_all()
            else:
                consumer.subscribe(
                    [self._topic],
                    on_assign=self._on_assign,
                    on_revoke=self._on_revoke,
                    on_lost=self._on_lost,
                )
            self._tell(self._feed.joined)
            looked = time.monotonic()
            while not self._is_ending:
                self._wait_for_room()
                self._commit()
                if self._is_ending:
                    break
                self._take(consumer.poll(self._poll_s))
                self._say()
                if self._is_broadcast and time.monotonic() - looked > LOOK_S:
                    self._take_new()
                    looked = time.monotonic()
            self._commit_last()
            if not (self._terms or self._is_broadcast):
                # By its close alone, librdkafka 2.16 leaves no group that has given it nothing:
                # the others would wait for it until its session has run out.
                self._leave_soon()
                consumer.unsubscribe()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the subscription ends by it
            given_up = isinstance(exc, KafkaException) and exc.args[0].code() == KafkaError._FATAL
            # Without its frames, which know the consumer, where nobody else may.
            self._tell(self._feed.failed, exc.with_traceback(None) if given_up else exc)
        finally:
            self._is_ending = True
            try:
                if not given_up:
                    self._leave_soon()
                    consumer.close()
            finally:
                if self._transactions is not None:
                    self._transactions.close()
                if given_up:
                    # librdkafka 2.16 never ends the close of a consumer that had partitions then,
                    # and keeps a processor busy with it. One that nobody knows ends at once.
                    self._let_go()
                    del consumer
                self._tell(self._feed.ended)

    def _leave_soon(self) -> None:
        if self._transactions is not None:
            self._transactions.leave_soon()

    def _let_go(self) -> None:
        """Know the consumer no more."""
        self._transactions = None
        del self._consumer

    def _take_all(self) -> None:
        """Take every partition, from its end on."""
        consumer, start = self._consumer, list[TopicPartition]()
        for number in self._numbers(LOOK_S):
            place = TopicPartition(self._topic, number)
            _, place.offset = self._asked(consumer.get_watermark_offsets, place)
            start.append(place)
        begin = {place.partition: NOTHING._replace(offset=place.offset) for place in start}
        self._tell(self._feed.assigned, begin, 0)
        consumer.assign(start)

    def _say(self) -> None:
        """Say, once in a while, that we are well, and where partitions begin and end."""
        now = time.monotonic()
        if now - self._said < SAY_S:
            return
        self._said = now
        if self._transactions is not None:
            self._transactions.look()
        extents: dict[int, tuple[int, int]] = {}
        for place in self._consumer.assignment():
            known = self._extent(place)
            if known[1] >= 0:  # something was fetched
                extents[place.partition] = known
        self._tell(self._feed.heard, extents)

    def _extent(self, place: TopicPartition) -> tuple[int, int]:
        """Where a partition begins and ends, as far as is known at once."""
        known: tuple[int, int] = self._consumer.get_watermark_offsets(place, cached=True)
        return known

    def _take_new(self) -> None:
        """Take partitions that the topic did not have before, from their beginning on."""
        known = {place.partition for place in self._consumer.assignment()}
        try:
            new = [number for number in self._numbers(1.0) if number not in known]
        except KafkaException:  # the broker is away: at the next look, then
            return
        if new:
            self._tell(self._feed.assigned, dict.fromkeys(new, NOTHING), 0)
            self._consumer.incremental_assign(
                [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in new]
            )

    def _numbers(self, within: float) -> list[int]:
        found = self._consumer.list_topics(self._topic, timeout=within).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return [*found.partitions]

    def _asked(self, question: Callable[..., Any], *args: Any, within: float = LOOK_S) -> Any:
        """Ask the cluster, again where it does not know yet: a new topic has no leader at first."""
        until, seconds = time.monotonic() + within, ASK_S
        while True:
            try:
                return question(*args, timeout=seconds)
            except KafkaException as exc:
                seconds = longer(seconds, exc.args[0])
                if not may_pass(exc.args[0]) or time.monotonic() > until or self._is_ending:
                    raise
                time.sleep(HEAR_S)

    def _committed(self, partitions: list[TopicPartition], *, timeout: float) -> Any:
        found = self._consumer.committed(partitions, timeout=timeout)
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return found

    def _take(self, first: Any) -> None:
        """Hand a record on, with those that are there already."""
        if first is not None:
            self._hand_on([first, *self._consumer.consume(BATCH - 1, 0)])

    def _hand_on(self, found: list[Any]) -> None:
        self._pass_on([r for r in found if r is not None and self._is_record(r)])

    def _pass_on(self, found: list[Any]) -> None:
        if found:
            self._came += len(found)
            self._came_bytes += sum(map(len, found))
            self._tell(self._feed.came, found)

    def _is_record(self, record: Any) -> bool:
        """Whether it is one, and not an error, which is reported."""
        error = record.error()
        if error is None:
            return True
        if error.fatal() or error.code() in LASTING:
            raise KafkaException(error)
        return False

    def _has_room(self) -> bool:
        return (
            self._came - self._used < MOST_READY
            and self._came_bytes - self._used_bytes < MOST_READY_BYTES
        )

    def _wait_for_room(self) -> None:
        if self._has_room():
            return
        until = time.monotonic() + STALL_S
        while not self._has_room() and not self._is_ending:
            left = until - time.monotonic()
            if left <= 0:
                self._stand_still()
                return
            self._commit()
            self._room.clear()
            if not (self._has_room() or self._wanted or self._is_ending):
                self._room.wait(min(left, HEAR_S) if self._under_way else left)
                if self._under_way:
                    self._hand_on([self._consumer.poll(0)])

    def _stand_still(self) -> None:
        """Poll on without getting any, so that the group does not take us for dead."""
        consumer = self._consumer
        while not self._has_room() and not self._is_ending:
            self._commit()
            consumer.pause(consumer.assignment())
            # What was on its way past the pause is one of those that wait, then.
            self._take(consumer.poll(POLL_S))
            self._say()
        if not self._is_ending:
            consumer.resume(self._read())

    def _read(self) -> list[TopicPartition]:
        """Partitions that are read as long as there is room."""
        return self._consumer.assignment()

    def _commit(self) -> None:
        """Begin the commits that the event loop asked for."""
        while self._wanted:
            self._begin(_UnderWay(commit := self._wanted.popleft()), commit)

    def _is_ours(self, number: int, commit: Commit) -> bool:
        """Whether we have the partition still, by the assignment that the commit is of.

        A loop that was blocked may ask for one when somebody else has it, and has gone further.
        """
        return self._terms.get(number) == commit[number].partition.term

    def _transact(self, transactions: Transactions, commit: Commit) -> None:
        """Commit, and wait for it."""
        lost = KafkaError(KafkaError.ILLEGAL_GENERATION)
        mine = {n: part for n, part in commit.items() if self._is_ours(n, commit)}
        # One that was made before its partition's last refusal was heard of tells as done what
        # that has not stored.
        parts = {n: p for n, p in mine.items() if p.refusals == self._refusals.get(n, 0)}
        refused = dict.fromkeys(commit.keys() - parts.keys(), lost)
        culprits: Sequence[Any] = ()
        if parts:
            refusal = transactions.commit([*parts.values()])
            until = time.monotonic() + LAST_COMMIT_S
            while refusal is not None and self._asks_again(refusal) and time.monotonic() < until:
                time.sleep(0.02)
                refusal = transactions.commit([*parts.values()], within=LAST_COMMIT_S)
            if refusal is not None:
                refused |= dict.fromkeys(parts, refusal.error)
                culprits = refusal.culprits
        for number in mine.keys() & refused.keys():
            self._refusals[number] = self._refusals.get(number, 0) + 1
        if commit:
            self._tell(self._feed.committed, commit, refused, culprits)

    def _asks_again(self, refusal: Refusal) -> bool:
        """Whether a transaction is tried again at once: there may be no later one.

        Also one that was under way when the end began: the last commit is on top of it.
        """
        is_out = refusal.error.code() == KafkaError.UNKNOWN_MEMBER_ID
        return (self._is_leaving or self._is_ending) and not is_out

    def _begin(self, under_way: _UnderWay, numbers: Iterable[int]) -> None:
        commit = under_way.commit
        if self._transactions is not None:
            self._transact(self._transactions, commit)
            return
        ours = [number for number in numbers if self._is_ours(number, commit)]
        for number in numbers:
            if number not in ours:
                under_way.refused[number] = KafkaError(KafkaError.ILLEGAL_GENERATION)
        try:
            if ours:
                places = [commit[number].place for number in ours]
                self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            under_way.refused |= dict.fromkeys(ours, error)
            ours = []
        if ours:
            self._under_way.append(under_way)
            self._newest |= dict.fromkeys(ours, commit)
        elif commit:
            self._tell(self._feed.committed, commit, under_way.refused)

    def _begin_last(self) -> None:
        last, self._last = self._last, None
        if last:
            self._begin(_UnderWay(last), last)

    def _commit_last(self) -> None:
        """Commit what is settled, again while the group is sharing anew."""
        self._is_leaving = True
        self._commit()
        self._begin_last()
        until = time.monotonic() + LAST_COMMIT_S
        while (self._under_way or self._refused) and time.monotonic() < until:
            self._consumer.poll(0.01)  # calls `_on_commit`, or `_on_revoke`
            refused, self._refused = self._refused, []
            if refused:
                time.sleep(0.02)
            for one in refused:
                # Not what a later commit stands for: it would set the offset back.
                again = {
                    n
                    for n in one.refused
                    if self._is_ours(n, one.commit) and self._newest.get(n) is one.commit
                }
                one.refused = {n: e for n, e in one.refused.items() if n not in again}
                if again:
                    self._begin(one, again)
                else:
                    self._tell(self._feed.committed, one.commit, one.refused)

    # What the library calls, in the thread

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        told = {p.partition: p for p in partitions}
        for under_way in self._under_way:
            offsets = {n: part.place.offset for n, part in under_way.commit.items()}
            if all(offsets.get(n) == p.offset for n, p in told.items()):
                break
        else:
            return
        self._under_way.remove(under_way)
        under_way.refused |= {n: e for n, p in told.items() if (e := error or p.error) is not None}
        if self._is_ending and under_way.refused:
            self._refused.append(under_way)  # `_commit_last` asks again
        else:
            self._tell(self._feed.committed, under_way.commit, under_way.refused)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._is_ending:
            return
        try:
            # However long the cluster is away: nothing can be received meanwhile anyhow.
            found = self._asked(self._committed, partitions, within=inf)
        except KafkaException:
            if self._is_ending:
                return  # what is settled elsewhere has still to be committed
            raise
        progress = {
            p.partition: NOTHING if p.offset < 0 else from_text(p.metadata, p.offset) for p in found
        }
        self._term += 1
        self._terms |= dict.fromkeys(progress, self._term)
        self._tell(self._feed.assigned, progress, self._term)
        # Said outright: librdkafka waits 0.1 s before it asks where a place it lacks would be.
        start = [
            TopicPartition(p.topic, p.partition, OFFSET_BEGINNING if p.offset < 0 else p.offset)
            for p in found
        ]
        if self._is_eager:
            consumer.assign(start)
        else:
            consumer.incremental_assign(start)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = {p.partition for p in partitions}
        answer = _Answer()
        self._tell(self._feed.revoke, numbers, answer.give)
        # The loop has its own clock for this; one that is blocked says nothing.
        settled = answer.wait(self._revoke_timeout + 1.0)
        # The library sends these before it joins the group again, so that whoever gets the
        # partitions finds them; it does not have to be waited for.
        self._is_leaving = True
        try:
            self._commit()
            self._begin(_UnderWay(settled), settled)
            self._begin_last()
        finally:
            self._is_leaving = self._is_ending
            if self._is_eager:
                self._tell(self._feed.lost, numbers)  # until the group says what is ours
            self._go(consumer, numbers, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        while self._wanted:
            commit = self._wanted.popleft()
            lost = KafkaError(KafkaError.ILLEGAL_GENERATION)
            self._tell(self._feed.committed, commit, dict.fromkeys(commit, lost))
        numbers = {p.partition for p in partitions}
        self._tell(self._feed.lost, numbers)
        self._go(consumer, numbers, partitions)

    def _go(self, consumer: Consumer, numbers: set[int], partitions: list[TopicPartition]) -> None:
        for number in numbers:
            self._terms.pop(number, None)
            self._refusals.pop(number, None)
        self._tell(self._feed.revoked, numbers)
        if self._is_eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign(partitions)


LASTING = frozenset(
    {
        KafkaError._FATAL,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    }
)
"""Errors that end a subscription; others pass."""
