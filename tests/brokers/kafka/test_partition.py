"""A partition while it is ours, against a model that remembers every offset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.kafka._partition import KafkaDelivery, Partition
from eventflow.brokers.kafka._progress import from_text

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    partition.take(found, limit, settler)
    return found


def fetched(partition: Partition, offsets: Sequence[int]) -> None:
    partition.ready.extend(FakeRecord(offset) for offset in offsets)


def restarted(commit: tuple[int, str], offsets: Sequence[int]) -> Partition:
    """What a process has that begins with a commit."""
    committed, text = commit
    partition = Partition("t", 3, from_text(text, committed))
    fetched(partition, [offset for offset in offsets if offset >= committed])
    return partition


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "ack", "put back"]), st.integers(0, 9)), max_size=60
)


@given(
    gaps=st.lists(st.integers(1, 4), min_size=1, max_size=40), steps=STEPS, restart=st.booleans()
)
def test_a_restart_gets_what_is_not_done(
    gaps: list[int], steps: list[tuple[str, int]], restart: bool
) -> None:
    """With gaps in the offsets, in any order of acks: nothing lost, nothing twice."""
    offsets = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    partition = Partition("t", 3)
    fetched(partition, offsets)
    done: set[int] = set()
    held: list[KafkaDelivery] = []
    last = (0, "")
    for n, (step, number) in enumerate(steps):
        if restart and n == len(steps) // 2:
            partition, held = restarted(last, offsets), []
        if step == "take":
            came = taken(partition, number)
            assert done.isdisjoint(delivery.offset for delivery in came)
            held += came
        elif held:
            delivery = held.pop(number % len(held))
            if step == "ack":
                partition.ack(delivery)
                done.add(delivery.offset)
            else:
                partition.put_back(delivery)
        assert partition.out == len(held)
        if (part := partition.commit()) is not None:
            last = (part.place.offset, part.place.metadata or "")
            assert {d.offset for d in part.deliveries} <= done
        again = taken(restarted(last, offsets), len(offsets))
        assert [d.offset for d in again] == [o for o in offsets if o not in done]


def test_what_was_put_back_comes_first() -> None:
    """In the partition's order, before what was not handed out yet."""
    partition = Partition("t", 3)
    fetched(partition, range(5))
    for delivery in reversed(taken(partition, 3)):
        partition.put_back(delivery)
    assert [delivery.offset for delivery in taken(partition, 5)] == [0, 1, 2, 3, 4]


def test_a_delivery_says_where_it_is_from() -> None:
    """Partition, offset and the record's time; its headers as they came."""
    partition = Partition("t", 3)
    fetched(partition, [7])
    (delivery,) = taken(partition, 1)
    assert delivery.coordinates == {"partition": 3, "offset": 7, "timestamp": 5}
    assert delivery.headers == (("_watermill_message_uuid", b"7"),)
    assert delivery.message.id == "7"
    assert delivery.again(delivery.member).coordinates == delivery.coordinates
