"""A feed beside a thread that does nothing by itself: who is woken, and what is committed."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError

from eventflow.brokers.kafka import _feed
from eventflow.brokers.kafka._consumer import MOST_READY, ConsumerThread
from eventflow.brokers.kafka._deliveries import KafkaDeliveries
from eventflow.brokers.kafka._delivery import KafkaDelivery
from eventflow.brokers.kafka._exact_partition import ExactPartition
from eventflow.brokers.kafka._partition import CAREFUL_FOR, UNCLEAN, Partition
from eventflow.brokers.kafka._progress import Note, Progress, to_text
from eventflow.brokers.kafka._settings import Settings
from eventflow.brokers.kafka._transactions import Refusal
from eventflow.errors import PublishError, SettleError
from eventflow.messaging import Features
from tests.brokers.kafka.test_partition import FakeRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventflow.brokers.kafka._feed import Feed
    from eventflow.brokers.kafka._partition import Commit


class FakeThread:
    """Confirms every commit at once, or keeps it."""

    def __init__(self, settings: Settings, *, feed: Feed, **_: Any) -> None:
        self.feed = feed
        self.places: dict[int, int] = {}
        self.last: Any = None
        self.used_records = 0

    def start(self) -> None:
        pass

    def used(self, records: int, size: int) -> None:
        self.used_records += records

    def commit(self, commit: Commit) -> None:
        self.places |= {number: part.place.offset for number, part in commit.items()}
        refused: dict[int, KafkaError | None] = {}
        asyncio.get_running_loop().call_soon(self.feed.committed, commit, refused)

    def end(self, commit: Commit) -> None:
        self.last = commit
        self.feed.ended()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(_feed, "ConsumerThread", FakeThread)

    def make(*, is_broadcast: bool = False) -> Any:
        features = Features(backend="kafka", groups=True)
        return _feed.Feed(
            Settings(("h:1",)), topic="t", group="g", is_broadcast=is_broadcast, features=features
        )

    return make


def came(feed: Any, offsets: Iterable[int]) -> None:
    feed.came([FakeRecord(offset) for offset in offsets])


async def acked(feed: Any, count: int) -> list[int]:
    """What a reader gets, that acks each message before it asks for the next."""
    member, found = KafkaDeliveries(feed, max_in_flight=10), list[int]()
    async with asyncio.timeout(5):
        while len(found) < count:
            for delivery in await member.receive(10):
                found.append(int(delivery.coordinates["offset"]))
                assert delivery.ack()
    return found


@pytest.mark.parametrize("done", [(), ((0, 150),), ((50, 260),), ((0, 300),)])
async def test_a_careful_partition_goes_on(made: Any, done: Any) -> None:
    """Past its hundredth message, and past all that was done, though nobody wakes it again."""
    feed = made()
    count = 350
    feed.assigned({3: Progress(UNCLEAN, {}, done)})
    came(feed, range(count))
    opens = [n for n in range(count) if not any(a <= n < b for a, b in done)]
    assert len(opens) >= 50
    assert count > CAREFUL_FOR
    assert await acked(feed, len(opens)) == opens
    assert feed._thread.used_records == count


@pytest.mark.parametrize("what", ["stop", "revoke", "revoke, then stop"])
async def test_a_careful_partition_is_left(made: Any, what: str) -> None:
    """What was counted and not handed out is not counted; once, and all that is done stays."""
    feed = made()
    given: list[Any] = []

    def give(commit: Commit) -> bool:
        given.append(commit)
        return True

    notes: dict[int, Note] = {}
    for done, notes in (((), {0: Note(2, 1)}), (((0, 5),), {})):
        feed.assigned({3: Progress(UNCLEAN, notes, done)})
        came(feed, range(5))
        await asyncio.sleep(0)
        if "revoke" in what:
            feed.revoke([3], give)
            (part,) = given.pop().values()
            assert part.partition._notes == notes
            if what == "revoke":
                feed.revoked([3])
                continue
        break
    if "stop" in what:
        feed.end()
        for part in feed._thread.last.values():
            assert part.partition._notes == notes


async def test_what_is_in_hands_when_it_goes_may_have_killed_its_readers(made: Any) -> None:
    """A partition that is taken away under a message keeps its count of openings; else it goes."""
    for acks, openings in ((False, 3), (True, 0)):
        feed = made()
        feed.assigned({3: Progress(2)})
        came(feed, range(1))
        await asyncio.sleep(0)
        member = KafkaDeliveries(feed, max_in_flight=10)
        (delivery,) = await member.receive()
        if acks:
            delivery.ack()
        given: list[Any] = []

        def give(commit: Commit, given: list[Any] = given) -> bool:
            given.append(commit)
            return True

        feed.revoke([3], give)
        feed._give_up()
        (commit,) = given
        assert commit[3].partition._openings == openings
        feed.end()


async def test_a_thread_commits_for_its_own_assignment_alone() -> None:
    """A loop that was blocked asks for what somebody else has by now: refused, and not sent."""
    told: list[Any] = []
    sent: list[Any] = []

    class Client:
        def commit(self, *, offsets: list[Any], asynchronous: bool) -> None:
            sent.append([place.partition for place in offsets])

    class Told:
        def committed(self, commit: Commit, refused: dict[int, KafkaError]) -> None:
            told.append({number: error.code() for number, error in refused.items()})

    feed: Any = Told()
    loop = asyncio.get_running_loop()
    thread: Any = ConsumerThread(
        Settings(("h:1",)), topic="t", group="g", feed=feed, loop=loop, is_broadcast=False
    )
    thread._consumer = Client()
    thread._terms = {0: 7, 1: 8}
    parts = {number: _part(number, term) for number, term in ((0, 7), (1, 7), (2, 7))}
    thread.commit(parts)
    thread._commit()
    assert sent == [[0]]
    thread.commit({number: parts[number] for number in (1, 2)})
    thread._commit()
    await asyncio.sleep(0)
    assert sent == [[0]]
    assert told == [dict.fromkeys((1, 2), KafkaError.ILLEGAL_GENERATION)]


async def test_a_transaction_on_top_of_one_that_was_refused() -> None:
    """What was made before its refusal was heard tells too much: refused, and not tried."""
    told: list[set[int]] = []
    tried: list[list[int]] = []
    refusals: list[Refusal | None] = [
        Refusal(KafkaError(KafkaError.ILLEGAL_GENERATION)),
        None,
        None,
    ]

    class Played:
        def commit(self, parts: list[Any]) -> Refusal | None:
            tried.append([part.place.partition for part in parts])
            return refusals.pop(0)

    class Told:
        def committed(self, commit: Commit, refused: Any, culprits: Any) -> None:
            told.append(set(refused))
            for number in refused:
                commit[number].partition.take_back(commit[number])

    feed: Any = Told()
    loop = asyncio.get_running_loop()
    thread: Any = ConsumerThread(
        Settings(("h:1",)), topic="t", group="g", feed=feed, loop=loop, is_broadcast=False
    )
    thread._transactions = Played()
    thread._terms = {0: 7, 1: 7}
    first, other = _part(0, 7, ExactPartition), _part(1, 7, ExactPartition)
    partition = first.partition
    thread.commit({0: first})
    thread._commit()
    partition.is_dirty = True
    thread.commit({0: partition.commit(), 1: other})
    thread._commit()
    await asyncio.sleep(0)
    thread.commit({0: partition.commit()})
    thread._commit()
    await asyncio.sleep(0)
    assert tried == [[0], [1], [0]]
    assert told == [{0}, {0}, set()]


@pytest.mark.parametrize(
    ("code", "tries"), [(KafkaError.ILLEGAL_GENERATION, 3), (KafkaError.UNKNOWN_MEMBER_ID, 1)]
)
async def test_a_transaction_that_is_refused_while_the_end_begins(code: int, tries: int) -> None:
    """Tried again, as the last commit is on top of it; not by who is in no group any more."""
    tried: list[float] = []
    told: list[Any] = []

    class Played:
        def commit(self, parts: list[Any], *, within: float = 8.0) -> Refusal | None:
            tried.append(within)
            thread.end({})
            return Refusal(KafkaError(code)) if len(tried) < 3 else None

    class Told:
        def committed(self, commit: Commit, refused: Any, culprits: Any) -> None:
            told.append([error.code() for error in refused.values()])

    feed: Any = Told()
    loop = asyncio.get_running_loop()
    thread: Any = ConsumerThread(
        Settings(("h:1",)), topic="t", group="g", feed=feed, loop=loop, is_broadcast=False
    )
    thread._transactions = Played()
    thread._terms = {0: 7}
    thread.commit({0: _part(0, 7, ExactPartition)})
    thread._commit()
    await asyncio.sleep(0)
    assert len(tried) == tries
    assert told == ([[]] if tries == 3 else [[code]])


def _part(number: int, term: int, kind: type[Partition] = Partition) -> Any:
    partition: Any = kind("t", number, term=term)
    partition.ready.append(FakeRecord(0))
    partition.prepare()
    return partition.commit()


@pytest.mark.parametrize("openings", [0, UNCLEAN])
async def test_a_coordinator_that_says_nothing(
    made: Any, monkeypatch: pytest.MonkeyPatch, openings: int
) -> None:
    """It holds up a partition for a while only, but one that is careful until it answers."""
    monkeypatch.setattr(_feed, "OPEN_S", 0.05)
    feed = made()
    feed._thread.commit = asyncio.Queue[Any]().put_nowait
    feed.assigned({3: Progress(openings)})
    came(feed, range(5))
    member = KafkaDeliveries(feed, max_in_flight=10)
    receiving = asyncio.create_task(member.receive(10))
    done, _ = await asyncio.wait([receiving], timeout=0.03)
    assert not done
    done, _ = await asyncio.wait([receiving], timeout=5 if not openings else 0.3)
    if openings:
        assert not done
        member.close()
        assert await receiving == ()
    else:
        assert len(receiving.result()) == 5
    feed.end()


async def test_the_lag_of_a_member_that_is_lost(made: Any) -> None:
    """Nobody knows it until the group says again what is ours."""
    feed = made()
    assert feed.lag is None
    feed.assigned({3: Progress(offset=4)})
    assert feed.lag is None
    feed.heard({3: (0, 10)})
    assert feed.lag == 6
    feed.lost([3])
    assert feed.lag is None
    feed.assigned({})
    assert feed.lag == 0


@pytest.mark.parametrize("fate", ["taken", "lost"])
async def test_a_commit_decides_for_all_that_it_tells(made: Any, fate: str) -> None:
    """Whoever waits is told, be it since before the ack, and so is who looks afterwards."""
    feed = made()
    feed._thread.commit = asyncio.Queue[Any]().put_nowait
    feed.assigned({3: Progress()})
    feed._partitions[3].permit()
    came(feed, range(3))
    member = KafkaDeliveries(feed, max_in_flight=10)
    before, after, alone = await member.receive(10)
    waiting = [asyncio.create_task(before.settled())]
    await asyncio.sleep(0)
    assert before.ack()
    assert after.nack(failures=1)
    assert alone.ack()
    waiting += [asyncio.create_task(after.settled()) for _ in range(2)]
    await asyncio.sleep(0)
    feed._flush()
    (commit,) = feed._commits.values()
    # Refused at first: it is the next one that tells.
    feed.committed(commit, {3: None})
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    assert not alone.is_ended
    feed._flush()
    (commit,) = feed._commits.values()
    if fate == "lost":
        feed.revoked([3])
    feed.committed(commit, {} if fate == "taken" else {3: None})
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    if fate == "taken":
        assert errors == [None, None, None]
        assert alone.is_confirmed
        await alone.settled()
    else:
        for delivery, error in zip((before, after, after), errors, strict=True):
            assert isinstance(error, SettleError)
            assert error.message_id == delivery.message.id
            assert error is delivery.error
        with pytest.raises(SettleError, match=alone.message.id):
            await alone.settled()
        assert not alone.is_confirmed
    feed.end()


async def test_with_broadcast_an_ack_is_confirmed_at_once(made: Any) -> None:
    """Nobody has to be told: also whoever waits since before it learns that."""
    feed = made(is_broadcast=True)
    feed.assigned({3: Progress()})
    came(feed, range(2))
    member = KafkaDeliveries(feed, max_in_flight=10)
    first, second = await member.receive(10)
    waiting = asyncio.create_task(first.settled())
    await asyncio.sleep(0)
    assert first.ack()
    assert second.ack()
    async with asyncio.timeout(5):
        await waiting
        await second.settled()
    feed.revoked([3])
    assert first.is_confirmed
    assert second.error is None
    feed.end()


async def test_a_thread_is_woken_where_there_is_room() -> None:
    """Not for each record that was handed out: it would find none, and wait again."""
    loop = asyncio.get_running_loop()
    feed: Any = None
    thread: Any = ConsumerThread(
        Settings(("h:1",)), topic="t", group="g", feed=feed, loop=loop, is_broadcast=False
    )
    thread._came = MOST_READY + 10
    thread.used(10, 0)
    assert not thread._room.is_set()
    thread.used(1, 0)
    assert thread._room.is_set()


async def test_what_was_acked_is_not_kept(made: Any) -> None:
    """Until a commit ends, thousands of others may come."""
    feed = made()
    feed._thread.commit = asyncio.Queue[Any]().put_nowait
    feed.assigned({3: Progress()})
    feed._partitions[3].permit()
    came(feed, range(20))
    member = KafkaDeliveries(feed, max_in_flight=100)
    before = _alive()
    assert all(delivery.ack() for delivery in await member.receive(20))
    assert _alive() == before
    feed.end()


def _alive() -> int:
    return sum(type(one) is KafkaDelivery for one in gc.get_objects())


async def test_leaving_waits_for_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has put off what could not be stored, the other has some in hand: both are given back."""
    monkeypatch.setattr(_feed, "ConsumerThread", FakeThread)

    class Refusing:
        def begin_again(self, *_: Any) -> None:
            raise PublishError("no")

    refusing: Any = Refusing()
    features = Features(backend="kafka", groups=True, nack_delay=True)
    feed: Any = _feed.Feed(
        Settings(("h:1",)),
        topic="t",
        group="g",
        is_broadcast=False,
        features=features,
        postpone=(refusing, "t.g.retries"),
    )
    first, second = (KafkaDeliveries(feed, max_in_flight=10) for _ in range(2))
    feed.assigned({0: Progress(), 1: Progress()})
    for number in (0, 1):
        record: Any = FakeRecord(0)
        record.partition = lambda number=number: number
        feed.came([record])
    (one,) = await first.receive(1)
    (other,) = await second.receive(1)
    assert one.coordinates["partition"] != other.coordinates["partition"]
    one.nack(delay=3_600)
    assert feed.is_postponing
    await feed.end()
    assert not feed.is_postponing
    assert other.error is not None
    # As it was left in good order, nobody suspects what was in it.
    assert [part.place.metadata for part in feed._thread.last.values()] == [
        to_text(Progress(0, {0: Note(1, 0)}), 0) if number == one.coordinates["partition"] else ""
        for number in feed._thread.last
    ]
