"""What waits for a handler: which job may start, and who is told."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.messaging import Delivery, Features, Message
from eventflow.messaging._jobs import Jobs

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


class Settles:
    features = Features(backend="none")

    def settle(self, delivery: Delivery) -> None:
        delivery.confirmed()


def job(number: int) -> Delivery:
    """One that a router has taken in."""
    found = Delivery(Message(id=f"m-{number}"), topic="t", settler=Settles())
    found.in_lane = False
    return found


def jobs(*, is_serial: bool = True, on_probe: Callable[[], None] = lambda: None) -> Jobs:
    return Jobs(
        asyncio.get_running_loop(),
        is_serial=is_serial,
        timer_context=contextvars.Context(),
        on_probe=on_probe,
    )


async def test_who_was_held_up_by_a_retry_is_woken_when_that_lapses() -> None:
    """Its message was given back meanwhile, with its subscription: nobody will start it here."""
    waiting, first, second = jobs(), job(1), job(2)
    lapsed: list[Delivery] = []
    waiting.put(first)
    assert waiting.take() is first
    waiting.retry_in(5, first, lapsed.append)
    waiting.put(second)
    assert waiting.take() is None, "the first holds it up"
    async with asyncio.TaskGroup() as group:
        woken = group.create_task(waiting.wait())
        await asyncio.sleep(1)
        first.lost()
        await asyncio.sleep(3)
        assert not woken.done()
        await asyncio.sleep(2)
        assert woken.done()
    assert lapsed == [first]
    assert waiting.take() is second


async def test_a_retry_comes_before_what_came_later() -> None:
    waiting, first, second = jobs(is_serial=False), job(1), job(2)
    waiting.put(first)
    assert waiting.take() is first
    waiting.retry_in(1, first, lambda _: None)
    waiting.put(second)
    await asyncio.sleep(2)
    assert [waiting.take(), waiting.take(), waiting.take()] == [first, second, None]


async def test_the_next_of_a_lane_waits_for_the_end_of_the_one_before() -> None:
    waiting, first, second, other = jobs(is_serial=False), job(1), job(2), job(3)
    unhashable: Any = []
    waiting.put_in_lane(first, "a")
    waiting.put_in_lane(second, "a")
    waiting.put_in_lane(other, "b")
    assert [waiting.take(), waiting.take(), waiting.take()] == [first, other, None]
    assert (waiting.buffered, waiting.in_flight) == (1, 2)
    waiting.end(first)
    assert waiting.take() is second
    with pytest.raises(TypeError):
        waiting.put_in_lane(job(4), unhashable)


async def test_what_was_settled_before_it_started_is_passed_over() -> None:
    waiting, first, second = jobs(), job(1), job(2)
    waiting.put(first)
    waiting.put(second)
    first.ack()
    assert waiting.take() is second
    assert (waiting.lapsed, waiting.in_flight) == (1, 1)


async def test_a_backends_deliveries_may_have_no_hash() -> None:
    """Those that wait for a retry are told apart by what they are, and not by what they say."""

    class Equal(Delivery):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = None  # type: ignore[assignment]

    waiting = jobs(is_serial=False)
    found = [Equal(Message(), topic="t", settler=Settles()) for _ in range(3)]
    for one in found:
        one.in_lane = False
        waiting.put(one)
        assert waiting.take() is one
        waiting.retry_in(5, one, lambda _: None)
    await asyncio.sleep(6)
    assert [waiting.take() for _ in found] == found
    for one in found:
        waiting.retry_in(5, one, lambda _: None)
    assert [id(one) for one in waiting.clear()[1]] == [id(one) for one in found]
