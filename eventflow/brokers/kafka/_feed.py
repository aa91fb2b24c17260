"""A topic as one group receives it in this process: one consumer, shared by all who subscribe."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from confluent_kafka import TopicPartition

from eventflow._log import EventLogger
from eventflow.brokers.kafka._consumer import ConsumerThread
from eventflow.brokers.kafka._errors import broken, code_name
from eventflow.brokers.kafka._partition import Partition
from eventflow.lifecycle.waiters import Waiters
from eventflow.messaging import SettlementState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from confluent_kafka import KafkaError

    from eventflow.brokers.kafka._deliveries import KafkaDeliveries
    from eventflow.brokers.kafka._partition import KafkaDelivery
    from eventflow.brokers.kafka._progress import Ranges
    from eventflow.errors import BrokerError
    from eventflow.messaging import Features

__all__ = ("Feed",)

FLUSH_S = 0.01
"""Seconds from a settlement until a commit is asked for; it begins when the thread gets to it."""
FLUSH_AT = 500
"""Settlements that are committed at once."""
RETRY_S = 0.2
STUCK_S = 10.0
"""Seconds after which a commit that nothing was heard of is given up, and done again."""
END_S = 4.0
"""Seconds that leaving waits for the consumer's thread; a broker that hangs holds it up."""

_ACKED = SettlementState.ACKED

log = EventLogger("eventflow.kafka")


