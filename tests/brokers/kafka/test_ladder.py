"""Names, steps and stamps of messages that wait; and who keeps them until they are due."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.kafka._ladder import (
    STAMP,
    STEPS,
    Stamp,
    check_steps,
    is_ladder,
    read_stamp,
    retry_topic,
    stamp_for,
)
from eventflow.brokers.kafka._progress import Note
from eventflow.brokers.kafka._waiting import MOST, Waiting
from eventflow.errors import BrokerError
from eventflow.events import validate_topic
from eventflow.messaging.ladder import LADDER_S, step_for

SEGMENTS = st.text("ab-_", min_size=1, max_size=3)
TOPICS = st.lists(SEGMENTS, min_size=1, max_size=3).map(".".join)
GROUPS = st.text("ab-_. é", min_size=1, max_size=4)
COUNTS = st.integers(0, 1 << 19)


@given(TOPICS, GROUPS, TOPICS, GROUPS)
def test_each_group_has_a_topic_of_its_own(a: str, g: str, b: str, h: str) -> None:
    names = {retry_topic(a, g), retry_topic(b, h)}
    assert len(names) == len({(a, g), (b, h)})
    for name in names:
        assert validate_topic(name)
        assert is_ladder(name)


def test_a_long_name_is_cut_and_stays_apart() -> None:
    long = "t" * 245
    names = {retry_topic(long, "one"), retry_topic(long, "two"), retry_topic(long[:-1], "one")}
    assert len(names) == 3
    assert max(map(len, names)) <= 249


@given(st.floats(0, 3e8))
def test_a_step_is_long_enough_if_any_is(delay: float) -> None:
    step = step_for(delay)
    assert LADDER_S[step] >= delay or step == STEPS - 1
    assert step == 0 or LADDER_S[step - 1] < delay


@given(st.integers(0, 10**14), st.integers(0, 10**10), COUNTS, COUNTS)
def test_a_stamp_says_when_and_what(now: int, delay: int, deliveries: int, failures: int) -> None:
    step, stamp = stamp_for(now, now + delay, Note(deliveries, failures), "orders.placed")
    assert stamp.due == now + delay
    assert stamp.wakes == min(stamp.due, now + LADDER_S[step] * 1_000)
    assert read_stamp([("x", b"y"), stamp.header()]) == stamp


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"1 2 3",
        b"1 2 3 4 ",
        b"-1 2 3 4 t",
        b"1 2 3 4 t\n",
        b"1 2 3 4 \xff",
        b"1 2 3 4 a/b",
        b"9" * 500,
    ],
)
def test_what_is_no_stamp_is_none(value: bytes | None) -> None:
    assert read_stamp([(STAMP, value)]) is None


def test_what_is_beyond_all_bounds_can_be_read() -> None:
    """Else it would come at once, and its counts be lost."""
    _, stamp = stamp_for(1, 10**18, Note(10**9, 10**9), "t")
    assert read_stamp([stamp.header()]) == stamp
    assert stamp.due > 10**14
    assert min(stamp.note) >= 10**6


def test_only_the_last_header_is_a_stamp() -> None:
    assert read_stamp([Stamp(1, 2, Note(), "t").header(), ("x", b"y")]) is None
    assert read_stamp([]) is None
    assert read_stamp(None) is None


def test_too_few_partitions_are_an_error() -> None:
    check_steps("t", STEPS)
    with pytest.raises(BrokerError, match=f"'t' has 4 partitions and needs {STEPS}"):
        check_steps("t", 4)


# Waiting


class FakeRecord:
    def __init__(self, number: int, offset: int, wakes: float | None, size: int = 10) -> None:
        self.at = (number, offset)
        self._size = size
        milliseconds = None if wakes is None else round(wakes * 1_000)
        self._headers = (
            []
            if milliseconds is None
            else [Stamp(milliseconds, milliseconds, Note(), "t").header()]
        )

    def __len__(self) -> int:
        return self._size

    def partition(self) -> int:
        return self.at[0]

    def offset(self) -> int:
        return self.at[1]

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers


class FakeConsumer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        def tell(told: Any) -> None:
            for place in [told] if hasattr(told, "partition") else told:
                self.told.append((name, place.partition, place.offset))

        return tell


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock of what waits."""
    clock = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    return clock


