"""What a commit says beyond its offset."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.kafka._progress import (
    MARK,
    MAX_COUNT,
    MAX_TEXT,
    NOTHING,
    Note,
    Progress,
    done_beyond,
    from_text,
    to_text,
)

START = 1_000_000_000_000
offsets = st.sets(st.integers(0, 3_000)).map(sorted)


@given(open_offsets=offsets, more=st.integers(0, 500))
def test_what_was_done_is_known_again(open_offsets: list[int], more: int) -> None:
    """Every offset from the commit on is open or done, as it was."""
    places = [START + n for n in open_offsets]
    committed = places[0] if places else START
    end = (places[-1] if places else START) + 1 + more
    text = to_text(Progress(done=done_beyond(committed, places, end)), committed)
    done = {n for first, last in from_text(text, committed).done for n in range(first, last)}
    assert len(text) <= MAX_TEXT
    assert done.isdisjoint(places)
    if len(text) < MAX_TEXT - 20:  # nothing was left out for want of room
        assert done == set(range(committed, end)) - set(places)


def test_what_finds_no_room_comes_again() -> None:
    """Alternating over 20,000 offsets: the first ones are kept, whole ranges, in order."""
    places = range(0, 20_000, 2)
    done = done_beyond(0, places, 20_000)
    text = to_text(Progress(done=done), 0)
    assert MAX_TEXT - 20 < len(text) <= MAX_TEXT
    kept = from_text(text, 0).done
    assert kept == done[: len(kept)]
    assert len(kept) > 1_000


@given(
    openings=st.integers(0, MAX_COUNT),
    notes=st.dictionaries(
        st.integers(START, START + 5_000),
        st.builds(Note, st.integers(0, MAX_COUNT), st.integers(0, MAX_COUNT)),
        max_size=100,
    ),
    places=offsets,
)
def test_counts_are_known_again(openings: int, notes: dict[int, Note], places: list[int]) -> None:
    """As they were, beside what is done."""
    done = done_beyond(START, [START + n for n in places[:100]], START + 4_000)
    found = from_text(to_text(Progress(openings, notes, done), START), START)
    assert found == Progress(openings, notes, done, START)


def test_counts_that_find_no_room_begin_anew() -> None:
    """Of 2,000 messages that failed: the first ones are kept, and there is room for runs."""
    notes = {2 * n: Note(3, 2) for n in range(2_000)}
    done = tuple((2 * n + 1, 2 * n + 2) for n in range(2_000))
    text = to_text(Progress(1, notes, done), 0)
    assert len(text) <= MAX_TEXT
    found = from_text(text, 0)
    assert found.notes == {at: note for at, note in notes.items() if at < 2 * len(found.notes)}
    assert len(found.notes) > 300
    assert found.done == done[: len(found.done)]
    assert len(found.done) > 300


def test_a_plain_commit_says_nothing() -> None:
    """Without anything done beyond it the metadata is empty, as other readers have it."""
    assert to_text(Progress(done=done_beyond(5, [], 5)), 5) == ""
    assert to_text(Progress(done=done_beyond(5, [5, 6], 7)), 5) == ""


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "sarama",
        "eventflow1",
        MARK,
        f"{MARK}!",
        f"{MARK}zażółć",
        MARK + base64.b64encode(b"\x01").decode(),
        MARK + base64.b64encode(b"\x00\x01\x01\x01").decode(),
        MARK + base64.b64encode(b"\x00\x00\x01").decode(),
        MARK + base64.b64encode(b"\x01\xff").decode(),
        MARK + base64.b64encode(b"\x01" + b"\xff" * 9).decode(),
        MARK + base64.b64encode(b"\x01" + b"\xff" * 5 + b"\x7f").decode(),
        MARK + "A" * MAX_TEXT,
    ],
)
def test_what_is_none_of_ours_says_nothing(text: str | None) -> None:
    """Others may commit for the group, and write there what they like."""
    assert from_text(text, 7) == NOTHING._replace(offset=7)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_passed_over(raw: bytes) -> None:
    """In order, beyond the commit; no error, no absurd offset or count."""
    found = from_text(MARK + base64.b64encode(raw).decode(), 7)
    flat = [7, *(offset for pair in found.done for offset in pair)]
    assert flat == sorted(flat)
    assert all(at >= 7 and max(note) <= MAX_COUNT for at, note in found.notes.items())
    assert found.openings <= MAX_COUNT
