"""The owner of a scope's tasks, by itself."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from eventflow.lifecycle.supervisor import LAST_WAIT_S, Supervisor, cancel_and_wait
from tests.unit.bus.support import now, outcome, turns

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


async def test_stop_runs_on_stop_once_for_many_callers() -> None:
    """All of them return when it has ended."""
    calls: list[float] = []

    async def on_stop() -> None:
        calls.append(now())
        await asyncio.sleep(3)

    supervisor = Supervisor("s", on_stop=on_stop)
    await asyncio.gather(*(supervisor.stop(abort=False) for _ in range(5)))
    assert calls == [0]
    assert now() == 3
    await supervisor.stop(abort=True)
    assert now() == 3


async def test_a_cancelled_caller_ends_the_drain_and_waits_for_the_rest() -> None:
    """Its cancellation is raised when everything has ended; other callers are not cancelled."""

    async def on_stop() -> None:
        await asyncio.wait({supervisor.aborting}, timeout=20)
        await asyncio.sleep(2)

    supervisor = Supervisor("s", on_stop=on_stop)
    other = asyncio.ensure_future(supervisor.stop(abort=False))
    caller = asyncio.ensure_future(supervisor.stop(abort=False))
    await asyncio.sleep(1)
    caller.cancel()
    assert isinstance(await outcome(caller), asyncio.CancelledError)
    assert now() == 3
    await other


@pytest.mark.parametrize("delay", [0, 1])
async def test_an_anyio_scope_around_a_stop(delay: float) -> None:
    """Cancelled before or meanwhile: an abort, and the scope gets its cancellation back."""

    async def on_stop() -> None:
        await asyncio.wait({supervisor.aborting}, timeout=20)
        await asyncio.sleep(2)

    supervisor = Supervisor("s", on_stop=on_stop)
    with anyio.CancelScope() as scope:
        if delay:
            asyncio.get_running_loop().call_later(delay, scope.cancel)
        else:
            scope.cancel()
        await supervisor.stop(abort=False)
    assert scope.cancelled_caught
    assert now() == delay + 2
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancelled_supervisor_runs_on_stop_again() -> None:
    """As asyncio.run does it while a stop is under way: no drain, but the rest."""
    calls: list[bool] = []

    async def on_stop() -> None:
        calls.append(supervisor.aborting.done())
        await asyncio.wait({supervisor.aborting}, timeout=20)
        await asyncio.sleep(1)

    supervisor = Supervisor("s", on_stop=on_stop)
    stopping = asyncio.ensure_future(supervisor.stop(abort=False))
    await turns()
    (main,) = (task for task in asyncio.all_tasks() if "supervisor" in task.get_name())
    main.cancel()
    await stopping
    assert calls == [False, True]
    assert supervisor.cancelled


async def test_an_error_of_on_stop_comes_out() -> None:
    """It is not lost with the task."""

    async def on_stop() -> None:
        raise ZeroDivisionError

    supervisor = Supervisor("s", on_stop=on_stop)
    assert isinstance(await outcome(supervisor.stop(abort=False)), ZeroDivisionError)


@pytest.mark.parametrize(
    ("needed", "left", "took"), [(1, 0, 0), (2, 0, 5), (3, 1, 5 + LAST_WAIT_S)]
)
async def test_cancel_and_wait_cancels_twice(needed: int, left: int, took: float) -> None:
    """Now and after the grace; who needs more is returned a moment later."""
    log: list[float] = []
    release = asyncio.Event()

    async def run() -> None:
        while len(log) < needed:
            try:
                await release.wait()
                return
            except asyncio.CancelledError:
                log.append(now())

    task = asyncio.ensure_future(run())
    await turns()
    pending = await cancel_and_wait([task], grace=5)
    assert len(pending) == left
    assert now() == took
    assert log == [0.0, 5.0][: min(needed, 2)]
    release.set()
    await asyncio.wait([task])


async def test_cancel_and_wait_can_spare_who_was_cancelled() -> None:
    """The first cancellation only; after the grace everybody gets one."""
    log: list[tuple[str, float]] = []

    async def run(name: str) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            log.append((name, now()))
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                log.append((name, now()))

    first, second = asyncio.ensure_future(run("first")), asyncio.ensure_future(run("second"))
    await turns()
    first.cancel()
    assert not await cancel_and_wait([first, second], grace=5, spare_cancelled=True)
    assert sorted(log) == [("first", 0), ("first", 5), ("second", 0), ("second", 5)]
