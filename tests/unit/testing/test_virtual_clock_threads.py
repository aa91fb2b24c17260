"""The virtual clock stands still while a worker thread is out."""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from eventflow.testing import VirtualClockDeadlockError, VirtualClockLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable

ROUND_TRIPS = 25


def virtual_loop() -> VirtualClockLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    return loop


async def tell_time() -> float:
    return asyncio.get_running_loop().time()


def watch(loop: asyncio.AbstractEventLoop, seen: list[float]) -> str:
    """Run in a thread: give the loop many chances to move its clock, and note what it says.

    Between two questions the loop has nothing to do, with timers pending.
    """
    for _ in range(ROUND_TRIPS):
        answer = asyncio.run_coroutine_threadsafe(tell_time(), loop)
        seen.append(answer.result(30))
    return "done"


async def in_to_thread(call: Callable[[], str]) -> str:
    return await asyncio.to_thread(call)


async def in_executor(call: Callable[[], str]) -> str:
    with ThreadPoolExecutor(1) as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, call)


async def in_anyio(call: Callable[[], str]) -> str:
    return await anyio.to_thread.run_sync(call)


async def in_anyio_abandonable(call: Callable[[], str]) -> str:
    return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)


async def in_own_thread(call: Callable[[], str]) -> str:
    """As eventflow's own threads do it: by the two methods of the loop."""
    loop = virtual_loop()
    result: asyncio.Future[str] = loop.create_future()

    def deliver(value: str) -> None:
        if not result.done():
            result.set_result(value)
        loop.release_clock()

    def work() -> None:
        value = call()
        loop.call_soon_threadsafe(deliver, value)

    loop.hold_clock()
    threading.Thread(target=work, daemon=True).start()
    return await result


every_kind = pytest.mark.parametrize(
    "run", [in_to_thread, in_executor, in_anyio, in_anyio_abandonable, in_own_thread]
)
every_kind_left_behind = pytest.mark.parametrize(
    "run", [in_to_thread, in_anyio_abandonable, in_own_thread]
)


@every_kind
def test_time_stands_still_while_a_thread_is_out(run: Any) -> None:
    """However often the loop is idle meanwhile, a timer due in a microsecond does not fire."""
    seen: list[float] = []

    async def main() -> tuple[str, float]:
        fired = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(1e-6, fired.set)
        async with asyncio.timeout(1e-6):
            result = await run(functools.partial(watch, virtual_loop(), seen))
        assert not fired.is_set()
        timer.cancel()
        at = virtual_loop().time()
        await asyncio.sleep(1)
        return result, at

    assert run_virtual(main) == ("done", 0.0)
    assert seen == [0.0] * ROUND_TRIPS


@every_kind_left_behind
def test_time_stands_still_for_a_thread_nobody_waits_for(run: Any) -> None:
    """A call that was cancelled leaves its thread out; the clock waits for the thread."""
    seen: list[float] = []
    started = threading.Event()

    def work() -> str:
        started.set()
        return watch(loop[0], seen)

    loop: list[VirtualClockLoop] = []

    async def main() -> float:
        loop.append(virtual_loop())
        task = asyncio.ensure_future(run(work))
        while not started.is_set():  # noqa: ASYNC110 - there is no event a thread can set here
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await asyncio.sleep(5)  # goes on only when the thread has come back
        assert len(seen) == ROUND_TRIPS
        return virtual_loop().time()

    assert run_virtual(main) == 5.0
    assert seen == [0.0] * ROUND_TRIPS


def test_calls_that_wait_for_a_free_thread_hold_the_clock_too() -> None:
    """A call in the executor's queue is out, and one taken back from there is not."""
    seen: list[float] = []
    release = threading.Event()

    async def main() -> float:
        loop = virtual_loop()
        with ThreadPoolExecutor(1) as executor:
            blocker = loop.run_in_executor(executor, release.wait, 30)
            queued = loop.run_in_executor(executor, watch, loop, seen)
            taken_back = loop.run_in_executor(executor, pytest.fail, "was taken back")
            taken_back.cancel()
            release.set()
            await blocker
            await queued
        await asyncio.sleep(1)
        return loop.time()

    assert run_virtual(main) == 1.0
    assert seen == [0.0] * ROUND_TRIPS


