"""The thread that talks to one consumer of the client library.

librdkafka has threads of its own for the network; this one waits for what they have fetched, and
hands it to the event loop many records at a time. It is also the one in which the library says
which partitions come and go, so that it is here that the loop's answer to that is waited for.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from eventflow.brokers.kafka._progress import from_text

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from eventflow.brokers.kafka._progress import Ranges

__all__ = ("MOST_READY", "ConsumerThread", "Sink")

BATCH = 500
POLL_S = 0.03
"""Seconds of one wait for records: as long as a commit may have to wait for its turn.

The library serves one thread at a time: whoever waits for records holds up everybody else."""
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
"""Seconds until the committed offsets of a partition that comes have to be known."""
LAST_COMMIT_S = 2.0


class Sink(Protocol):
    """Who gets what the thread learns; called on the event loop, but for `revoking`."""

    def came(self, records: Sequence[Any]) -> None:
        """Records of partitions that are ours, in order."""
        ...

    def joined(self) -> None:
        """What is published from now on will come."""
        ...

    def assigned(self, partitions: Mapping[int, Ranges]) -> None:
        """Partitions are ours from now on."""
        ...

    def revoke(self, numbers: Sequence[int], done: Callable[[Sequence[Any]], None]) -> None:
        """Partitions are going to be taken away: call ``done`` with what is to be committed."""
        ...

    def give_up(self, numbers: Sequence[int]) -> list[Any]:
        """Time is over: return what is to be committed of partitions being taken away."""
        ...

    def revoked(self, numbers: Sequence[int], is_committed: bool) -> None:
        """Partitions are not ours any more."""
        ...

    def committed(self, problem: KafkaError | None) -> None:
        """The commit that was under way has ended."""
        ...

    def failed(self, error: KafkaError) -> None:
        """Nothing will come any more."""
        ...

    def ended(self, is_committed: bool) -> None:
        """The consumer is closed; whether the last commit was taken."""
        ...


class ConsumerThread:
    """Runs one consumer in a daemon thread."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        topic: str,
        sink: Sink,
        loop: asyncio.AbstractEventLoop,
        is_broadcast: bool,
        is_eager: bool,
        revoke_timeout: float,
    ) -> None:
        self._used = self._used_bytes = 0  # counted on the event loop, as `_came` is in the thread
        self._topic = topic
        self._sink = sink
        self._loop = loop
        self._is_broadcast = is_broadcast
        self._is_eager = is_eager
        self._revoke_timeout = revoke_timeout
        self._came = self._came_bytes = 0
        self._room = threading.Event()
        self._is_ending = False
        self._last: list[TopicPartition] = []
        self._last_committed: bool | None = None
        self._wanted: list[TopicPartition] | None = None
        self._begun = self._heard = 0
        self._consumer = Consumer({**config, "on_commit": self._on_commit})
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
        self._room.set()

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        """Begin a commit, within `POLL_S`; ``committed`` of the sink tells its end."""
        self._wanted = list(offsets)
        self._room.set()

    def end(self, offsets: Sequence[TopicPartition]) -> None:
        """Commit for the last time, leave the group, and end; ``ended`` of the sink follows."""
        self._last = list(offsets)
        self._is_ending = True
        self._room.set()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    # In the thread

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed: nobody is left to be told
            self._is_ending = True

    def _run(self) -> None:
        consumer = self._consumer
        is_committed = True
        try:
            if self._is_broadcast:
                self._take_all()
            else:
                consumer.subscribe(
                    [self._topic],
                    on_assign=self._on_assign,
                    on_revoke=self._on_revoke,
                    on_lost=self._on_lost,
                )
            self._tell(self._sink.joined)
            looked = time.monotonic()
            while not self._is_ending:
                self._wait_for_room()
                self._commit()
                if self._is_ending:
                    break
                self._take(consumer.poll(POLL_S))
                if self._is_broadcast and time.monotonic() - looked > LOOK_S:
                    self._take_new()
                    looked = time.monotonic()
            is_committed = self._commit_last()
        except KafkaException as exc:
            self._tell(self._sink.failed, exc.args[0])
            is_committed = False
        finally:
            self._is_ending = True
            consumer.close()
            self._tell(self._sink.ended, is_committed)

    def _take_all(self) -> None:
        """Take every partition, from its end on."""
        consumer, start = self._consumer, list[TopicPartition]()
        for number in self._numbers(LOOK_S):
            place = TopicPartition(self._topic, number)
            _, place.offset = consumer.get_watermark_offsets(place, timeout=LOOK_S)
            start.append(place)
        self._tell(self._sink.assigned, {place.partition: () for place in start})
        consumer.assign(start)

    def _take_new(self) -> None:
        """Take partitions that the topic did not have before, from their beginning on."""
        known = {place.partition for place in self._consumer.assignment()}
        try:
            new = [number for number in self._numbers(1.0) if number not in known]
        except KafkaException:  # the broker is away: at the next look, then
            return
        if new:
            self._tell(self._sink.assigned, dict.fromkeys(new, ()))
            self._consumer.incremental_assign(
                [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in new]
            )

    def _numbers(self, within: float) -> list[int]:
        found = self._consumer.list_topics(self._topic, timeout=within).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return [*found.partitions]

    def _take(self, first: Any) -> None:
        """Hand a record on, with those that are there already."""
        if first is not None:
            self._hand_on([first, *self._consumer.consume(BATCH - 1, 0)])

    def _hand_on(self, found: list[Any]) -> None:
        found = [record for record in found if record is not None and self._is_record(record)]
        if found:
            self._came += len(found)
            self._came_bytes += sum(map(len, found))
            self._tell(self._sink.came, found)

    def _is_record(self, record: Any) -> bool:
        """Whether it is one, and not an error, which is reported."""
        error = record.error()
        if error is None:
            return True
        if error.fatal() or error.code() in LASTING:
            self._tell(self._sink.failed, error)
            self._is_ending = True
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
                is_heard = self._heard >= self._begun
                self._room.wait(left if is_heard else min(left, HEAR_S))
                if not is_heard:
                    self._hand_on([self._consumer.poll(0)])

    def _stand_still(self) -> None:
        """Poll on without getting any, so that the group does not take us for dead."""
        consumer = self._consumer
        while not self._has_room() and not self._is_ending:
            self._commit()
            consumer.pause(consumer.assignment())
            # What was on its way past the pause is one of those that wait, then.
            self._take(consumer.poll(POLL_S))
        if not self._is_ending:
            consumer.resume(consumer.assignment())

    def _commit(self) -> None:
        """Begin the commit that the event loop asked for."""
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        self._begun += 1
        try:
            self._consumer.commit(offsets=wanted, asynchronous=True)
        except KafkaException as exc:
            self._heard += 1
            self._tell(self._sink.committed, exc.args[0])

    def _commit_last(self) -> bool:
        """Commit what is settled, again while the group is sharing anew; whether it was taken."""
        until = time.monotonic() + LAST_COMMIT_S
        while offsets := self._last:
            self._last_committed = None
            self._consumer.commit(offsets=offsets, asynchronous=True)
            while self._last_committed is None:
                if time.monotonic() > until:
                    return False
                self._consumer.poll(0.01)  # calls `_on_commit`, or `_on_revoke`
            if self._last_committed:
                return True
            self._consumer.poll(0.05)
        return True

    # What the library calls, in the thread

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        problem = error or next((p.error for p in partitions if p.error is not None), None)
        self._heard += 1
        if self._heard > self._begun:  # the last one, which the thread itself has begun
            self._last_committed = problem is None
        self._tell(self._sink.committed, problem)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._is_ending:
            return
        known = {p.partition: p for p in consumer.committed(partitions, timeout=LOOK_S)}
        found = [known.get(p.partition, p) for p in partitions]
        if any(p.error is not None for p in found):
            raise KafkaException(next(p.error for p in found if p.error is not None))
        progress = {
            p.partition: () if p.offset == OFFSET_INVALID else from_text(p.metadata, p.offset)
            for p in found
        }
        self._tell(self._sink.assigned, progress)
        start = [TopicPartition(p.topic, p.partition, p.offset) for p in found]
        if self._is_eager:
            consumer.assign(start)
        else:
            consumer.incremental_assign(start)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = {p.partition for p in partitions}
        offsets = self._settled(numbers)
        is_committed = offsets is not None
        if offsets:
            try:
                consumer.commit(offsets=list(offsets), asynchronous=False)
            except KafkaException:
                is_committed = False
        if self._is_ending:
            # Of those that are left, `ended` tells; of these, if they were not committed, too.
            if is_committed:
                self._last = [p for p in self._last if p.partition not in numbers]
        else:
            self._tell(self._sink.revoked, [*numbers], is_committed)
        if self._is_eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign(partitions)

    def _settled(self, numbers: set[int]) -> Sequence[TopicPartition] | None:
        """What is to be committed of partitions that go, once the loop has settled it."""
        answered = threading.Event()
        answer: list[Sequence[TopicPartition]] = []

        def done(offsets: Sequence[TopicPartition]) -> None:
            answer.append(offsets)
            answered.set()

        if not self._is_ending:
            self._tell(self._sink.revoke, [*numbers], done)
        until = time.monotonic() + self._revoke_timeout
        while not self._is_ending and not answered.wait(POLL_S):
            if time.monotonic() >= until:
                self._tell(lambda: done(self._sink.give_up([*numbers])))
                answered.wait(1.0)  # a loop that is blocked says nothing
                break
        if self._is_ending:
            return [p for p in self._last if p.partition in numbers]
        return answer[0] if answer else None

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._is_ending:
            return
        self._tell(self._sink.revoked, [p.partition for p in partitions], False)
        if self._is_eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign(partitions)


LASTING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
    }
)
"""Errors that end a subscription; others pass."""
