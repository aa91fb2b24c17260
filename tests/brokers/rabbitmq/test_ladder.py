"""What is noted with a message that waits."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.rabbitmq import Field, Queue
from eventflow.brokers.rabbitmq._ladder import MOST, Note, due_ms, read_note, waiting

texts = st.text(st.characters(codec="utf-8"), max_size=20)
counts = st.integers(0, MOST)


@given(st.builds(Note, texts, texts, st.integers(0, int(time.time() * 1_000)), counts, counts))
def test_a_note_is_read_back(note: Note) -> None:
    assert read_note(note.pairs()) == note


@pytest.mark.parametrize(
    "value", [b"-1", b"x", b"", b"9" * 16, b"\xff", b"1.5", Field(b"I\0\0\0\5")]
)
def test_no_number_is_none(value: bytes) -> None:
    names = [name for name, _ in Note("e", "r", 1, 1, 1).pairs()][2:]
    assert read_note([(name, value) for name in names]) == Note()


def test_numbers_have_bounds() -> None:
    names = [name for name, _ in Note("e", "r", 1, 1, 1).pairs()][2:]
    note = read_note([(name, b"9" * 15) for name in names])
    assert note.failures == note.deliveries == MOST


@pytest.mark.parametrize("value", [b"\xff", b"n" * 256])
def test_a_name_that_can_be_none_leads_nowhere(value: bytes) -> None:
    """Nor does the other one: together they say where."""
    exchange, routing_key, *_ = (name for name, _ in Note("e", "r").pairs())
    for odd, other in ((exchange, routing_key), (routing_key, exchange)):
        note = read_note([(odd, value), (other, b"fine")])
        assert (note.exchange, note.routing_key) == ("", "")


@pytest.mark.parametrize("delay", [1e9, 1e12, 1e306])
def test_no_delay_is_too_long_to_be_written_down(delay: float) -> None:
    note = read_note(Note(due_ms=due_ms(delay)).pairs())
    assert note.left() > 0.99e9
    assert waiting(note.left()).routing_key == "eventflow.delay.86400"


@pytest.mark.parametrize(
    ("delay", "seconds"), [(0.001, 1), (1, 1), (1.001, 2), (4, 5), (61, 120), (10**7, 86_400)]
)
def test_a_step_is_never_too_short(delay: float, seconds: int) -> None:
    route = waiting(delay)
    assert route.routing_key == f"eventflow.delay.{seconds}"
    step = route.parts[-1]
    assert isinstance(step, Queue)
    assert step.arguments["x-message-ttl"] == seconds * 1_000


def test_what_is_due_is_not_early() -> None:
    note = Note(due_ms=due_ms(0.5))
    assert 0 < note.left() <= 0.501