def test_a_step_keeps_its_order_and_others_go_on(now: list[float]) -> None:
    waiting = Waiting(FakeConsumer(), "t")  # type: ignore[arg-type]
    waiting.add(
        [
            FakeRecord(3, 0, now[0] + 2),
            FakeRecord(3, 1, now[0] + 1),
            FakeRecord(4, 0, now[0] + 3),
            FakeRecord(0, 7, None),
        ]
    )
    assert [record.at for record in waiting.due(100)] == [(0, 7)]
    now[0] += 1.5
    assert waiting.due(100) == []
    now[0] += 0.5
    assert [record.at for record in waiting.due(1)] == [(3, 0)]
    assert [record.at for record in waiting.due(100)] == [(3, 1)]
    waiting.forget([4])
    now[0] += 5
    assert waiting.due(100) == []


def test_nobody_waits_longer_than_the_step(now: list[float]) -> None:
    """Whatever the stamp says: a clock that is wrong holds nobody up for ever."""
    waiting = Waiting(FakeConsumer(), "t")  # type: ignore[arg-type]
    waiting.add([FakeRecord(1, 0, now[0] + 10_000), FakeRecord(99, 0, now[0] + 10_000)])
    now[0] += LADDER_S[0]
    assert [record.at for record in waiting.due(100)] == [(99, 0)]
    now[0] += LADDER_S[1] - LADDER_S[0]
    assert [record.at for record in waiting.due(100)] == [(1, 0)]


def test_one_step_holds_up_no_other(now: list[float]) -> None:
    """Where more is due than there is room for, what waits the longest is first."""
    waiting = Waiting(FakeConsumer(), "t")  # type: ignore[arg-type]
    waiting.add(FakeRecord(0, n, now[0] + 1) for n in range(10))
    waiting.add([FakeRecord(9, 0, now[0] + 0.5)])
    now[0] += 2
    assert [record.at for record in waiting.due(3)] == [(9, 0), (0, 0), (0, 1)]


def test_what_is_too_much_stays_in_kafka(now: list[float]) -> None:
    """The consumer is set back to the first that found no room, and reads on when there is."""
    consumer = FakeConsumer()
    waiting = Waiting(consumer, "t")  # type: ignore[arg-type]
    waiting.add(FakeRecord(2, n, now[0] + 1 + n / 1_000) for n in range(MOST + 50))
    assert consumer.told == [("pause", 2, MOST), ("seek", 2, MOST)]
    assert waiting.paused() == {2}
    now[0] += 1 + (MOST // 2 - 1.5) / 1_000
    assert len(waiting.due(5_000)) == MOST // 2 - 1
    assert waiting.paused() == {2}
    now[0] += 0.001
    assert len(waiting.due(1_000)) == 1
    assert consumer.told[2:] == [("resume", 2, -1001)]
    assert not waiting.paused()
    waiting.add(FakeRecord(2, n, now[0]) for n in range(MOST, 2 * MOST))
    assert consumer.told[3:] == [("pause", 2, MOST * 3 // 2), ("seek", 2, MOST * 3 // 2)]
    now[0] += 10
    assert [record.at[1] for record in waiting.due(5_000)] == [*range(MOST // 2, MOST * 3 // 2)]


def test_a_few_large_ones_are_too_much_as_well(now: list[float]) -> None:
    consumer = FakeConsumer()
    waiting = Waiting(consumer, "t")  # type: ignore[arg-type]
    waiting.add(FakeRecord(2, n, now[0] + 1, size=600_000) for n in range(5))
    assert consumer.told == [("pause", 2, 2), ("seek", 2, 2)]
    now[0] += 1
    assert len(waiting.due(1)) == 1
    assert not waiting.paused()
