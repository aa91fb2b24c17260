"""What a commit says beyond its offset."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.kafka._progress import MARK, MAX_TEXT, done_beyond, from_text, to_text

START = 1_000_000_000_000
offsets = st.sets(st.integers(0, 3_000)).map(sorted)


@given(open_offsets=offsets, more=st.integers(0, 500))
def test_what_was_done_is_known_again(open_offsets: list[int], more: int) -> None:
    """Every offset from the commit on is open or done, as it was."""
    places = [START + n for n in open_offsets]
    committed = places[0] if places else START
    end = (places[-1] if places else START) + 1 + more
    text = to_text(done_beyond(committed, places, end), committed)
    done = {n for first, last in from_text(text, committed) for n in range(first, last)}
    assert len(text) <= MAX_TEXT
    assert done.isdisjoint(places)
    if len(text) < MAX_TEXT - 20:  # nothing was left out for want of room
        assert done == set(range(committed, end)) - set(places)


def test_what_finds_no_room_comes_again() -> None:
    """Alternating over 20,000 offsets: the first ones are kept, whole ranges, in order."""
    places = range(0, 20_000, 2)
    done = done_beyond(0, places, 20_000)
    text = to_text(done, 0)
    assert MAX_TEXT - 10 < len(text) <= MAX_TEXT
    kept = from_text(text, 0)
    assert kept == done[: len(kept)]
    assert len(kept) > 1_000


def test_a_plain_commit_says_nothing() -> None:
    """Without anything done beyond it the metadata is empty, as other readers have it."""
    assert to_text(done_beyond(5, [], 5), 5) == ""
    assert to_text(done_beyond(5, [5, 6], 7), 5) == ""


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
        MARK + base64.b64encode(b"\x01\xff").decode(),
        MARK + base64.b64encode(b"\x01" + b"\xff" * 9).decode(),
        MARK + base64.b64encode(b"\x01" + b"\xff" * 5 + b"\x7f").decode(),
        MARK + "A" * MAX_TEXT,
    ],
)
def test_what_is_none_of_ours_says_nothing(text: str | None) -> None:
    """Others may commit for the group, and write there what they like."""
    assert from_text(text, 7) == ()


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_passed_over(raw: bytes) -> None:
    """In order, beyond the commit; no error, and no absurd offset."""
    found = from_text(MARK + base64.b64encode(raw).decode(), 7)
    flat = [7, *(offset for pair in found for offset in pair)]
    assert flat == sorted(flat)
