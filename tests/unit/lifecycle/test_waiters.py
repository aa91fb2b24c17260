"""`Waiters`: a wake that its waiter can't use any more is not lost."""

from __future__ import annotations

import asyncio

import pytest

from eventflow.lifecycle.waiters import Waiters

pytestmark = pytest.mark.virtual_clock


async def begun(waiters: Waiters, until: float | None = None) -> asyncio.Task[None]:
    """Somebody who waits, behind those that do already."""
    task = asyncio.create_task(waiters.wait(until))
    await asyncio.sleep(0)
    return task


async def test_who_came_first_is_woken_first() -> None:
    """One at a time, and all of those that are left together."""
    waiters = Waiters()
    first, second, third = [await begun(waiters) for _ in range(3)]
    waiters.wake()
    await asyncio.sleep(0)
    assert [task.done() for task in (first, second, third)] == [True, False, False]
    waiters.wake_all()
    await asyncio.wait([second, third], timeout=1)
    assert second.done()
    assert third.done()
    assert not waiters


async def test_who_is_cancelled_is_passed_over() -> None:
    """Also before it has noticed: the wake is for the next one."""
    waiters = Waiters()
    first, second = await begun(waiters), await begun(waiters)
    first.cancel()
    waiters.wake()
    await asyncio.wait([first, second], timeout=1)
    assert first.cancelled()
    assert second.done()


async def test_who_is_woken_and_then_cancelled_passes_it_on() -> None:
    """It does not keep what another one could use."""
    waiters = Waiters()
    first, second = await begun(waiters), await begun(waiters)
    waiters.wake()
    first.cancel()
    await asyncio.wait([first, second], timeout=1)
    assert first.cancelled()
    assert second.done()
    assert not waiters


@pytest.mark.parametrize("woken_first", [True, False])
async def test_who_is_woken_in_the_moment_its_time_ends_passes_it_on(woken_first: bool) -> None:
    """In the same turn of the loop, whichever was first: the one behind it has the wake."""
    loop, waiters = asyncio.get_running_loop(), Waiters()
    until = loop.time() + 1
    if woken_first:
        loop.call_at(until, waiters.wake)
    first = await begun(waiters, until)
    second = await begun(waiters)
    if not woken_first:
        loop.call_at(until, waiters.wake)
    await asyncio.wait([first, second], timeout=5)
    assert first.done()
    assert second.done()
    assert loop.time() == until
    assert not waiters


async def test_a_wait_ends_with_its_time() -> None:
    """Without an error, and without a trace: nobody waits then."""
    loop, waiters = asyncio.get_running_loop(), Waiters()
    await waiters.wait(loop.time() + 3)
    assert loop.time() == 3
    assert not waiters
    waiters.wake()
