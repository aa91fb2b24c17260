"""`current()` and `publishing` by themselves, without a bus."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from eventflow._cause import current_cause
from eventflow.context import current, publishing
from eventflow.errors import InvalidOptionError, NotInHandlerError


def test_outside_a_handler() -> None:
    """A typed error that is a LookupError, in a thread too."""
    with pytest.raises(NotInHandlerError, match="inside handlers"):
        current()
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            current()
        except LookupError as exc:
            errors.append(exc)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert [type(error) for error in errors] == [NotInHandlerError]


def test_publishing_leaves_nothing_behind() -> None:
    """Also when the block is left by an error, and when blocks nest."""
    with publishing(correlation_id="a"):
        outer = current_cause.get()
        with pytest.raises(ZeroDivisionError), publishing(metadata={"b": "c"}):  # noqa: PT012
            assert current_cause.get() is not outer
            raise ZeroDivisionError
        assert current_cause.get() is outer
    assert current_cause.get() is None


async def test_publishing_reaches_the_tasks_started_inside() -> None:
    """And not those started outside."""
    go = asyncio.Event()

    async def cause() -> object:
        await go.wait()
        return current_cause.get()

    outside = asyncio.ensure_future(cause())
    with publishing(correlation_id="a"):
        inside = asyncio.ensure_future(cause())
    go.set()
    assert await inside is not None
    assert await outside is None


@pytest.mark.parametrize("wrong", ["", 5, b"id"])
def test_a_wrong_correlation_id(wrong: str) -> None:
    """Empty, or no text."""
    with pytest.raises(InvalidOptionError) as caught, publishing(correlation_id=wrong):
        pass
    assert caught.value.option == "correlation_id"


@pytest.mark.parametrize("metadata", [["a"], "ab", [("a", "b")], 7, {"a": 1}, {1: "a"}], ids=repr)
def test_metadata_maps_texts_to_texts(metadata: Any) -> None:
    """Anything else is refused by name, before the block is entered."""
    with (
        pytest.raises(InvalidOptionError, match="metadata") as caught,
        publishing(metadata=metadata),
    ):
        pytest.fail("entered")
    assert caught.value.option == "metadata"
