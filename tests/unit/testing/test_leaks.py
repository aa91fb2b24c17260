"""What `no_leaks` finds, and what it leaves alone."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventflow.testing import LeakError, no_leaks, run_virtual


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def test_nothing_left_is_fine() -> None:
    """Tasks, timers and threads that ended are not reported."""
    with no_leaks():
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(0))
        asyncio.get_running_loop().call_later(60, print).cancel()
        thread = threading.Thread(target=int)
        thread.start()


async def test_a_task_is_reported_with_where_it_stands() -> None:
    """Name, coroutine and line."""
    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(LeakError) as caught, no_leaks():  # noqa: PT012 - the block is the subject
        tasks.append(asyncio.create_task(wait_for_ever(), name="left"))
        await asyncio.sleep(0)
    await end(tasks[0])
    (line,) = caught.value.tasks
    assert line.startswith("left (wait_for_ever) at ")
    assert f"{__file__}:" in line
    assert "1 left behind:\n  task left" in str(caught.value)


async def test_a_task_that_was_cancelled_but_not_awaited_is_reported() -> None:
    """It still runs its clean-up after the block."""
    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(LeakError, match="being cancelled"), no_leaks():  # noqa: PT012
        tasks.append(asyncio.create_task(wait_for_ever()))
        await asyncio.sleep(0)
        tasks[0].cancel()
    await end(tasks[0])


async def test_a_timer_is_reported_with_its_callback() -> None:
    """Also when an equal one was there before."""
    loop = asyncio.get_running_loop()
    when = loop.time() + 60
    before = loop.call_at(when, test_a_timer_is_reported_with_its_callback)
    timers: list[asyncio.TimerHandle] = []
    with pytest.raises(LeakError) as caught, no_leaks():
        timers.append(
            loop.call_at(when, functools.partial(test_a_timer_is_reported_with_its_callback))
        )
    (line,) = caught.value.timers
    assert "test_a_timer_is_reported_with_its_callback, due in " in line
    before.cancel()
    timers[0].cancel()


@pytest.mark.parametrize(
    ("name", "daemon", "found"),
    [("worker", False, True), ("worker", True, False), ("eventflow-worker", True, True)],
)
def test_which_threads_are_reported(name: str, daemon: bool, found: bool) -> None:
    """Those the interpreter waits for, and daemons of ours; no loop is needed."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name=name, daemon=daemon)
    try:
        if found:
            with pytest.raises(LeakError) as caught, no_leaks(thread_grace=0):
                thread.start()
            (line,) = caught.value.threads
            assert line.startswith(name)
            assert ("(daemon)" in line) == daemon
            assert "in Condition.wait" in line
        else:
            with no_leaks(thread_grace=0):
                thread.start()
    finally:
        release.set()
        thread.join()


async def test_a_thread_on_its_way_out_is_waited_for() -> None:
    """A thread that has done its work is not a leak because it has not ended yet."""
    release = threading.Event()
    with no_leaks(thread_grace=30):
        threading.Thread(target=release.wait).start()
        threading.Thread(target=release.set).start()


async def test_pools_are_left_alone() -> None:
    """The idle threads of anyio and of the default executor belong to the loop."""
    with no_leaks():
        await asyncio.to_thread(int)
        await anyio.to_thread.run_sync(int)


async def test_an_abandoned_call_in_a_worker_of_anyio_is_reported() -> None:
    """A worker that is still out is not idle."""
    started, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        release.wait()

    async def call() -> None:
        await anyio.to_thread.run_sync(work, abandon_on_cancel=True)

    with pytest.raises(LeakError) as caught, no_leaks(thread_grace=0):  # noqa: PT012
        task = asyncio.create_task(call())
        await started.wait()
        await end(task)
    release.set()
    assert len(caught.value.threads) == 1
    assert "AnyIO worker thread" in caught.value.threads[0]


@pytest.mark.parametrize("pattern", ["keep*", "wait_for_*"])
async def test_what_is_allowed_may_stay(pattern: str) -> None:
    """Patterns match the task's name or its coroutine's."""
    tasks: list[asyncio.Task[None]] = []
    with no_leaks(allow=[pattern, "*.cancel", "kept thread"]):
        tasks.append(asyncio.create_task(wait_for_ever(), name="keeper"))
        timer = asyncio.get_running_loop().call_later(60, tasks[0].cancel)
    timer.cancel()
    await end(tasks[0])


async def test_the_timer_of_a_waiting_task_is_not_reported_apart() -> None:
    """A sleep, a wait and a timeout of a task are part of the task."""

    async def with_timeouts() -> None:
        async with asyncio.timeout(60):
            with anyio.fail_after(60):
                await asyncio.wait([asyncio.ensure_future(asyncio.sleep(60))], timeout=60)

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(LeakError) as caught, no_leaks():  # noqa: PT012
        tasks.append(asyncio.create_task(with_timeouts()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    everything = asyncio.all_tasks() - {asyncio.current_task()}
    for task in everything:
        await end(task)
    assert len(caught.value.tasks) == 2
    assert caught.value.timers == ()


async def test_an_error_in_the_block_is_not_covered_up() -> None:
    """The block's own error comes out, whatever was left."""
    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(LookupError, match="mine"), no_leaks():  # noqa: PT012
        tasks.append(asyncio.create_task(wait_for_ever()))
        raise LookupError("mine")
    await end(tasks[0])


async def test_what_was_there_before_is_not_reported() -> None:
    """Only what the block added counts."""
    task = asyncio.create_task(wait_for_ever())
    with no_leaks():
        await asyncio.sleep(0)
    await end(task)


def test_it_works_on_the_virtual_clock() -> None:
    """The due time is told in virtual time."""

    async def main() -> LeakError:
        with pytest.raises(LeakError) as caught, no_leaks():
            asyncio.get_running_loop().call_later(3600, print)
        return caught.value

    assert run_virtual(main).timers == ("builtins.print, due in 3600 s",)


def test_the_error_survives_pickle_and_copy() -> None:
    """Facts and text come through."""
    error = LeakError("text", tasks=("a",), threads=("b",), timers=("c",))
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert vars(same) == vars(error)
        assert str(same) == "text"
