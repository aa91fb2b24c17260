"""The rule that tells a timeout, a failed attempt and a stop apart."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventflow.bus import EventBus
from eventflow.failure import FailurePolicy, Retry
from tests.unit.bus.support import Ping, Recorder, Stubborn, lines, now, publish_all, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    async with EventBus(drain_timeout=20, cancel_grace=5) as bus:
        yield bus
    assert bus.ledger.adds_up


def cancels_left() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


# ------------------------------------------------------------------------------ timeouts


@pytest.mark.option("timeout")
async def test_a_timeout_comes_exactly_when_it_is_due(bus: EventBus) -> None:
    """Each attempt is cancelled at its own start + timeout, however many came before."""
    seen: list[tuple[float, float]] = []

    async def slow(event: Ping) -> None:
        started = now()
        try:
            await asyncio.sleep(event.n)
        finally:
            seen.append((started, now() - started))

    sub = bus.subscribe(Ping, slow, timeout=3)
    for n in (1, 2, 9, 1, 9, 9, 2):
        await bus.publish(Ping(n=n))
    await bus.wait_idle()

    assert [took for _, took in seen] == [1, 2, 3, 1, 3, 3, 2]
    assert [start for start, _ in seen] == [0, 1, 3, 6, 7, 10, 13]
    row = sub.statistics()
    assert (row.handled, row.failed, row.timed_out, row.restarts) == (4, 3, 3, 0)


@pytest.mark.option("timeout")
async def test_retries_have_a_timeout_of_their_own(bus: EventBus) -> None:
    """A second attempt is armed anew, also after the first one's timer has fired."""
    ends: list[float] = []

    async def hangs(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ends.append(now())

    retry = Retry(attempts=3, initial=10, multiplier=1, jitter=0)
    sub = bus.subscribe(Ping, hangs, timeout=2, on_failure=FailurePolicy(retry=retry))
    await bus.publish(Ping())
    await bus.wait_idle()

    assert ends == [2, 14, 26]
    assert sub.statistics().timed_out == 1
    assert sub.statistics().retried == 2


@pytest.mark.option("timeout")
async def test_no_timeout_is_no_timeout(bus: EventBus) -> None:
    """With ``None`` a handler may take a week."""
    recorder = Recorder()

    async def week(event: Ping) -> None:
        await asyncio.sleep(7 * 86_400)
        await recorder(event)

    bus.subscribe(Ping, week, timeout=None)
    await bus.publish(Ping())
    await bus.wait_idle()
    assert recorder.times == [7 * 86_400]


async def test_a_swallowed_timeout_is_repeated_each_grace(bus: EventBus) -> None:
    """The attempt is cancelled at timeout, + grace, + twice the grace, and fails as timed out."""
    cancels: list[float] = []

    async def swallows(event: Ping) -> None:
        while len(cancels) < 3:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancels.append(now())

    sub = bus.subscribe(Ping, swallows, timeout=2)
    await bus.publish(Ping())
    await bus.wait_idle()

    assert cancels == [2, 7, 12]
    row = sub.statistics()
    assert (row.failed, row.timed_out, row.handled, row.restarts) == (1, 1, 0, 0)


async def test_after_a_swallowed_timeout_the_next_event_has_all_its_time(bus: EventBus) -> None:
    """The timer's own cancels are undone, none reaches the next attempt."""
    ends: list[float] = []

    async def handler(event: Ping) -> None:
        if event.n == 0:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                return
        assert cancels_left() == 0
        await asyncio.sleep(1.75)
        ends.append(now())

    sub = bus.subscribe(Ping, handler, timeout=2)
    await publish_all(bus, range(4))
    await bus.wait_idle()

    assert ends == [3.75, 5.5, 7.25]
    assert (sub.statistics().handled, sub.statistics().failed) == (3, 1)


async def test_a_hanging_finally_is_cancelled_again(bus: EventBus) -> None:
    """A clean-up that hangs gets the second cancel at the end of the grace."""
    log: list[tuple[str, float]] = []

    async def hangs(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            log.append(("finally", now()))
            try:
                await asyncio.sleep(1000)
            finally:
                log.append(("ended", now()))

    sub = bus.subscribe(Ping, hangs, timeout=1)
    await bus.publish(Ping())
    await bus.wait_idle()
    assert log == [("finally", 1), ("ended", 6)]
    assert sub.statistics().timed_out == 1


async def test_an_error_raised_on_timeout_counts_as_timeout(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Turning the cancellation into another error does not hide that time ran out."""

    async def turns_it(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            raise ValueError("cleaned up badly") from None

    sub = bus.subscribe(Ping, turns_it, timeout=1)
    event = Ping()
    await bus.publish(event)
    await bus.wait_idle()
    assert sub.statistics().timed_out == 1
    (line,) = lines(caplog, "handler_failed")
    assert event.id in line
    assert "HandlerTimeoutError" in caplog.text
    assert "cleaned up badly" in caplog.text


async def test_a_handler_that_blocks_past_its_timeout_harms_only_itself(bus: EventBus) -> None:
    """A timer that could not fire in time does not hit the attempts that follow."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    async def blocks(event: Ping) -> None:
        if event.n == 0:
            loop._now += 10  # type: ignore[attr-defined] # as if it had computed for 10 s
        seen.append(event.n)

    sub = bus.subscribe(Ping, blocks, timeout=2)
    await publish_all(bus, range(3))
    await bus.wait_idle()
    assert seen == [0, 1, 2]
    assert sub.statistics().handled == 3


# -------------------------------------------------- a CancelledError that is no stop


async def inner_task_cancelled() -> None:
    task = asyncio.ensure_future(asyncio.sleep(1000))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def raised() -> None:
    raise asyncio.CancelledError("by hand")


async def future_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    await future


async def gathered() -> None:
    await asyncio.gather(inner_task_cancelled(), inner_task_cancelled())


@pytest.mark.parametrize("call", [inner_task_cancelled, raised, future_cancelled, gathered])
async def test_a_cancelled_error_from_inside_is_a_failed_attempt(
    bus: EventBus, call: Callable[[], Awaitable[None]]
) -> None:
    """It fails its event; the worker lives on and nothing is restarted."""
    seen: list[int] = []

    async def handler(event: Ping) -> None:
        if event.n == 0:
            await call()
        seen.append(event.n)

    sub = bus.subscribe(Ping, handler, timeout=2)
    await publish_all(bus, range(3))
    await bus.wait_idle()
    assert seen == [1, 2]
    row = sub.statistics()
    assert (row.handled, row.failed, row.timed_out, row.restarts) == (2, 1, 0, 0)
    assert row.cancelled == 0


async def test_a_cancelled_error_from_inside_is_retried(bus: EventBus) -> None:
    """It is a failed attempt like any other, so a policy with retries tries again."""
    calls: list[int] = []

    async def handler(event: Ping) -> None:
        calls.append(1)
        if len(calls) < 3:
            await inner_task_cancelled()

    policy = FailurePolicy(retry=Retry(attempts=3, initial=1, jitter=0))
    sub = bus.subscribe(Ping, handler, on_failure=policy)
    await bus.publish(Ping())
    await bus.wait_idle()
    assert (sub.statistics().handled, sub.statistics().retried) == (1, 2)


async def test_a_stray_cancel_restarts_the_worker(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody who cancels the worker's task ends one event, and a new worker goes on."""
    tasks: list[asyncio.Task[Any]] = []
    seen: list[int] = []

    async def handler(event: Ping) -> None:
        if event.n == 1:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            await asyncio.sleep(1000)
        seen.append(event.n)

    sub = bus.subscribe(Ping, handler, timeout=None)
    await publish_all(bus, range(4))
    await turns()
    tasks[0].cancel()
    await bus.wait_idle()
    assert seen == [0, 2, 3]
    row = sub.statistics()
    assert (row.handled, row.cancelled, row.failed, row.restarts) == (3, 1, 0, 1)
    assert len(lines(caplog, "worker_restarted")) == 1
    assert len(lines(caplog, "handler_cancelled")) == 1


@pytest.mark.parametrize("swallow", [True, False])
async def test_a_stray_cancel_of_an_idle_or_swallowing_worker(bus: EventBus, swallow: bool) -> None:
    """The worker that was meant ends after its event, which counts as what it was."""
    tasks: list[asyncio.Task[Any]] = []

    async def handler(event: Ping) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        if event.n == 0 and swallow:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                return

    sub = bus.subscribe(Ping, handler, timeout=None)
    await bus.publish(Ping(n=0))
    await turns()
    tasks[0].cancel()
    await turns()
    await publish_all(bus, range(1, 4))
    await bus.wait_idle()
    row = sub.statistics()
    assert (row.handled, row.restarts, row.failed, row.cancelled) == (4, 1, 0, 0)
    assert tasks[0].done()
    assert tasks[-1] is not tasks[0]


# --------------------------------------------------------- scopes inside handlers


async def native_timeout(seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await asyncio.sleep(1000)


async def anyio_fail_after(seconds: float) -> None:
    with anyio.fail_after(seconds):
        await asyncio.sleep(1000)


async def anyio_scope(seconds: float) -> None:
    with anyio.CancelScope() as scope:
        timer = asyncio.get_running_loop().call_later(seconds, scope.cancel)
        try:
            await asyncio.sleep(1000)
        finally:
            timer.cancel()
    raise TimeoutError


async def anyio_shield(seconds: float) -> None:
    with anyio.CancelScope(shield=True):
        await asyncio.sleep(seconds)
    raise TimeoutError


async def native_group(seconds: float) -> None:
    async def fails() -> None:
        await asyncio.sleep(seconds)
        raise TimeoutError

    async with asyncio.TaskGroup() as group:
        group.create_task(fails())
        await asyncio.sleep(1000)


async def anyio_group(seconds: float) -> None:
    async def fails() -> None:
        await asyncio.sleep(seconds)
        raise TimeoutError

    async with anyio.create_task_group() as group:
        group.start_soon(fails)
        await asyncio.sleep(1000)


SCOPES = [native_timeout, anyio_fail_after, anyio_scope, anyio_shield, native_group, anyio_group]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("seconds", [1.0, 1.999, 2.0, 2.001, 3.0])
async def test_scopes_inside_a_handler_near_its_timeout(
    bus: EventBus, scope: Callable[[float], Awaitable[None]], seconds: float
) -> None:
    """Whichever is first ends the attempt, the count is exact, the next event is untouched."""
    ends: list[float] = []

    async def handler(event: Ping) -> None:
        assert cancels_left() == 0
        if event.n == 0:
            try:
                await scope(seconds)
            finally:
                ends.append(now())
        await asyncio.sleep(1.5)

    sub = bus.subscribe(Ping, handler, timeout=2)
    await publish_all(bus, range(3))
    await bus.wait_idle()

    assert ends == [min(seconds, 2.0)]
    row = sub.statistics()
    assert (row.handled, row.failed, row.restarts, row.cancelled) == (2, 1, 0, 0)
    if seconds != 2.0:
        assert row.timed_out == (seconds > 2.0)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("seconds", [0.999, 1.0, 1.001])
async def test_scopes_inside_a_handler_near_a_stop(
    scope: Callable[[float], Awaitable[None]], seconds: float
) -> None:
    """A stop in the same tick as an inner timeout ends the worker, and the counts add up."""
    bus = EventBus(drain_timeout=1, cancel_grace=5)
    async with bus:
        sub = bus.subscribe(Ping, lambda_async(scope, seconds), timeout=None)
        await publish_all(bus, range(3))
        await turns()
    row = sub.statistics()
    assert row.adds_up
    assert row.in_flight == row.buffered == 0
    assert row.offered == 3
    assert now() <= 1 + 0.01 + seconds
    assert bus.ledger.abandoned == ()


def lambda_async(
    scope: Callable[[float], Awaitable[None]], seconds: float
) -> Callable[[Ping], Awaitable[None]]:
    async def handler(event: Ping) -> None:
        await scope(seconds)

    return handler


@pytest.mark.parametrize("seed", range(20))
def test_a_stop_in_the_same_tick_as_the_timer(seed: int) -> None:
    """Timer and stop at one moment: the worker ends, the event is cancelled or timed out."""
    from eventflow.testing import run_virtual

    async def main() -> None:
        bus = EventBus(drain_timeout=2, cancel_grace=5)
        async with bus:
            sub = bus.subscribe(Ping, Recorder(gate=asyncio.Event()), timeout=2)
            await publish_all(bus, range(2))
            await turns()
        row = sub.statistics()
        assert row.adds_up
        assert row.offered == 2
        assert row.failed + row.cancelled == row.offered - row.released
        assert now() == 2.0
        assert bus.ledger.abandoned == ()

    run_virtual(main, seed=seed)


async def test_a_task_group_that_fails_at_its_end_is_retried(bus: EventBus) -> None:
    """Before Python 3.13 it leaves a cancel behind, which is no stop of ours."""
    starts: list[float] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def handler(event: Ping) -> None:
        assert cancels_left() == 0
        starts.append(now())
        if event.n == 0:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(fails())

    policy = FailurePolicy(retry=Retry(attempts=3, initial=1, multiplier=1, jitter=0))
    sub = bus.subscribe(Ping, handler, on_failure=policy)
    await publish_all(bus, range(2))
    await bus.wait_idle()
    row = sub.statistics()
    assert starts == [0, 1, 2, 2]
    assert (row.failed, row.handled, row.retried, row.restarts) == (1, 1, 2, 0)


# ----------------------------------------------------------------------- at a stop


@pytest.mark.option("cancel_grace")
@pytest.mark.promise("6")
async def test_a_stop_cancels_once_and_again_after_the_grace() -> None:
    """Two cancellations, `cancel_grace` apart, then the handler is abandoned by name."""
    bus = EventBus(drain_timeout=3, cancel_grace=5)
    stubborn = Stubborn()
    async with bus:
        sub = bus.subscribe(Ping, stubborn, timeout=None, name="stubborn")
        event = Ping()
        await bus.publish(event)
        await stubborn.running.wait()
    assert stubborn.cancels[:2] == [3, 8]
    assert now() <= 3 + 5 + 1
    assert sub.statistics().abandoned == 1
    assert bus.ledger.adds_up
    (named,) = bus.ledger.abandoned
    assert "stubborn" in named
    assert event.id in named
    await stubborn.let_go()
    assert sub.statistics().abandoned == 1
    assert sub.statistics().handled == 0


async def test_a_handlers_clean_up_may_await_at_a_stop() -> None:
    """The cancellation is delivered once, so a `finally` can wait for the whole grace."""
    bus = EventBus(drain_timeout=0, cancel_grace=5)
    cleaned: list[float] = []

    async def tidy(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            await asyncio.sleep(3.5)
            cleaned.append(now())

    async with bus:
        sub = bus.subscribe(Ping, tidy)
        await bus.publish(Ping())
        await turns()
    assert cleaned == [4.5]
    assert sub.statistics().cancelled == 1


async def test_anyio_shields_do_not_hold_against_a_stop() -> None:
    """A native cancellation goes through a shielded scope of anyio's."""
    bus = EventBus(drain_timeout=1, cancel_grace=5)

    async def shielded(event: Ping) -> None:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(1000)

    async with bus:
        sub = bus.subscribe(Ping, shielded)
        await bus.publish(Ping())
        await turns()
    assert now() == 1.0
    assert sub.statistics().cancelled == 1


async def test_a_handler_that_ends_well_despite_the_stop_is_handled() -> None:
    """What it did counts, and no further event is started."""
    bus = EventBus(drain_timeout=1, cancel_grace=5)
    seen: list[int] = []

    async def finishes(event: Ping) -> None:
        seen.append(event.n)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1)

    async with bus:
        sub = bus.subscribe(Ping, finishes, timeout=None)
        await publish_all(bus, range(3))
        await turns()
    row = sub.statistics()
    assert (row.handled, row.released, row.cancelled) == (1, 2, 0)
    assert seen == [0]


async def test_a_handler_that_takes_back_its_cancellation_ends_with_the_grace() -> None:
    """``uncancel()`` hides the stop from us until the second cancel; no task is left."""
    bus = EventBus(drain_timeout=0, cancel_grace=5)

    async def hides(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()

    async with bus:
        sub = bus.subscribe(Ping, hides, timeout=None)
        await publish_all(bus, range(3))
        await turns()
    assert now() <= 6
    assert sub.statistics().adds_up
    assert sub.statistics().in_flight == 0


async def test_nothing_hidden_outlives_the_stop_through_a_fresh_worker() -> None:
    """Hiding the stop, changing the context and failing into a retry still ends in time."""
    bus = EventBus(drain_timeout=0, cancel_grace=5)
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    async def hides(event: Ping) -> None:
        variable.set(event.n)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        raise ValueError

    policy = FailurePolicy(retry=Retry(attempts=9, initial=1, jitter=0))
    async with bus:
        sub = bus.subscribe(Ping, hides, timeout=None, on_failure=policy)
        await publish_all(bus, range(3))
        await turns()
    assert now() <= 6
    row = sub.statistics()
    assert row.adds_up
    assert row.in_flight == 0
    assert (row.cancelled, row.released) == (1, 2)
