"""Sync handlers: threads of the bus's own, bounded, and never in the loop's way."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.bus import EventBus
from eventflow.failure import FailurePolicy, Retry
from tests.unit.bus.support import Ping, Pong, Recorder, publish_all, turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from eventflow.bus import Subscription

pytestmark = [pytest.mark.usefixtures("no_leaks")]

virtual = pytest.mark.virtual_clock(hold_limit=10.0)


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    async with EventBus(max_threads=2) as bus:
        yield bus
    assert bus.ledger.adds_up


async def until(condition: Any) -> None:
    """Real time: wait for what another thread does."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - another thread does it
            await asyncio.sleep(0.001)


async def threads_end(bus: EventBus) -> None:
    """Wait until no thread of a bus that was left is there."""
    prefix = f"eventflow:{bus.name}-"
    await until(lambda: not [t for t in threading.enumerate() if t.name.startswith(prefix)])


@virtual
async def test_a_sync_handler_runs_in_a_daemon_thread_of_the_bus(bus: EventBus) -> None:
    """Not on the loop, not in anyio's or asyncio's pool; an exception is a failure."""
    threads: list[threading.Thread] = []

    def handler(event: Ping) -> None:
        threads.append(threading.current_thread())
        if event.n == 1:
            raise ValueError

    sub = bus.subscribe(Ping, handler)
    await publish_all(bus, range(3))
    await bus.wait_idle()
    assert {thread.daemon for thread in threads} == {True}
    assert {thread.name for thread in threads} == {"eventflow:bus-1"}
    assert threading.main_thread() not in threads
    assert (sub.statistics().handled, sub.statistics().failed) == (2, 1)


@virtual
async def test_a_plain_function_that_gives_a_coroutine_is_awaited(bus: EventBus) -> None:
    """``lambda event: send(event)`` works, with its errors and its timeout."""
    recorder = Recorder()

    async def send(event: Ping) -> None:
        if event.n == 1:
            await asyncio.sleep(1000)
        if event.n == 2:
            raise ValueError
        await recorder(event)

    sub = bus.subscribe(Ping, lambda event: send(event), timeout=5)  # noqa: PLW0108 - the subject
    await publish_all(bus, range(4))
    await bus.wait_idle()
    assert recorder.seen == [0, 3]
    row = sub.statistics()
    assert (row.handled, row.failed, row.timed_out) == (2, 2, 1)


@virtual
@pytest.mark.parametrize(
    "error", [SystemError, StopIteration, asyncio.CancelledError, RecursionError]
)
async def test_what_a_thread_raises_is_a_failure(bus: EventBus, error: type[BaseException]) -> None:
    """Also what would mean something else on the loop; the worker lives on."""

    def handler(event: Ping) -> None:
        if event.n == 0:
            raise error

    sub = bus.subscribe(Ping, handler)
    await publish_all(bus, range(2))
    await bus.wait_idle()
    row = sub.statistics()
    assert (row.failed, row.handled, row.restarts) == (1, 1, 0)


@pytest.mark.option("max_threads")
async def test_no_more_threads_than_allowed() -> None:
    """Over all subscriptions; who finds no room waits, and its timeout has not begun."""
    release = threading.Event()
    running: list[int] = []

    def blocks(event: Ping) -> None:
        running.append(event.n)
        release.wait(10)

    async with EventBus(name="crowded", max_threads=3) as bus:
        # Long enough for those that return at once, also on a machine that stands still meanwhile.
        subs = [bus.subscribe(Ping, blocks, timeout=1.0) for _ in range(5)]
        await bus.publish(Ping())
        await until(lambda: len(running) == 3)
        await until(lambda: sum(sub.statistics().failed for sub in subs) == 3)
        assert len(running) == 3  # timed out, but the slots stay taken
        assert sum(sub.statistics().timed_out for sub in subs) == 3
        release.set()
        await bus.wait_idle()
        assert len(running) == 5
        assert sum(sub.statistics().handled for sub in subs) == 2
    # One that timed out may not have reported back yet; it goes as soon as it has.
    await threads_end(bus)