def test_results_are_delivered_before_time_moves() -> None:
    """What waits for a thread's result gets it before any timer, each time."""

    async def main() -> int:
        late = 0
        for _ in range(50):
            try:
                async with asyncio.timeout(1e-9):
                    await asyncio.to_thread(int)
                    await anyio.to_thread.run_sync(int)
            except TimeoutError:
                late += 1
        return late

    assert run_virtual(main) == 0


def test_a_thread_that_raises_releases_the_clock() -> None:
    """An error in the thread reaches the caller, and time goes on."""

    def fail() -> None:
        raise LookupError("mine")

    async def main() -> float:
        for run in (asyncio.to_thread, anyio.to_thread.run_sync):
            with pytest.raises(LookupError, match="mine"):
                await run(fail)
        await asyncio.sleep(1)
        return virtual_loop().time()

    assert run_virtual(main) == 1.0


def test_a_refused_call_holds_nothing() -> None:
    """A call that an executor refuses leaves the clock as it was."""

    async def main() -> float:
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            await virtual_loop().run_in_executor(executor, int)
        await asyncio.sleep(1)
        return virtual_loop().time()

    assert run_virtual(main) == 1.0


def test_a_thread_that_waits_for_time_to_pass_is_a_deadlock() -> None:
    """It can't come back before time moves, and time can't move before it is back: an error."""

    async def main() -> None:
        await anyio.to_thread.run_sync(anyio.from_thread.run, stop_at_10)

    async def stop_at_10() -> None:
        await asyncio.sleep(10)

    with pytest.raises(VirtualClockDeadlockError, match="the clock is held 1 time") as caught:
        run_virtual(main, hold_limit=0.05)
    assert caught.value.held == 1
    assert caught.value.waited_s == 0.05
    assert any("stop_at_10" in line for line in caught.value.tasks)


def test_releasing_more_than_was_held_is_an_error() -> None:
    """The two calls come in pairs."""

    async def main() -> None:
        with virtual_loop().clock_held():
            pass
        virtual_loop().release_clock()

    with pytest.raises(RuntimeError, match="without hold_clock"):
        run_virtual(main)


@pytest.mark.parametrize("method", ["hold_clock", "release_clock"])
def test_holding_and_releasing_belong_to_the_loops_thread(method: str) -> None:
    """Elsewhere the count could be wrong at the moment that matters, so it is an error."""

    async def main() -> None:
        with virtual_loop().clock_held():
            await asyncio.to_thread(getattr(virtual_loop(), method))

    with pytest.raises(RuntimeError, match="other than the current one"):
        run_virtual(main)


def test_an_unknown_anyio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where anyio's workers can't be recognised, the loop fails rather than run ahead of them."""

    async def main() -> None:
        await anyio.to_thread.run_sync(int)
        monkeypatch.delattr("anyio._backends._asyncio.WorkerThread")
        await asyncio.sleep(1)

    with pytest.raises(RuntimeError, match="version of anyio"):
        run_virtual(main)


def test_a_thread_left_over_by_an_earlier_run_still_holds_the_clock() -> None:
    """A worker of anyio that outlives the task it was started for is out all the same."""
    seen: list[float] = []
    started, release = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(30)
        watch(runner.get_loop(), seen)

    async def leave_it() -> None:
        task = asyncio.ensure_future(anyio.to_thread.run_sync(work, abandon_on_cancel=True))
        while not started.is_set():  # noqa: ASYNC110 - there is no event a thread can set here
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def later() -> float:
        release.set()
        await asyncio.sleep(5)
        assert len(seen) == ROUND_TRIPS
        return virtual_loop().time()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(leave_it())
        assert runner.run(later()) == 5.0
    assert seen == [0.0] * ROUND_TRIPS
