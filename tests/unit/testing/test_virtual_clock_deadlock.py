"""The virtual-clock loop says so when nothing can wake it."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import threading

import pytest

from eventflow.errors import EventFlowError
from eventflow.testing import VirtualClockDeadlockError, VirtualClockLoop, run_virtual


async def wait_for_ever(event: asyncio.Event) -> None:
    await event.wait()


def test_a_deadlock_is_an_error_that_names_the_tasks() -> None:
    """The error says when, which tasks, and where each of them stands."""

    async def main() -> None:
        await asyncio.sleep(2.5)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait_for_ever(asyncio.Event()), name="the waiter")

    with pytest.raises(VirtualClockDeadlockError) as caught:
        run_virtual(main, real_wait=0.01)
    error = caught.value
    assert isinstance(error, EventFlowError)
    assert error.time_s == 2.5
    assert error.held == 0
    waiter = next(line for line in error.tasks if line.startswith("the waiter"))
    assert "wait_for_ever" in waiter
    assert f"{__file__}:" in waiter
    assert "Event.wait" in waiter
    assert waiter in str(error)
    assert "virtual time 2.5 s" in str(error)


def test_a_timer_that_is_never_due_does_not_hide_a_deadlock() -> None:
    """An infinite sleep waits for ever like anything else."""

    async def main() -> None:
        await asyncio.sleep(math.inf)

    with pytest.raises(VirtualClockDeadlockError):
        run_virtual(main, real_wait=0.01)


def test_another_thread_may_still_wake_the_loop() -> None:
    """A thread that nobody announced gets `real_wait` to call in."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[str] = loop.create_future()
        caller = threading.Thread(target=loop.call_soon_threadsafe, args=(heard.set_result, "hi"))
        loop.call_soon(caller.start)
        result = await heard
        caller.join()
        return result

    assert run_virtual(main, real_wait=30) == "hi"


def test_nothing_is_waited_for_where_nothing_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without other threads, I/O and signal handlers the error comes at once."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    with pytest.raises(VirtualClockDeadlockError, match="no other thread") as caught:
        run_virtual(asyncio.Event().wait, real_wait=math.inf)
    assert caught.value.waited_s == 0


def test_the_loop_works_on_after_a_deadlock() -> None:
    """It can be run again, and what hung can be cancelled."""
    loop = VirtualClockLoop(real_wait=0)
    try:
        task = loop.create_task(wait_for_ever(asyncio.Event()))
        with pytest.raises(VirtualClockDeadlockError):
            loop.run_until_complete(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(asyncio.sleep(1))
        assert loop.time() == 1.0
    finally:
        loop.close()


def test_the_error_survives_pickle_and_copy() -> None:
    """Facts and text come through."""
    error = VirtualClockDeadlockError("text", time_s=1.0, waited_s=2.0, held=3, tasks=("a",))
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert vars(same) == vars(error)
        assert str(same) == "text"
