"""A topic as one group receives it in this process: one consumer, shared by all who subscribe."""

from __future__ import annotations

import asyncio
import time
from itertools import groupby
from operator import methodcaller
from typing import TYPE_CHECKING, Any, NamedTuple

from eventflow._log import EventLogger
from eventflow.brokers.kafka._consumer import ConsumerThread
from eventflow.brokers.kafka._errors import NOT_FOUND, broken, code_name, is_of_rebalance, not_made
from eventflow.brokers.kafka._exact_partition import ExactPartition, ExactStep
from eventflow.brokers.kafka._ladder_thread import LadderThread
from eventflow.brokers.kafka._outputs import TransactionalDelivery
from eventflow.brokers.kafka._partition import FLUSH_AT, Partition
from eventflow.brokers.kafka._postponing import Postponing, counts_of
from eventflow.brokers.kafka._step import Step
from eventflow.lifecycle.waiters import Waiters
from eventflow.messaging import SettlementState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from confluent_kafka import KafkaError

    from eventflow.brokers.kafka._deliveries import KafkaDeliveries
    from eventflow.brokers.kafka._delivery import KafkaDelivery
    from eventflow.brokers.kafka._partition import Commit
    from eventflow.brokers.kafka._progress import Progress
    from eventflow.brokers.kafka._settings import Settings
    from eventflow.brokers.kafka.publisher import KafkaPublisher
    from eventflow.errors import BrokerError, InvalidOptionError
    from eventflow.messaging import Features

__all__ = ("Feed",)

FLUSH_S = 0.01
"""Seconds from a settlement until a commit is asked for; it begins when the thread gets to it."""
RETRY_S = 0.2
POSTPONE_S = 2.0
"""Seconds that leaving waits for what is put off; what is not stored by then comes again."""
LOST_S = 20.0
"""Seconds beyond the session's that something may take before it is called a problem."""
OPEN_S = 2.0
"""Seconds that a partition waits for the commit that opens it, unless it is careful."""
END_S = 4.0
"""Seconds that leaving waits for the consumer's thread; a broker that hangs holds it up."""

_ACKED = SettlementState.ACKED
_NACKED = SettlementState.NACKED

log = EventLogger("eventflow.kafka")