class Feed:
    """Receives a topic for a group, and commits what is settled.

    Of a partition only one of the deliveries at a time has messages in hand, so that its order
    holds between them.

    Attributes:
        features: What the backend can do.
        is_ended: Whether nothing can come any more.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        topic: str,
        group: str,
        is_broadcast: bool,
        is_eager: bool,
        revoke_timeout: float,
        features: Features,
    ) -> None:
        self.features = features
        self.is_ended = False
        self.error: BrokerError | None = None
        self.readers = Waiters()
        self.members: list[KafkaDeliveries] = []
        self._topic = topic
        self._group = group
        self._is_broadcast = is_broadcast
        self._loop = loop = asyncio.get_running_loop()
        self._partitions: dict[int, Partition] = {}
        self._turn = 0
        self._acked: list[KafkaDelivery] = []
        self._flushing: list[KafkaDelivery] | None = None
        self._flushed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._revoking: dict[Partition, _Revocation] = {}
        self._leaving: dict[int, list[KafkaDelivery]] = {}
        self._is_closing = False
        self._abandoning: asyncio.TimerHandle | None = None
        self._joined = loop.create_future()
        self._over = loop.create_future()
        self._thread = ConsumerThread(
            config,
            topic=topic,
            sink=self,
            loop=loop,
            is_broadcast=is_broadcast,
            is_eager=is_eager,
            revoke_timeout=revoke_timeout,
        )
        self._thread.start()

    async def join(self) -> None:
        """Wait until what is published from now on will come.

        Raises:
            BrokerError: It can't.
        """
        await asyncio.shield(self._joined)
        if self.error is not None:
            raise self.error

    # Handing out

    def take(self, member: KafkaDeliveries, limit: int) -> list[KafkaDelivery]:
        """Hand out up to ``limit`` deliveries, from one partition after another."""
        taken: list[KafkaDelivery] = []
        partitions = tuple(self._partitions.values())
        used = used_bytes = 0
        for at in range(self._turn, self._turn + len(partitions)):
            partition = partitions[at % len(partitions)]
            if not partition.has_some or partition.is_ending:
                continue
            if partition.owner is not None and partition.owner is not member:
                continue
            before = len(taken)
            records, size = partition.take(taken, limit, member)
            used += records
            used_bytes += size
            if len(taken) > before:
                partition.owner = member
            if partition.is_dirty and self._timer is None:
                self._arm(FLUSH_S)
            if len(taken) >= limit:
                break
        self._turn += 1
        if used:
            self._thread.used(used, used_bytes)
        return taken

    def leave(self, member: KafkaDeliveries) -> None:
        """Take back what is in somebody's hands."""
        self.members.remove(member)
        for partition in self._partitions.values():
            if partition.owner is member:
                for delivery in partition.in_hands:
                    delivery.lost()
                    partition.put_back(delivery)
                if partition.is_ending:
                    self._ready_to_go(partition)
        self.readers.wake_all()

    # Settling

    def settled(self, delivery: KafkaDelivery) -> None:
        """Take a decision."""
        partition = delivery.partition
        if delivery.state is _ACKED:
            partition.ack(delivery)
            if self._is_broadcast:
                delivery.confirmed()
            else:
                acked = self._acked
                acked.append(delivery)
                if self._timer is None:
                    self._arm(FLUSH_S)
                elif len(acked) == FLUSH_AT:
                    self._flush_soon()
        else:
            partition.put_back(delivery)
            delivery.confirmed()  # nobody has to be told: it is open, as it was
            self.readers.wake_all()
        if partition.owner is None and len(self.members) > 1:
            self.readers.wake_all()
        if partition.is_ending and partition.is_idle:
            self._ready_to_go(partition)

    def _arm(self, seconds: float) -> None:
        if not self._is_broadcast and not self.is_ended:
            self._timer = self._loop.call_later(seconds, self._flush)

    def _flush_soon(self) -> None:
        if self._timer is not None and self._flushing is None:
            self._timer.cancel()
            self._timer = self._loop.call_later(0, self._flush)

    def _flush(self) -> None:
        """Commit what is settled; one commit after another."""
        self._timer = None
        if self.is_ended:
            return
        if self._flushing is not None:
            if self._loop.time() - self._flushed_at < STUCK_S:
                return  # `committed` goes on
            self._acked[:0] = self._flushing
            for delivery in self._acked:
                delivery.partition.is_dirty = True
        offsets = self._offsets(p for p in self._partitions.values() if p.is_dirty)
        if not offsets:
            return
        self._flushing, self._acked = self._acked, []
        self._flushed_at = self._loop.time()
        self._thread.commit(offsets)

    def _offsets(self, partitions: Iterable[Partition]) -> list[TopicPartition]:
        found: list[TopicPartition] = []
        for partition in partitions:
            commit = partition.commit()
            if commit is not None:
                offset, text = commit
                found.append(TopicPartition(self._topic, partition.number, offset, metadata=text))
        return found

    def _again(self, seconds: float) -> None:
        for delivery in self._acked:
            delivery.partition.is_dirty = True
        if self._timer is None:
            self._arm(seconds)

    # What the thread tells

    def came(self, records: Sequence[Any]) -> None:
        """See `Sink`."""
        partitions = self._partitions
        missed: list[Any] = []
        for record in records:
            partition = partitions.get(record.partition())
            if partition is None:
                missed.append(record)  # taken away meanwhile: whoever has it now gets it
            else:
                partition.ready.append(record)
        if missed:
            self._thread.used(len(missed), sum(map(len, missed)))
        if self.readers:
            self.readers.wake_all()

    def joined(self) -> None:
        """See `Sink`."""
        if not self._joined.done():
            self._joined.set_result(None)

    def assigned(self, partitions: Mapping[int, Ranges]) -> None:
        """See `Sink`."""
        if again := self._partitions.keys() & partitions.keys():
            self.revoked([*again], False)
        for number, done in partitions.items():
            self._partitions[number] = Partition(self._topic, number, done)

    def revoke(self, numbers: Sequence[int], done: Callable[[Sequence[Any]], None]) -> None:
        """See `Sink`."""
        going = [self._partitions[n] for n in numbers if n in self._partitions]
        revocation = _Revocation(going, done)
        for partition in going:
            partition.is_ending = True
            self._revoking[partition] = revocation
        if all(partition.is_idle for partition in going):
            revocation.done(self.give_up(numbers))

    def _ready_to_go(self, partition: Partition) -> None:
        revocation = self._revoking.get(partition)
        if revocation is not None and all(other.is_idle for other in revocation.partitions):
            revocation.done(self.give_up([p.number for p in revocation.partitions]))

    def give_up(self, numbers: Sequence[int]) -> list[Any]:
        """See `Sink`."""
        going = [self._partitions[n] for n in numbers if n in self._partitions]
        for partition in going:
            self._revoking.pop(partition, None)
            mine = [d for d in self._acked if d.partition is partition]
            self._leaving[partition.number] = mine
            self._acked = [d for d in self._acked if d.partition is not partition]
        return self._offsets(going)

    def revoked(self, numbers: Sequence[int], is_committed: bool) -> None:
        """See `Sink`."""
        for number in numbers:
            partition = self._partitions.pop(number, None)
            for delivery in self._leaving.pop(number, ()):
                delivery.confirmed() if is_committed else delivery.lost()
            if partition is None:
                continue
            self._revoking.pop(partition, None)
            partition.is_lost = True
            self._thread.used(len(partition.ready), sum(map(len, partition.ready)))
            late = [d for d in self._acked if d.partition is partition]
            self._acked = [d for d in self._acked if d.partition is not partition]
            for delivery in late:
                delivery.lost()
            given_up = partition.in_hands
            for delivery in given_up:
                delivery.lost()
                delivery.member.in_flight -= 1
            if given_up:
                log.warning(
                    "eventflow.partition_given_up",
                    topic=self._topic,
                    group=self._group,
                    partition=number,
                    in_flight=len(given_up),
                )
        self.readers.wake_all()

    def committed(self, problem: KafkaError | None) -> None:
        """See `Sink`."""
        flushed, self._flushing = self._flushing, None
        if flushed is None:
            return
        if problem is None:
            for delivery in flushed:
                delivery.confirmed()
            if self._acked and self._timer is None:
                self._arm(FLUSH_S)
            return
        kept = [delivery for delivery in flushed if not delivery.partition.is_lost]
        for delivery in flushed:
            if delivery.partition.is_lost:
                delivery.lost()
        self._acked[:0] = kept
        log.warning(
            "eventflow.commit_failed",
            topic=self._topic,
            group=self._group,
            reason=code_name(problem),
            waiting=len(kept),
        )
        if not self.is_ended:
            self._again(RETRY_S)

    def failed(self, error: KafkaError) -> None:
        """See `Sink`."""
        if self.error is None:
            self.error = broken(error, self._topic)
        self.joined()
        self.readers.wake_all()

    def ended(self, is_committed: bool) -> None:
        """See `Sink`."""
        if self._over.done():
            return  # abandoned before
        self.is_ended = True
        if self._abandoning is not None:
            self._abandoning.cancel()
        for delivery in (*(self._flushing or ()), *self._acked):
            delivery.confirmed() if is_committed else delivery.lost()
        self._flushing, self._acked = None, []
        for partition in self._partitions.values():
            partition.is_lost = True
            for delivery in partition.in_hands:
                delivery.lost()
        self._over.set_result(None)
        self.joined()
        self.readers.wake_all()

    # The end

    def end(self) -> asyncio.Future[None]:
        """Give back what is open, commit what is settled, and leave the group.

        Returns:
            What is done then. Bounded: where the broker hangs, the thread is left behind, and ends
            by itself.
        """
        if not self._is_closing:
            self._is_closing = self.is_ended = True
            for member in [*self.members]:
                member.close()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            known = {delivery.partition for delivery in self._flushing or ()}
            going = [p for p in self._partitions.values() if p.is_dirty or p in known]
            self._thread.end([] if self._is_broadcast else self._offsets(going))
            if not self._over.done():
                self._abandoning = self._loop.call_later(END_S, self._abandon)
        return self._over

    def _abandon(self) -> None:
        log.warning("eventflow.consumer_abandoned", topic=self._topic, group=self._group)
        self.ended(False)


class _Revocation:
    """Partitions that are being taken away together, and who waits for that."""

    __slots__ = ("done", "partitions")

    def __init__(self, partitions: list[Partition], done: Callable[[Sequence[Any]], None]) -> None:
        self.partitions = partitions
        self.done = done
