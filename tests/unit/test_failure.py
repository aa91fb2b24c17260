"""Failure policies by themselves: which wait follows which attempt."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import InvalidHandlerError, InvalidOptionError, Permanent, RetryAfter
from eventflow.failure import CallOnFailure, DeadLetter, FailurePolicy, Log, Retry


def test_the_default_waits_double_up_to_the_maximum() -> None:
    """0.1, 0.2, 0.4 … s without jitter."""
    retry = Retry(attempts=20, jitter=0)
    waits = [retry.delay(ValueError(), n) for n in range(1, 12)]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == 30
    assert retry.delay(ValueError(), 20) is None


@given(
    attempts=st.integers(1, 2000),
    attempt=st.integers(1, 3000),
    initial=st.floats(0, 1e6),
    multiplier=st.floats(1, 1e6),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
def test_a_wait_is_in_its_bounds(
    attempts: int,
    attempt: int,
    initial: float,
    multiplier: float,
    max_delay: float,
    jitter: float,
) -> None:
    """0 to max_delay, finite; None exactly when the attempts are used up."""
    retry = Retry(
        attempts=attempts,
        initial=initial,
        multiplier=multiplier,
        max_delay=max_delay,
        jitter=jitter,
    )
    wait = retry.delay(ValueError(), attempt)
    if attempt >= attempts:
        assert wait is None
        return
    assert wait is not None
    assert 0 <= wait <= max_delay
    try:
        plain = min(max_delay, initial * multiplier ** (attempt - 1))
    except OverflowError:
        plain = max_delay
    assert wait >= plain * (1 - jitter) * 0.999999


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (ValueError(), 0.1),
        (asyncio.CancelledError(), 0.1),
        (Permanent(), None),
        (RetryAfter(7), 7),
        (KeyboardInterrupt(), None),
        (SystemExit(), None),
        (KeyError(), None),
    ],
)
def test_what_is_retried(error: BaseException, wait: float | None) -> None:
    """Exceptions, a cancellation of the handler's own making; not what ends the process."""
    assert Retry(jitter=0, never=(KeyError,)).delay(error, 1) == wait


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": 1.5}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"initial": -1}, "initial"),
        ({"initial": math.inf}, "initial"),
        ({"initial": "1"}, "initial"),
        ({"multiplier": 0.5}, "multiplier"),
        ({"max_delay": -1}, "max_delay"),
        ({"max_delay": math.nan}, "max_delay"),
        ({"jitter": 1.1}, "jitter"),
        ({"on": ValueError}, "on"),
        ({"on": [ValueError]}, "on"),
        ({"never": ("ValueError",)}, "never"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], option: str) -> None:
    """With its name."""
    with pytest.raises(InvalidOptionError) as caught:
        Retry(**options)
    assert caught.value.option == option


def test_policies_are_plain_values() -> None:
    """Equal, hashable, and travel."""
    policy = FailurePolicy(retry=Retry(attempts=3), then=DeadLetter())
    for again in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert again == policy
        assert hash(again) == hash(policy)
    assert FailurePolicy.log() == FailurePolicy(then=Log())


@pytest.mark.parametrize("wrong", [5, b"graves", ["graves"]])
def test_a_dead_letter_goes_to_a_topic_by_name(wrong: Any) -> None:
    """Refused when the policy is made, and not when something has failed."""
    with pytest.raises(InvalidOptionError, match="the name of a topic") as caught:
        DeadLetter(wrong)
    assert caught.value.option == "topic"


def test_a_callback_is_awaited() -> None:
    """A plain function would have to run in a thread, and the end of an event is not its place."""

    def tell(event: Any, error: BaseException, attempts: int) -> None: ...

    wrong: Any = tell
    with pytest.raises(InvalidHandlerError, match="takes an `async def`"):
        CallOnFailure(wrong)


@pytest.mark.parametrize("wrong", [None, 1, "tell"])
def test_a_callback_is_callable(wrong: Any) -> None:
    """Refused when the policy is made."""
    with pytest.raises(InvalidHandlerError):
        CallOnFailure(wrong)
