"""What a transactional commit tells as done, and what it leaves for a later one. No broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.kafka._deliveries import KafkaDeliveries
from eventflow.brokers.kafka._exact import covers, exact_text
from eventflow.brokers.kafka._exact_partition import (
    MOST_BYTES,
    MOST_OWED,
    ExactPartition,
    ExactStep,
)
from eventflow.brokers.kafka._outputs import Output, TransactionalDelivery
from eventflow.brokers.kafka._partition import Partition
from eventflow.brokers.kafka._progress import MAX_TEXT, Note, Progress, done_beyond, from_text
from eventflow.messaging import Features
from tests.brokers.kafka.test_partition import FakeRecord

if TYPE_CHECKING:
    from eventflow.brokers.kafka._delivery import KafkaDelivery
    from eventflow.brokers.kafka._progress import Ranges
    from eventflow.messaging import Delivery

START = 1_000_000_000_000


class Silent(KafkaDeliveries):
    """Takes decisions, and tells nobody."""

    features = Features(backend="kafka")

    def __init__(self) -> None: ...

    def settle(self, delivery: Delivery) -> None: ...

    def acked(self, partition: Partition) -> None: ...


def inside(ranges: Ranges) -> set[int]:
    return {offset for first, end in ranges for offset in range(first, end)}


@given(
    places=st.sets(st.integers(0, 6_000), max_size=1_500).map(sorted),
    more=st.sets(st.integers(0, 6_000), max_size=500),
    notes=st.integers(0, 500),
)
def test_what_was_told_is_told_again(places: list[int], more: set[int], notes: int) -> None:
    """Whatever finds room or not: nothing that is open, and all that an earlier text had."""
    counts = {START + n: Note(2, 1) for n in range(notes)}
    earlier = done_beyond(START, [START + n for n in sorted({*places, *more})], START + 6_001)
    text, told = exact_text(Progress(1, counts, earlier), START, ())
    now = done_beyond(START, [START + n for n in places], START + 6_001)
    text, told_now = exact_text(Progress(1, counts, now), START, told)
    assert len(text) <= MAX_TEXT
    assert from_text(text, START).done == told_now
    assert inside(told) <= inside(told_now) <= inside(now)


def test_as_much_as_finds_room() -> None:
    """Alternating over 20,000 offsets: the first ranges, and those that were there before."""
    done = done_beyond(0, range(0, 20_000, 2), 20_000)
    before = done[-200:]
    text, told = exact_text(Progress(0, {0: Note(1, 1)}, done), 0, before)
    assert MAX_TEXT - 100 < len(text) <= MAX_TEXT
    assert told[-200:] == before
    assert told[:-200] == done[: len(told) - 200]
    assert len(told) > 800
    assert covers(told, 1)
    assert not covers(told, 0)
    assert not covers(told, 19_000)


def partition(count: int) -> tuple[ExactPartition, list[KafkaDelivery]]:
    """One that has handed out so many."""
    made = ExactPartition("t", 0)
    made.ready.extend(FakeRecord(n) for n in range(count))
    made.prepare()
    assert made.commit() is not None
    made.permit()
    taken: list[Any] = []
    made.take(taken, count, Silent())
    assert all(type(delivery) is TransactionalDelivery for delivery in taken)
    return made, taken


def acked(made: Partition, *deliveries: KafkaDelivery) -> None:
    for delivery in deliveries:
        assert delivery.partition is made
        assert delivery.ack()


def test_what_a_commit_does_not_tell_is_not_in_it() -> None:
    """Every other one of 6,000 is done: some are confirmed, and the rest by later commits."""
    made, taken = partition(6_000)
    acked(made, *taken[1::2])
    part = made.commit()
    assert part is not None
    told = inside(from_text(part.place.metadata, part.place.offset).done)
    assert {delivery.offset for delivery in part.deliveries} == told
    assert 1_000 < len(told) < 3_000
    assert not made.is_dirty  # the same again would be no news
    confirmed = set(told)
    for at in range(0, 6_000, 500):
        acked(made, *taken[at : at + 500 : 2])
        part = made.commit()
        assert part is not None
        told = inside(from_text(part.place.metadata, part.place.offset).done)
        found = {delivery.offset for delivery in part.deliveries}
        assert found.isdisjoint(confirmed)
        confirmed |= found
        assert confirmed == told | set(range(part.place.offset))
    assert confirmed == set(range(6_000))
    assert not made.settled


def test_a_plain_partition_confirms_all() -> None:
    """Where nothing but the ack is in it, what a text leaves out may be done again."""
    made = Partition("t", 0)
    made.ready.extend(FakeRecord(n) for n in range(6_000))
    made.prepare()
    made.commit()
    made.permit()
    taken: list[Any] = []
    made.take(taken, 6_000, Silent())
    acked(made, *taken[1::2])
    part = made.commit()
    assert part is not None
    assert {delivery.outcome for delivery in taken[1::2]} <= {*part.outcomes}


def test_a_culprit_comes_again_in_its_place() -> None:
    """As delivered, and not by its failure; the others are committed without it."""
    made, taken = partition(5)
    acked(made, *taken)
    part = made.commit()
    assert part is not None
    made.take_back(part)
    made.restore([taken[2]])
    assert taken[2].error is not None
    again: list[Any] = []
    made.take(again, 5, Silent())
    assert again == []  # the others first
    part = made.commit()
    assert part is not None
    assert part.place.offset == 2
    assert [delivery.offset for delivery in part.deliveries] == [0, 1, 3, 4]
    assert from_text(part.place.metadata, 2) == Progress(0, {2: Note(1, 0)}, ((3, 5),), 2)
    made.took(part)
    made.take(again, 5, Silent())
    assert [(d.offset, d.deliveries, d.failures) for d in again] == [(2, 2, 0)]
    assert again[0].outputs == []
    made.lose()
    made.restore([taken[2]])
    assert not made.settled


def test_a_commit_says_what_it_did_not_know() -> None:
    """How many refusals its partition had heard of."""
    made, taken = partition(3)
    acked(made, taken[0])
    first = made.commit()
    acked(made, taken[1])
    second = made.commit()
    assert first is not None
    assert second is not None
    made.take_back(first)
    acked(made, taken[2])
    third = made.commit()
    assert third is not None
    assert [part.refusals for part in (first, second, third)] == [0, 0, 1]
    assert [delivery.offset for delivery in third.deliveries] == [0, 2]


def test_what_it_owes_is_bounded() -> None:
    """Nothing new, until a commit has stored some; what comes again comes."""
    made, taken = partition(MOST_OWED + 1)
    acked(made, *taken[:-2])
    assert not made.owes
    acked(made, taken[-2])
    assert made.owes
    assert taken[-1].nack()
    made.put_back(taken[-1], failures=1, counts=True)
    assert not made.owes
    made.take([], 1, Silent())
    assert made.owes
    assert made.commit() is not None
    assert not made.owes


def test_a_commit_takes_as_much_as_one_transaction_should() -> None:
    """Large outputs are told in several, in order; fewer after a refusal, and more again."""
    made, taken = partition(40)
    for delivery in taken:
        assert isinstance(delivery, TransactionalDelivery)
        delivery.outputs = [Output("out", bytes(MOST_BYTES // 10), None, [])]
    acked(made, *reversed(taken))
    part = made.commit()
    assert part is not None
    assert {delivery.offset for delivery in part.deliveries} == {*range(len(part.deliveries))}
    assert part.place.offset == len(part.deliveries) == 9
    assert from_text(part.place.metadata, 9).done == ()
    made.take_back(part)
    fewer = made.commit()
    assert fewer is not None
    assert len(fewer.deliveries) == 4
    made.took(fewer)
    assert [delivery.is_confirmed for delivery in taken] == [True] * 4 + [False] * 36
    confirmed = 4
    while made.settled:
        assert made.is_dirty
        more = made.commit()
        assert more is not None
        made.took(more)
        confirmed += len(more.deliveries)
    assert confirmed == 40
    assert all(delivery.is_confirmed for delivery in taken)


def test_one_that_is_larger_than_all_of_it_goes_alone() -> None:
    made, taken = partition(2)
    for delivery in taken:
        assert isinstance(delivery, TransactionalDelivery)
        delivery.outputs = [Output("out", bytes(MOST_BYTES * 2), None, [])]
    acked(made, *taken)
    found: list[int] = []
    while made.settled:
        part = made.commit()
        assert part is not None
        found.append(len(part.deliveries))
    assert found == [1, 1]


def test_what_was_put_off_stays_put_off() -> None:
    """A handler that has settled its message by hand, and fails then: its end is what counts."""
    _, (first, second) = partition(2)
    assert isinstance(first, TransactionalDelivery)
    assert isinstance(second, TransactionalDelivery)
    record = Output("t.g.retries", b"x", None, [], 3)
    for delivery in (first, second):
        delivery.outputs = [record]
    assert first.ack()
    first.attempt_failed()
    assert first.outputs == [record]

    async def fail() -> None:
        second.attempt_failed()

    asyncio.run(fail())
    assert second.outputs == []


def test_a_culprit_that_has_waited() -> None:
    """It is acked once more, though its stamp is gone."""
    made = ExactStep("t.g.retries", 0, origin="t")
    made.ready.append(FakeRecord(0))
    made.prepare()
    assert made.commit() is not None
    made.permit()
    taken: list[Any] = []
    made.take(taken, 1, Silent())
    acked(made, *taken)
    part = made.commit()
    assert part is not None
    made.take_back(part)
    made.restore(taken)
    made.took(made.commit() or part)
    again: list[Any] = []
    made.take(again, 1, Silent())
    assert made.left(again[0]) == 0
    acked(made, *again)
    last = made.commit()
    assert last is not None
    assert last.place.offset == 1
