"""The stepper: it cancels one call at each point where it waits."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventflow.testing import (
    CancelOutcome,
    TooManyStepsError,
    cancel_at_each_suspension,
    cancel_rounds,
    run_virtual,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


async def all_outcomes(
    factory: Callable[[], Coroutine[Any, Any, Any]], **options: int
) -> list[CancelOutcome[Any]]:
    return [outcome async for outcome in cancel_at_each_suspension(factory, **options)]


def set_once(future: asyncio.Future[int]) -> None:
    if not future.done():
        future.set_result(1)


async def three_waits() -> str:
    await asyncio.sleep(1)
    await asyncio.sleep(0)
    with anyio.move_on_after(100):
        await anyio.sleep(5)
    return "done"


def test_every_suspension_is_cancelled_at_both_moments() -> None:
    """Two rounds a suspension, and a last one that ends by itself."""
    outcomes = run_virtual(lambda: all_outcomes(three_waits))
    assert [(o.step, o.moment, o.status) for o in outcomes] == [
        (1, "suspended", "cancelled"),
        (1, "resuming", "cancelled"),
        (2, "suspended", "cancelled"),
        (2, "resuming", "cancelled"),
        (3, "suspended", "cancelled"),
        (3, "resuming", "cancelled"),
        (4, "suspended", "returned"),
    ]
    *cancelled, last = outcomes
    assert all(o.was_cancelled and "three_waits" in str(o.where) for o in cancelled)
    assert not last.was_cancelled
    assert last.result == "done"


def test_a_call_that_never_waits_has_one_round() -> None:
    """There is nothing to cancel."""

    async def at_once() -> int:
        return 3

    (outcome,) = run_virtual(lambda: all_outcomes(at_once))
    assert outcome == CancelOutcome(1, "suspended", None, "returned", 3)


def test_the_moments_differ_in_what_is_lost() -> None:
    """While it waits nothing was handed over; when it resumes the result is there already."""

    async def main() -> list[tuple[str, bool]]:
        seen: list[tuple[str, bool]] = []
        for current in cancel_rounds():
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

            async def call(future: asyncio.Future[int] = future) -> int:
                return await future

            asyncio.get_running_loop().call_later(1, set_once, future)
            outcome = await current.run(call())
            seen.append((outcome.status, future.cancelled()))
        return seen

    assert run_virtual(main) == [
        ("cancelled", True),
        ("cancelled", False),
        ("returned", False),
    ]


def test_it_finds_a_lost_item() -> None:
    """A naive receive loses what it was handed when it is cancelled while resuming."""

    async def main() -> list[str]:
        lost: list[str] = []
        for current in cancel_rounds():
            items = ["item"]
            waiter: asyncio.Future[str] = asyncio.get_running_loop().create_future()

            async def receive(waiter: asyncio.Future[str] = waiter) -> str:
                return await waiter

            def send(waiter: asyncio.Future[str] = waiter, items: list[str] = items) -> None:
                if not waiter.done():
                    waiter.set_result(items.pop())

            asyncio.get_running_loop().call_later(1, send)
            outcome = await current.run(receive())
            if not items and outcome.result is None:
                lost.append(current.moment)
        return lost

    assert run_virtual(main) == ["resuming"]


def test_a_call_may_swallow_its_cancellation_or_turn_it_into_an_error() -> None:
    """Both are reported as what they are, and the rounds go on."""

    async def swallows() -> str:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            return "swallowed"
        return "done"

    async def turns() -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            raise LookupError("mine") from None

    async def main() -> tuple[list[CancelOutcome[Any]], list[CancelOutcome[Any]]]:
        return await all_outcomes(swallows), await all_outcomes(turns)

    swallowed, turned = run_virtual(main)
    assert [o.result for o in swallowed] == ["swallowed", "swallowed", "done"]
    assert [o.status for o in turned] == ["raised", "raised", "returned"]
    assert isinstance(turned[0].error, LookupError)


def test_clean_up_that_waits_runs_to_its_end() -> None:
    """One cancellation a round: what the call awaits afterwards is not cancelled again."""
    cleaned: list[float] = []

    async def call() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.sleep(10)
            cleaned.append(asyncio.get_running_loop().time())

    outcomes = run_virtual(lambda: all_outcomes(call))
    # Two rounds in the sleep, two in the clean-up (which they cut), the last in neither.
    assert [o.step for o in outcomes] == [1, 1, 2, 2, 3]
    assert len(cleaned) == 3


@pytest.mark.parametrize("debug", [False, True])
def test_task_groups_timeouts_and_scopes_work_inside(debug: bool) -> None:
    """The call runs in one real task, so everything that looks at the task finds it."""

    async def call() -> str:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(1))
            with anyio.fail_after(2):
                await anyio.sleep(1)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 1)
        return "done"

    *cancelled, last = run_virtual(lambda: all_outcomes(call), debug=debug)
    assert {o.status for o in cancelled} == {"cancelled"}
    assert last.result == "done"


if sys.version_info >= (3, 12):  # eager tasks came with it

    def test_eager_tasks() -> None:
        """The same rounds when tasks start at once."""

        async def main() -> list[CancelOutcome[Any]]:
            factory: Any = asyncio.eager_task_factory
            asyncio.get_running_loop().set_task_factory(factory)
            return await all_outcomes(three_waits)

        assert [o.status for o in run_virtual(main)] == ["cancelled"] * 6 + ["returned"]


def test_set_up_and_checks_around_each_round() -> None:
    """The form with a loop leaves room for both, and repeats exactly."""

    async def main() -> list[tuple[int, str, int]]:
        results: list[tuple[int, str, int]] = []
        for current in cancel_rounds():
            queue: asyncio.Queue[int] = asyncio.Queue(1)
            await queue.put(1)

            async def put(queue: asyncio.Queue[int] = queue) -> None:
                await queue.put(2)

            asyncio.get_running_loop().call_later(1, queue.get_nowait)
            outcome = await current.run(put())
            await asyncio.sleep(2)
            results.append((current.step, outcome.status, queue.qsize()))
        return results

    assert (
        run_virtual(main)
        == run_virtual(main)
        == [(1, "cancelled", 0), (1, "cancelled", 0), (2, "returned", 1)]
    )


def test_a_call_without_end_is_found() -> None:
    """After `max_steps` suspensions."""

    async def endless() -> None:
        while True:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(0)

    with pytest.raises(TooManyStepsError) as caught:
        run_virtual(lambda: all_outcomes(endless, max_steps=3))
    assert caught.value.max_steps == 3
    for same in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert same.max_steps == 3


def test_a_round_runs_one_call() -> None:
    """None and two are mistakes of the test."""

    async def main() -> None:
        rounds = cancel_rounds()
        first = next(rounds)
        assert repr(first) == "<CancelRound step=1 moment='suspended'>"
        await first.run(three_waits())
        with pytest.raises(RuntimeError, match="one call"):
            await first.run(three_waits())
        next(rounds)
        with pytest.raises(RuntimeError, match="nothing was run"):
            next(rounds)

    run_virtual(main)


def test_cancelling_the_test_itself_ends_the_call() -> None:
    """No task of a round outlives it."""

    async def main() -> tuple[float, int]:
        first = next(cancel_rounds(max_steps=1))
        first.step = 99
        with anyio.move_on_after(0.5):
            await first.run(three_waits())
        return asyncio.get_running_loop().time(), len(asyncio.all_tasks())

    assert run_virtual(main) == (0.5, 1)


def test_a_call_dropped_with_its_loop_is_closed() -> None:
    """The call sees GeneratorExit, as any coroutine that is thrown away while it waits."""
    ends: list[str] = []

    async def call() -> None:
        try:
            await asyncio.sleep(0)
        except GeneratorExit:
            ends.append("closed")
            raise

    first = next(cancel_rounds())
    first.step = 99
    steps = first._main(call())  # pyright: ignore[reportPrivateUsage]
    steps.send(None)
    steps.close()
    assert ends == ["closed"]
