"""A partition while it is ours, against a model that remembers every offset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.kafka._partition import UNCLEAN, Partition
from eventflow.brokers.kafka._progress import Note, Progress, from_text, to_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.brokers.kafka._delivery import KafkaDelivery


class FakeRecord:
    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __len__(self) -> int:
        return 1

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return b"x"

    def key(self) -> bytes | None:
        return None

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return [("_watermill_message_uuid", str(self._offset).encode())]

    def timestamp(self) -> tuple[int, int]:
        return (1, 5)


def taken(partition: Partition, limit: int) -> list[KafkaDelivery]:
    found: list[KafkaDelivery] = []
    settler: Any = None
    if partition.has_some:
        partition.take(found, limit, settler)
    return found


def fetched(partition: Partition, offsets: Sequence[int]) -> None:
    partition.ready.extend(FakeRecord(offset) for offset in offsets)


def committed(partition: Partition, *, is_last: bool = False) -> tuple[int, str] | None:
    """Have everything committed and confirmed; what the broker has then."""
    part = partition.commit(is_last=is_last)
    if part is None:
        return None
    if part.permits:
        partition.permit()
    return part.place.offset, part.place.metadata or ""


def permitted(partition: Partition) -> tuple[int, str] | None:
    """What a commit that it takes to hand something out says, once that is confirmed."""
    return committed(partition) if partition.prepare() else None


def restarted(commit: tuple[int, str], offsets: Sequence[int]) -> Partition:
    """What a process has that begins with a commit."""
    offset, text = commit
    partition = Partition("t", 3, from_text(text, offset))
    fetched(partition, [number for number in offsets if number >= offset])
    return partition


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "ack", "nack", "fail", "release", "crash", "stop"]),
        st.integers(0, 9),
    ),
    max_size=80,
)


@given(gaps=st.lists(st.integers(1, 4), min_size=1, max_size=40), steps=STEPS)
def test_a_restart_gets_what_is_not_done(gaps: list[int], steps: list[tuple[str, int]]) -> None:
    """With gaps in the offsets, in any order, over crashes and stops: nothing lost, nothing twice.

    Failures are known again, and so are deliveries; a crash can only lose count of those that
    were in hands, unless the partition was careful.
    """
    offsets = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    partition = restarted((0, ""), offsets)
    done: set[int] = set()
    held: list[KafkaDelivery] = []
    failures = dict.fromkeys(offsets, 0)
    least = dict.fromkeys(offsets, 0)  # deliveries that were committed
    most = dict.fromkeys(offsets, 0)
    last = (0, "")
    crashes = 0  # a careful one counts before it hands out
    for step, number in steps:
        if step == "take":
            last = permitted(partition) or last
            came = taken(partition, number)
            for delivery in came:
                at = delivery.offset
                most[at] += 1
                assert at not in done
                assert delivery.failures == failures[at]
                assert delivery.deliveries is not None
                assert least[at] < delivery.deliveries <= most[at] + crashes
            held += came
        elif step in {"crash", "stop"}:
            for delivery in held if step == "stop" else ():
                partition.put_back(delivery, failures=None, counts=False)
                most[delivery.offset] -= 1
            if step == "stop":
                last = committed(partition, is_last=True) or last
            crashes += step == "crash"
            partition, held = restarted(last, offsets), []
        elif held:
            delivery = held.pop(number % len(held))
            at = delivery.offset
            if step == "ack":
                partition.ack(delivery)
                done.add(at)
            else:
                more = failures[at] + 1 if step == "fail" else None
                partition.put_back(delivery, failures=more, counts=step != "release")
                failures[at] = more or failures[at]
                if step == "release":
                    most[at] -= 1
                else:
                    least[at] = delivery.deliveries or 0
        assert partition.out == len(held)
        last = committed(partition) or last
        again = restarted(last, offsets)
        opens = [at for at in offsets if at not in done]
        found: list[int] = []
        while len(found) < len(opens):
            permitted(again)
            (delivery,) = taken(again, 1)
            found.append(delivery.offset)
            again.ack(delivery)
        assert found == opens
        permitted(again)
        assert not taken(again, 1)


def test_what_was_put_back_comes_first() -> None:
    """In the partition's order, before what was not handed out yet."""
    partition = Partition("t", 3)
    fetched(partition, range(5))
    permitted(partition)
    for delivery in reversed(taken(partition, 3)):
        partition.put_back(delivery, failures=None, counts=True)
    assert [delivery.offset for delivery in taken(partition, 5)] == [0, 1, 2, 3, 4]


def test_nothing_before_it_is_open() -> None:
    """The first record takes a commit, and only a confirmed one permits."""
    partition = Partition("t", 3)
    assert not partition.prepare()
    fetched(partition, range(5))
    assert partition.prepare()
    assert not partition.prepare()
    assert not partition.has_some
    part = partition.commit()
    assert part is not None
    assert part.permits
    assert part.place.offset == 0
    assert from_text(part.place.metadata, 0).openings == 1
    partition.take_back(part)
    assert not partition.has_some
    assert committed(partition) == (0, part.place.metadata)
    assert len(taken(partition, 9)) == 5


def test_progress_and_a_stop_in_good_order_clear_the_openings() -> None:
    """What counts is how often in a row nothing was done and nobody said good-bye."""
    place, partition = (7, ""), Partition("t", 3)
    for n in range(1, UNCLEAN + 1):
        partition = restarted(place, range(7, 20))
        place = permitted(partition) or place
        assert from_text(place[1], place[0]).openings == n
    assert committed(partition, is_last=True) == (7, "")
    partition = restarted((7, ""), range(7, 20))
    permitted(partition)
    (first,) = taken(partition, 1)
    partition.ack(first)
    assert committed(partition) == (8, "")


def test_one_that_kills_its_readers_is_found() -> None:
    """Which of 50 it is nobody knows at first; then its deliveries are counted, and only its."""
    place, crashes = (0, ""), 0
    done: set[int] = set()
    while crashes < 30:
        partition = restarted(place, range(50))
        while True:
            place = permitted(partition) or place
            came = taken(partition, 50)
            poison = next((d for d in came if d.offset == 20), None)
            if poison is not None and (poison.deliveries or 0) <= 5:
                crashes += 1
                break
            for delivery in came:
                partition.ack(delivery)
                done.add(delivery.offset)
                assert delivery.deliveries == 1 or delivery is poison
            place = committed(partition) or place
            if not came:
                assert crashes == UNCLEAN + 5
                assert done == {*range(50)}
                return
    raise AssertionError("it kills them for ever")


def test_a_careful_one_passes_over_what_is_done() -> None:
    """Also where all that was fetched is done: that has to make room."""
    text = to_text(Progress(UNCLEAN, {}, ((0, 5), (6, 30))), 0)
    partition = restarted((0, text), range(5))
    permitted(partition)
    assert taken(partition, 9) == []
    assert not partition.ready
    fetched(partition, range(5, 30))
    permitted(partition)
    assert [d.offset for d in taken(partition, 9)] == [5]


def test_a_delivery_says_where_it_is_from() -> None:
    """Partition, offset and the record's time; its headers as they came."""
    partition = Partition("t", 3)
    fetched(partition, [7])
    permitted(partition)
    (delivery,) = taken(partition, 1)
    assert delivery.coordinates == {"partition": 3, "offset": 7, "timestamp": 5}
    assert delivery.headers == (("_watermill_message_uuid", b"7"),)
    assert delivery.message.id == "7"
    assert delivery.again(delivery.member, Note(1, 0)).coordinates == delivery.coordinates