async def test_a_timed_out_thread_keeps_its_workers_place() -> None:
    """The event fails in time; the next one starts when the thread has returned."""
    release = threading.Event()
    order: list[int] = []

    def handler(event: Ping) -> None:
        order.append(event.n)
        if event.n == 0:
            release.wait(10)

    async with EventBus(max_threads=8) as bus:
        sub = bus.subscribe(Ping, handler, timeout=0.1)
        await publish_all(bus, range(2))
        await until(lambda: sub.statistics().failed == 1)
        await turns()  # a worker that has worked for 5 ms lets others run before it takes more
        assert (sub.statistics().timed_out, order) == (1, [0])
        assert sub.statistics().buffered == 1
        release.set()
        await bus.wait_idle()
        assert order == [0, 1]
        assert sub.statistics().handled == 1


async def test_a_retry_waits_for_the_thread_of_the_attempt_before() -> None:
    """Two attempts at one event never overlap."""
    running: list[int] = []
    overlaps: list[int] = []
    release = threading.Event()

    def handler(event: Ping) -> None:
        if running:
            overlaps.append(1)
        running.append(1)
        release.wait(10)
        running.pop()

    async with EventBus() as bus:
        sub = bus.subscribe(
            Ping,
            handler,
            timeout=0.05,
            on_failure=FailurePolicy(retry=Retry(attempts=2, initial=0.01)),
        )
        await bus.publish(Ping())
        await until(lambda: sub.statistics().retried == 1)
        release.set()
        await bus.wait_idle()
        assert overlaps == []
        assert sub.statistics().handled == 1


async def test_a_stop_waits_for_a_thread_that_returns_in_the_grace() -> None:
    """What it did counts as handled, though a stop had begun."""
    bus = EventBus(drain_timeout=0, cancel_grace=5)
    entered = threading.Event()
    done: list[int] = []

    def handler(event: Ping) -> None:
        entered.set()
        time.sleep(0.2)
        done.append(event.n)

    async with bus:
        bus.subscribe(Ping, handler, name="h")
        await bus.publish(Ping())
        await until(entered.is_set)
    assert done == [0]
    assert bus.ledger["h"].handled == 1
    assert bus.ledger.abandoned == ()


@virtual
async def test_the_virtual_clock_stands_still_while_a_thread_is_out(bus: EventBus) -> None:
    """A handler of 50 ms does not hit its timeout of 30 virtual seconds."""

    def handler(event: Ping) -> None:
        time.sleep(0.05)

    sub = bus.subscribe(Ping, handler)
    task = asyncio.ensure_future(asyncio.sleep(3600))
    await bus.publish(Ping())
    await bus.wait_idle()
    await task
    assert sub.statistics().handled == 1


@pytest.mark.promise("5")
@virtual
async def test_threads_are_shared_in_turn(bus: EventBus) -> None:
    """One subscription that always has work does not keep the others from a thread."""
    order: list[str] = []

    def busy(event: Ping) -> None:
        order.append("busy")

    def other(event: Pong) -> None:
        order.append("other")

    lone = EventBus(max_threads=1)
    async with lone:
        lone.subscribe(Ping, busy)
        lone.subscribe(Pong, other)
        for n in range(50):
            await lone.publish(Ping(n=n))
        for n in range(5):
            await lone.publish(Pong(n=n))
        await lone.wait_idle()
    assert order.count("other") == 5
    assert "other" in order[:20]
    assert len([1 for name in order[:20] if name == "other"]) >= 4


@virtual
async def test_cancelling_who_waits_for_a_thread(bus: EventBus) -> None:
    """Its event is cut, the place goes to the next."""
    release = threading.Event()
    try:

        def blocks(event: Ping) -> None:
            release.wait(10)

        first = bus.subscribe(Ping, blocks, concurrency=2)
        await publish_all(bus, range(2))
        await turns()
        second = bus.subscribe(Ping, blocks)
        third = bus.subscribe(Ping, lambda event: None)
        await bus.publish(Ping(n=9))
        await turns()
        second.cancel()
        await turns()
        assert second.statistics().cancelled == 1
    finally:
        release.set()
    await bus.wait_idle()
    assert first.statistics().handled == 3
    assert third.statistics().handled == 1


# ----------------------------------------- threads that outlived their attempt, at a stop


