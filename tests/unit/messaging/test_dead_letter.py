"""What a dead letter says, where there is little to say."""

from __future__ import annotations

import pytest

from eventflow.messaging import Delivery, Features, Message
from eventflow.messaging.dead_letter import LEFT_OUT, MAX_TEXT, dead_letter


class Nobody:
    features = Features(backend="nobody")

    def settle(self, delivery: Delivery) -> None: ...


class Mute(Exception):  # noqa: N818 - it says nothing
    def __str__(self) -> str:
        raise RuntimeError


class Ends(Exception):  # noqa: N818 - it is how it is told that matters
    def __str__(self) -> str:
        raise KeyboardInterrupt


def letter(error: BaseException) -> Message:
    delivery = Delivery(Message(b"x", {"a": "b"}, id="m-1"), topic="orders", settler=Nobody())
    return dead_letter(
        delivery, error, handler="h", group="g", attempts=0, first_failed_at=None, longest=MAX_TEXT
    )


def test_what_a_broker_does_not_tell_is_left_out() -> None:
    """No count of deliveries, no place, no first failure: not as empty texts either."""
    made = letter(ValueError("no"))
    assert {name for name in made.metadata if name.startswith("eventflow_")} == {
        "eventflow_exception",
        "eventflow_attempts",
        "eventflow_dead_lettered_at",
    }
    assert (made.id, made.payload, made.metadata["a"]) == ("m-1", b"x", "b")


@pytest.mark.parametrize("error", [Mute(), ValueError()])
def test_an_error_that_says_nothing_is_named(error: Exception) -> None:
    """Also one that can't be shown: the reason is never empty."""
    assert letter(error).metadata["reason_poisoned"] == type(error).__name__


def test_what_ends_the_process_is_not_taken_for_a_text() -> None:
    with pytest.raises(KeyboardInterrupt):
        letter(Ends())


def test_a_bare_one_has_what_no_reader_can_do_without() -> None:
    """Its bytes, its id, its event's name, why it is there, and how much is missing."""
    metadata = {"name": "n" * 5_000, "a": "b", "reason_poisoned": "another one", LEFT_OUT: "7"}
    headers = (("h", b"1"), ("h", b"2"))
    message = Message(b"x", metadata, id="m-1", key="k", headers=headers)
    delivery = Delivery(message, topic="orders", settler=Nobody())
    for is_bare, left_out in ((True, "5"), (False, None)):
        made = dead_letter(
            delivery, ValueError("no"), handler="h", group="g", attempts=1, is_bare=is_bare
        )
        assert (made.id, made.payload, made.key) == ("m-1", b"x", "k")
        assert made.metadata["reason_poisoned"] == "no"
        assert made.metadata.get(LEFT_OUT) == left_out
        assert ("a" in made.metadata, made.headers == headers) == (not is_bare, not is_bare)
        assert len(made.metadata["name"]) == (MAX_TEXT if is_bare else 5_000)