class Feed:
    """Receives a topic for a group, and commits what is settled.

    Of a partition only one of the deliveries at a time has messages in hand, so that its order
    holds between them.

    Args:
        settings: Of the broker.
        topic: What it receives.
        group: For whom.
        is_broadcast: Whether nobody keeps a place for it.
        features: What the backend can do.
        is_ladder: Whether the topic is one of steps on which messages wait.
        origin: The topic that all of them belong to, unless each says its own.
        postpone: Who stores what is put off, and in which topic.
        forget: Is told of topics that are not there any more.

    Attributes:
        features: What the backend can do.
        group: The group.
        settings: Of the broker.
        is_ended: Whether nothing can come any more.
        is_ladder: Whether what it hands out has waited, and may have to wait on.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        topic: str,
        group: str,
        is_broadcast: bool,
        features: Features,
        is_ladder: bool = False,
        origin: str | None = None,
        postpone: tuple[KafkaPublisher, str] | None = None,
        forget: Callable[[str], object] = str,
    ) -> None:
        self.features = features
        self.is_ended = False
        self.error: BrokerError | InvalidOptionError | None = None
        self.readers = Waiters()
        self.members: list[KafkaDeliveries] = []
        self.settings = settings
        self._topic = topic
        self.group = group
        self._is_broadcast = is_broadcast
        self._origin = origin
        self.is_ladder = is_ladder
        self._is_transactional = features.transactional
        self._postpone = postpone
        self._forget = forget
        self._postponing = Postponing(*postpone, self._postponed) if postpone else None
        self._loop = loop = asyncio.get_running_loop()
        self._partitions: dict[int, Partition] = {}
        self._watched: set[Partition] = set()
        self._turn = 0
        self._commits: dict[int, Commit] = {}  # under way, by identity
        self._timer: asyncio.TimerHandle | None = None
        self._revocation: _Revocation | None = None
        self._is_closing = False
        self._leaving: asyncio.TimerHandle | None = None  # while it waits for what is put off
        self._abandoning: asyncio.TimerHandle | None = None
        self._opening: asyncio.TimerHandle | None = None
        self._alone_since: float | None = loop.time()  # until the group has said what is ours
        self._extents: Mapping[int, tuple[int, int]] = {}
        self._heard_at = loop.time()
        self._joined = loop.create_future()
        self._over = loop.create_future()
        thread = LadderThread if is_ladder else ConsumerThread
        self._thread = thread(
            settings,
            topic=topic,
            group=group,
            feed=self,
            loop=loop,
            is_broadcast=is_broadcast,
            is_transactional=features.transactional,
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

    @property
    def is_postponing(self) -> bool:
        """Whether something is on its way to where it waits."""
        return self._postponing is not None and bool(self._postponing.under_way)

    # How it is

    @property
    def problem(self) -> str:
        """Why nothing can come at present; empty if nothing is wrong."""
        longest = self.settings.session_timeout + self.settings.revoke_timeout + LOST_S
        now = self._loop.time()
        if now - self._heard_at > longest:
            return f"the client has said nothing for {now - self._heard_at:.0f} s"
        if self._alone_since is not None and now - self._alone_since > longest:
            return f"it waits for its group for {now - self._alone_since:.0f} s"
        return ""

    @property
    def lag(self) -> int | None:
        """How many messages of the partitions that are ours are not done, as far as was heard."""
        extents = self._extents
        if self._alone_since is not None or not self._partitions.keys() <= extents.keys():
            return None
        return sum(p.lag(*extents[number]) for number, p in self._partitions.items())

    def heard(self, extents: Mapping[int, tuple[int, int]]) -> None:
        """The thread is well; where partitions begin and end, as far as it knows."""
        self._heard_at = self._loop.time()
        self._extents = extents

    # Handing out

    def take(self, member: KafkaDeliveries, limit: int) -> list[KafkaDelivery]:
        """Hand out up to ``limit`` deliveries, from one partition after another."""
        taken: list[KafkaDelivery] = []
        partitions = tuple(self._partitions.values())
        used = used_bytes = 0
        for at in range(self._turn, self._turn + len(partitions)):
            partition = partitions[at % len(partitions)]
            if not partition.has_some or partition.is_ending or partition.owes:
                continue
            if partition.owner is not None and partition.owner is not member:
                continue
            before = len(taken)
            records, size = partition.take(taken, limit, member)
            used += records
            used_bytes += size
            if len(taken) > before:
                partition.owner = member
            if partition.is_dirty and self._timer is None and not self._commits:
                self._arm(FLUSH_S)
            if len(taken) >= limit:
                break
        self._turn += 1
        if used:
            self._thread.used(used, used_bytes)
            if self._watched:
                self._prepare()
        return taken

    def held_by(self, member: KafkaDeliveries) -> int:
        """How many deliveries a member has in its hands, or puts off."""
        return sum(p.out for p in self._partitions.values() if p.owner is member)

    def tell_next(self, member: KafkaDeliveries) -> None:
        """Have a member told of the next ack of what is in its hands."""
        for partition in self._partitions.values():
            if partition.owner is member:
                partition.tell_next()

    def leave(self, member: KafkaDeliveries) -> None:
        """Take back what is in somebody's hands."""
        self.members.remove(member)
        if self._postponing:
            self._postponing.hurry(lambda delivery: delivery.member is member)
        for partition in self._partitions.values():
            if partition.owner is member:
                partition.owner = None  # what is put off yet holds up nobody
                for delivery in partition.in_hands:
                    if not self._is_postponed(delivery):
                        delivery.lost()
                        partition.put_back(delivery, failures=None, counts=False)
        self._prepare()
        self._look_at_revocation()
        self.readers.wake_all()

    # Settling

    def settled(self, delivery: KafkaDelivery, *, is_stored: bool = False) -> None:
        """Take a decision that is no ack; or what was put off is done, being stored elsewhere."""
        partition = delivery.partition
        if is_stored:
            if partition.ack(delivery):
                self.acked(partition)
        else:
            is_nack = delivery.state is _NACKED
            failures = delivery.nack_failures
            if not partition.put_back(delivery, failures=failures, counts=is_nack) or (
                self._is_broadcast
            ):
                delivery.confirmed()  # nobody has to be told: it is open, as it was
            else:
                delivery.ends_with(partition.outcome)
                if self._timer is None:
                    self._arm(FLUSH_S)
            self.readers.wake_all()
            self._look_at_owner(partition)

    def acked(self, partition: Partition) -> None:
        """Take acks, of which a partition tells."""
        if self._timer is None:
            self._arm(FLUSH_S)
        elif partition.acks >= FLUSH_AT and not self._commits:
            self._timer.cancel()
            self._flush()
        self._look_at_owner(partition)

    def _look_at_owner(self, partition: Partition) -> None:
        """Others may go on once nothing of it is in anybody's hands."""
        if partition.owner is None:
            if self._watched:
                self._prepare()
            if len(self.members) > 1:
                self.readers.wake_all()
            if partition.is_ending:
                self._look_at_revocation()

    def postpone(self, delivery: KafkaDelivery) -> None:
        """Take a nack, or a release, that is for later."""
        assert self._postponing is not None
        if isinstance(delivery, TransactionalDelivery):
            assert self._postpone is not None
            publisher, ladder = self._postpone
            due = time.time() + delivery.nack_delay
            delivery.put_off(publisher.record_again(delivery, ladder, counts_of(delivery), due))
            self._postponed(delivery, True)  # as its ack, and stored with that
        else:
            self._postponing.begin(delivery)

    def _is_postponed(self, delivery: KafkaDelivery) -> bool:
        return self._postponing is not None and delivery in self._postponing.under_way

    def _postponed(self, delivery: KafkaDelivery, is_stored: bool) -> None:
        """It waits elsewhere; or it has waited here."""
        if not delivery.partition.is_lost:
            self.settled(delivery, is_stored=is_stored)
            self.readers.wake_all()
        if self._leaving is not None and not self.is_postponing:
            self._end_now()

    def _prepare(self) -> None:
        """Have commits permit what partitions may not hand out without."""
        wanted = has_some = False
        for partition in [*self._watched]:
            if not partition.is_watched:
                self._watched.discard(partition)
            elif not partition.is_ending and partition.prepare():
                wanted = True
                if self._opening is None and not partition.is_careful:
                    self._opening = self._loop.call_later(OPEN_S, self._open)
            has_some |= partition.has_some
        if has_some:
            self.readers.wake_all()
        if wanted and not self._commits:
            if self._timer is not None:
                self._timer.cancel()
            self._flush()

    def _open(self) -> None:
        """Go on without commits that are not confirmed: a slow coordinator holds nobody up.

        What they would say is only how often a partition was opened.
        """
        self._opening = None
        for partition in self._watched:
            if partition.is_waiting and not partition.is_careful:
                partition.permit()
        self.readers.wake_all()

    def _arm(self, seconds: float) -> None:
        if not self._is_broadcast and not self.is_ended:
            self._timer = self._loop.call_later(seconds, self._flush)

    def _flush(self) -> None:
        """Commit what is settled; one commit after another: `committed` goes on."""
        self._timer = None
        if self._commits or self.is_ended:
            return
        mine = (p for p in self._partitions.values() if p.is_dirty and not p.is_ending)
        if commit := self._commit(mine):
            self._thread.commit(commit)

    def _commit(self, partitions: Iterable[Partition], *, is_last: bool = False) -> Commit:
        """A commit of what is settled in some partitions; it is under way from now on."""
        parts = ((p.number, p.commit(is_last=is_last)) for p in partitions)
        commit = {number: part for number, part in parts if part is not None}
        if commit:
            self._commits[id(commit)] = commit
        return commit

    # What the thread tells

    def came(self, records: Sequence[Any]) -> None:
        """Records of partitions that are ours, in order."""
        missed: list[Any] = []
        for number, some in groupby(records, _partition_of):
            partition = self._partitions.get(number)
            # Where it was taken away meanwhile, whoever has it now gets them.
            (missed if partition is None else partition.ready).extend(some)
        if missed:
            self._thread.used(len(missed), sum(map(len, missed)))
        if self._watched:
            self._prepare()
        if self.readers:
            self.readers.wake_all()

    def joined(self) -> None:
        """What is published from now on will come."""
        if not self._joined.done():
            self._joined.set_result(None)

    def assigned(self, partitions: Mapping[int, Progress], term: int = 0) -> None:
        """Partitions are ours from now on; what their commits say beyond the offset.

        Args:
            partitions: By their numbers.
            term: Of this assignment; the thread takes no commit of another one.
        """
        self._alone_since = None
        self.revoked(self._partitions.keys() & partitions.keys())
        for number, progress in partitions.items():
            partition = self._partition(number, progress, term)
            self._partitions[number] = partition
            if partition.is_watched:
                self._watched.add(partition)
        if partitions:
            log.info(
                "eventflow.partitions_assigned",
                topic=self._topic,
                group=self.group,
                partitions=sorted(partitions),
            )

    def _partition(self, number: int, progress: Progress, term: int) -> Partition:
        if self.is_ladder:
            step = ExactStep if self._is_transactional else Step
            return step(self._topic, number, progress, term=term, origin=self._origin)
        partition = ExactPartition if self._is_transactional else Partition
        return partition(self._topic, number, progress, term=term, is_kept=not self._is_broadcast)

    def revoke(self, numbers: Iterable[int], give: Callable[[Commit], bool]) -> None:
        """Partitions are going to be taken away: give what is to be committed of them.

        Once nothing of them is in anybody's hands, or time is over.
        """
        going = [self._partitions[n] for n in numbers if n in self._partitions]
        for partition in going:
            partition.is_ending = True
        if self._revocation is not None:
            self._revocation.timer.cancel()  # of one that nobody waits for any more
        timer = self._loop.call_later(self.settings.revoke_timeout, self._give_up)
        self._revocation = _Revocation(going, give, timer)
        if self._postponing:
            self._postponing.hurry(lambda delivery: delivery.partition in going)
        self._look_at_revocation()

    def _look_at_revocation(self) -> None:
        revocation = self._revocation
        if revocation and (self.is_ended or all(p.is_idle for p in revocation.partitions)):
            self._give_up()

    def _give_up(self) -> None:
        """Give what there is to be committed of partitions that are being taken away."""
        revocation, self._revocation = self._revocation, None
        if revocation is None:
            return
        revocation.timer.cancel()
        unclean = (p for p in revocation.partitions if p.is_unclean)
        commit: Commit = {}
        try:
            if not self._is_broadcast:
                commit = self._commit(unclean, is_last=True)
        finally:  # whatever happens here: the thread waits for it
            if not revocation.give(commit):
                self.committed(commit, dict.fromkeys(commit, None))

    def revoked(self, numbers: Iterable[int]) -> None:
        """Partitions are not ours any more."""
        gone: list[int] = []
        for number in numbers:
            partition = self._partitions.pop(number, None)
            if partition is None:
                continue
            gone.append(number)
            self._watched.discard(partition)
            self._thread.used(len(partition.ready), sum(map(len, partition.ready)))
            given_up = partition.lose()
            if given_up:
                log.warning(
                    "eventflow.partition_given_up",
                    topic=self._topic,
                    group=self.group,
                    partition=number,
                    in_flight=len(given_up),
                )
        if gone:
            log.info(
                "eventflow.partitions_revoked",
                topic=self._topic,
                group=self.group,
                partitions=sorted(gone),
            )
        self.readers.wake_all()

    def lost(self, numbers: Iterable[int]) -> None:
        """The group has taken us for dead, or has taken all away to share it anew."""
        self._alone_since = self._loop.time()
        self._extents = {}
        self.revoked(numbers)

    def committed(
        self,
        commit: Commit,
        refused: Mapping[int, KafkaError | None],
        culprits: Iterable[tuple[KafkaDelivery, KafkaError]] = (),
    ) -> None:
        """A commit has ended; of which partitions the broker did not take it, and why.

        Args:
            commit: The commit.
            refused: By the numbers of partitions; ``None`` where nobody said why.
            culprits: Messages in it whose outputs the broker does not take: they come again.
        """
        if self._commits.pop(id(commit), None) is None:
            return  # nobody waited for it any more
        for number, part in commit.items():
            partition = part.partition
            if number not in refused:
                partition.took(part)
                if part.permits:
                    self.readers.wake_all()
            elif partition.is_lost:
                for outcome in part.outcomes:
                    outcome.lose()
            else:
                partition.take_back(part)
        self._outputs_refused(culprits)
        errors = [error for error in refused.values() if error is not None]
        if errors:
            facts = {
                "topic": self._topic,
                "group": self.group,
                "reason": ", ".join(sorted({code_name(error) for error in errors})),
                "partitions": sorted(refused),
            }
            if all(map(is_of_rebalance, errors)):
                log.info("eventflow.commit_postponed", **facts)
            else:
                log.warning("eventflow.commit_failed", **facts)
        if self._watched and not refused:
            self._prepare()
        if self._timer is None and any(p.is_dirty for p in self._partitions.values()):
            self._arm(RETRY_S if refused else FLUSH_S)
        if self._is_transactional:
            self.readers.wake_all()  # there may be room for what it owes

    def _outputs_refused(self, culprits: Iterable[tuple[KafkaDelivery, KafkaError]]) -> None:
        """What has published what its topic does not take comes again; others go on before."""
        by_partition: dict[Partition, list[KafkaDelivery]] = {}
        for delivery, error in culprits:
            assert isinstance(delivery, TransactionalDelivery)
            by_partition.setdefault(delivery.partition, []).append(delivery)
            if error.code() in NOT_FOUND:
                for output in delivery.outputs:
                    self._forget(output.topic)
            log.error(
                "eventflow.outputs_refused",
                topic=self._topic,
                group=self.group,
                event_id=delivery.message.id,
                reason=code_name(error),
                deliveries=delivery.deliveries,
            )
        for partition, deliveries in by_partition.items():
            assert isinstance(partition, ExactPartition)
            partition.restore(deliveries)

    def failed(self, error: Exception) -> None:
        """Nothing will come any more."""
        if self.error is None:
            self.error = broken(error, self._topic)
        self.joined()
        self.readers.wake_all()

    def not_made(self, error: KafkaError) -> None:
        """There will be no consumer, and nothing to close."""
        settings = self.settings
        self.error = not_made(error, hosts=settings.hosts, properties=settings.properties)
        self.ended()

    def ended(self) -> None:
        """The consumer is closed, or was abandoned: what it has not told it will not tell."""
        if self._over.done():
            return
        self.is_ended = True
        for timer in (self._abandoning, self._opening):
            if timer is not None:
                timer.cancel()
        for partition in self._partitions.values():
            partition.lose()
        for commit in [*self._commits.values()]:
            self.committed(commit, dict.fromkeys(commit, None))
        self._over.set_result(None)
        self.joined()
        self.readers.wake_all()

    # The end

    def end(self) -> asyncio.Future[None]:
        """Give back what is open, commit what is settled, and leave the group.

        Returns:
            What is done then. Bounded: where the broker hangs, the thread is left behind, and ends
            when that answers again. Nothing new is made meanwhile: a subscription asks it first.
        """
        if not self._is_closing:
            self._is_closing = self.is_ended = True
            for member in [*self.members]:
                member.close()
            if self._postponing and self.is_postponing:
                self._leaving = self._loop.call_later(POSTPONE_S, self._end_now)
                self._postponing.close()
            else:
                self._end_now()
        return self._over

    def _end_now(self) -> None:
        """Once nothing is on its way to where it waits, or time is over."""
        for timer in (self._leaving, self._timer):
            if timer is not None:
                timer.cancel()
        self._leaving = self._timer = None
        self._look_at_revocation()
        unclean = (p for p in self._partitions.values() if p.is_unclean)
        commit: Commit = {}
        try:
            if not self._is_broadcast:
                commit = self._commit(unclean, is_last=True)
        finally:
            self._thread.end(commit)
        if not self._over.done():
            self._abandoning = self._loop.call_later(END_S, self.abandon)

    def abandon(self) -> None:
        """Go on without the thread, which is not done, and may never be."""
        if not self._over.done():
            log.warning("eventflow.consumer_abandoned", topic=self._topic, group=self.group)
            self.ended()


_partition_of = methodcaller("partition")


class _Revocation(NamedTuple):
    """Partitions that are being taken away together, and whom to give the commit of them."""

    partitions: list[Partition]
    give: Callable[[Commit], bool]
    timer: asyncio.TimerHandle