class Files:
    """A resource that tells whether it is open."""

    def __init__(self) -> None:
        self.is_open = False

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Files]:
        self.is_open = True
        yield self
        self.is_open = False


class Overdue:
    """A handler that goes on after its timeout, until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.found_open: list[bool] = []

    def __call__(self, event: Ping, files: Files) -> None:
        self.release.wait(10)
        self.found_open.append(files.is_open)

    async def times_out(self, sub: Subscription) -> None:
        """Wait until the attempt has ended without its thread."""
        await until(lambda: sub.statistics().failed + sub.statistics().retried)


ENDS = ["the drain", "the grace", "a retry in the grace", "an abort"]


@pytest.mark.promise("1", "6")
@pytest.mark.parametrize("alone", [False, True], ids=["bus", "subscription"])
@pytest.mark.parametrize("end", ENDS)
async def test_a_stop_waits_for_a_thread_that_outlived_its_timeout(end: str, alone: bool) -> None:
    """It has the drain and the grace to return; its resource is open until it has."""
    files, handler = Files(), Overdue()
    retry = Retry(attempts=2, initial=1000) if "retry" in end else None
    bus = EventBus(drain_timeout=10 if end in ("the drain", "an abort") else 0, cancel_grace=10)
    sub = bus.subscribe(
        Ping,
        handler,
        name="h",
        timeout=0.05,
        on_failure=FailurePolicy(retry=retry),
        resources=files.opened,
    )
    aborts = end == "an abort"
    with suppress(ZeroDivisionError):
        async with bus:
            await bus.publish(Ping())
            await handler.times_out(sub)
            asyncio.get_running_loop().call_later(0.2, handler.release.set)
            if alone:
                await sub.aclose(drain=not aborts)
                assert handler.found_open == [True]
            if aborts:
                raise ZeroDivisionError
    assert handler.found_open == [True]
    assert not files.is_open
    row = bus.ledger["h"]
    assert (row.timed_out, row.cancelled) == ((0, 1) if retry else (1, 0))
    assert bus.ledger.abandoned == ()


@pytest.mark.promise("6")
async def test_a_thread_that_never_returns_ends_with_the_bound() -> None:
    """The stop waits for it no longer than drain and grace, and names it."""
    files, handler = Files(), Overdue()
    bus = EventBus(name="overdue", drain_timeout=0.2, cancel_grace=0.2)
    async with bus:
        sub = bus.subscribe(Ping, handler, name="h", timeout=0.05, resources=files.opened)
        await bus.publish(Ping())
        await handler.times_out(sub)
        began = time.monotonic()
    took = time.monotonic() - began
    try:
        assert 0.4 <= took < 1.4
        assert not files.is_open
        assert bus.ledger["h"].failed == 1
        assert bus.ledger.abandoned == ("thread eventflow:overdue-1 in h",)
    finally:
        handler.release.set()
    await threads_end(bus)


async def test_a_bus_is_idle_when_no_thread_is_out() -> None:
    """One that outlived its attempt is waited for, so that a test may look at what it did."""
    files, handler = Files(), Overdue()
    async with EventBus() as bus:
        sub = bus.subscribe(Ping, handler, timeout=0.05, resources=files.opened)
        await sub.wait_ready()
        await bus.publish(Ping())
        await handler.times_out(sub)
        idle = asyncio.ensure_future(bus.wait_idle())
        await turns()
        assert not idle.done()
        handler.release.set()
        await idle
        assert handler.found_open == [True]


async def test_two_stops_wait_for_the_same_thread() -> None:
    """A subscription drains alone, then its bus is left: each within its own bound."""
    files, handler = Files(), Overdue()
    bus = EventBus(drain_timeout=0, cancel_grace=10)
    async with bus:
        sub = bus.subscribe(Ping, handler, name="h", timeout=0.05, resources=files.opened)
        await bus.publish(Ping())
        await handler.times_out(sub)
        alone = asyncio.ensure_future(sub.aclose())
        await turns()
        asyncio.get_running_loop().call_later(0.2, handler.release.set)
    await alone
    assert handler.found_open == [True]
    assert not files.is_open
    assert bus.ledger.abandoned == ()
