"""How long handlers take, in `statistics()`: from a sample that is fair, and costs nothing."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.bus import EventBus, LatencyStatistics, Overflow
from eventflow.bus._latency import KEPT, Sample
from eventflow.failure import CallOnFailure, FailurePolicy, Retry
from tests.unit.bus.support import Ping, Pong, Recorder, publish_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventflow import Event

pytestmark = [pytest.mark.usefixtures("no_leaks")]
virtual = pytest.mark.virtual_clock


async def sleeps(event: Ping) -> None:
    await asyncio.sleep(event.n)


def approx(*, count: int, mean: float, p50: float, p99: float, longest: float) -> Any:
    near: Any = pytest.approx
    return LatencyStatistics(
        count=count, mean=near(mean), p50=near(p50), p99=near(p99), longest=near(longest)
    )


@virtual
async def test_what_handlers_took() -> None:
    """Exact where all are sampled; nothing before the first has ended, for streams and in sums."""
    async with EventBus() as bus:
        sub = bus.subscribe(Ping, sleeps, timeout=None)
        async with bus.stream(Ping, overflow=Overflow.DROP_OLDEST) as events:
            await bus.publish(Ping(n=1))
            assert sub.statistics().latency is None
            await publish_all(bus, range(2, 201))
            await bus.publish(Pong())
            async for event in events:
                if event.n == 200:
                    break
        await bus.wait_idle()
        rows = bus.statistics()
        assert rows["stream(Ping)"].latency is None
        assert rows.total.latency is None
    assert bus.ledger["sleeps"].latency == approx(
        count=200, mean=100.5, p50=100, p99=198, longest=200
    )
    assert bus.ledger.as_dict()["subscriptions"][0]["latency"]["count"] == 200
    assert "latency" not in str(bus.ledger)


@virtual
async def test_events_that_come_one_by_one_are_all_sampled() -> None:
    """Ten a second, each handled at once."""
    async with EventBus() as bus:
        sub = bus.subscribe(Ping, Recorder())
        for n in range(300):
            await bus.publish(Ping(n=n))
            await asyncio.sleep(0.1)
        assert sub.statistics().latency == approx(count=300, mean=0, p50=0, p99=0, longest=0)


@virtual
async def test_each_attempt_counts_and_the_waits_between_do_not() -> None:
    """Three attempts of 2 s with waits of 60 s between them, and a callback of 100 s."""

    async def fails(event: Ping) -> None:
        await asyncio.sleep(2)
        raise ValueError

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        await asyncio.sleep(100)

    policy = FailurePolicy(
        retry=Retry(attempts=3, initial=60, multiplier=1, max_delay=60, jitter=0),
        then=CallOnFailure(tell),
    )
    async with EventBus() as bus:
        sub = bus.subscribe(Ping, fails, timeout=None, on_failure=policy)
        await publish_all(bus, range(2))
        await bus.wait_idle()
        assert sub.statistics().failed == 2
        assert sub.statistics().latency == approx(count=6, mean=2, p50=2, p99=2, longest=2)


@virtual
@pytest.mark.parametrize("swallows", [False, True])
async def test_an_attempt_that_times_out_took_until_then(swallows: bool) -> None:
    """And for its clean-up, whether it raises the cancellation or not."""

    async def hangs(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            if not swallows:
                raise

    async with EventBus() as bus:
        sub = bus.subscribe(Ping, hangs, timeout=5)
        await bus.publish(Ping())
        await bus.wait_idle()
        assert sub.statistics().timed_out == 1
        assert sub.statistics().latency == approx(count=1, mean=6, p50=6, p99=6, longest=6)


@virtual
async def test_an_attempt_that_a_stop_cut_is_left_out() -> None:
    """How long it would have taken is not known."""
    async with EventBus(drain_timeout=1) as bus:
        sub = bus.subscribe(Ping, sleeps, timeout=None, concurrency=2)
        await publish_all(bus, range(0, 200, 100))
    assert (bus.ledger["sleeps"].handled, bus.ledger["sleeps"].cancelled) == (1, 1)
    assert sub.statistics().latency == approx(count=1, mean=0, p50=0, p99=0, longest=0)


@virtual
async def test_handlers_that_run_at_once_are_timed_each_for_itself() -> None:
    """Thirty at a time, of 0 to 29 s."""
    async with EventBus() as bus:
        sub = bus.subscribe(Ping, sleeps, timeout=None, concurrency=30)
        await publish_all(bus, range(30))
        await bus.wait_idle()
        assert sub.statistics().latency == approx(count=30, mean=14.5, p50=14, p99=29, longest=29)


@virtual
async def test_a_handler_that_binds_variables_is_timed_too() -> None:
    """Each event goes to a fresh worker then, and so does each retry."""
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")

    async def binds(event: Ping) -> None:
        variable.set(object())
        await asyncio.sleep(3)
        if event.n == 1:
            raise ValueError

    policy = FailurePolicy(retry=Retry(attempts=2, initial=50, jitter=0))
    async with EventBus() as bus:
        sub = bus.subscribe(Ping, binds, on_failure=policy)
        await publish_all(bus, range(3))
        await bus.wait_idle()
        assert sub.statistics().latency == approx(count=4, mean=3, p50=3, p99=3, longest=3)


async def test_a_sync_handler_took_its_time_in_the_thread() -> None:
    """Not the wait for one."""
    release = threading.Event()

    def blocks(event: Ping) -> None:
        release.wait(10)

    async with EventBus(max_threads=1) as bus:
        slow = bus.subscribe(Ping, blocks, name="slow")
        quick = bus.subscribe(Ping, lambda event: None, name="quick")
        await bus.publish(Ping())
        began = time.monotonic()
        asyncio.get_running_loop().call_later(0.3, release.set)
        await bus.wait_idle()
        took = time.monotonic() - began
        slowest, quickest = slow.statistics().latency, quick.statistics().latency
    assert slowest
    assert quickest
    assert 0.25 < slowest.longest <= took + 0.1
    assert quickest.longest < 0.25


def handled(durations: Iterable[float]) -> Sample:
    """Events handled one right after another."""
    sample, now = Sample(), 0.0
    for duration in durations:
        due = now >= sample.due
        now += duration
        if due:
            sample.add(duration, now)
    return sample


def sampled(durations: Iterable[float]) -> LatencyStatistics:
    read = handled(durations).read()
    assert read
    return read


def test_the_last_512_are_kept() -> None:
    """What came before is forgotten, and no memory is taken before the first."""
    assert Sample().read() is None
    assert sampled([1.0, *[2.0] * (KEPT - 1)]).mean == pytest.approx(2 - 1 / KEPT)
    read = sampled([7.0] * 1000 + [1.0] * 1 + [3.0] * (KEPT - 1))
    assert read == approx(count=KEPT, mean=3 - 2 / KEPT, p50=3, p99=3, longest=3)
    assert sampled([1.0] * 99 + [9.0]).p99 == 1.0
    assert sampled([1.0] * 98 + [9.0]).p99 == 9.0


def test_a_flood_is_sampled_now_and_then() -> None:
    """At a million a second, no more than a few in ten thousand."""
    assert 100 < sampled([1e-6] * 1_000_000).count < 400


@pytest.mark.parametrize("seed", range(5))
def test_long_ones_are_no_more_likely_to_be_kept(seed: int) -> None:
    """1 in 10 takes 2 ms, the rest 20 µs: keeping what runs at some moment would say 90 % do."""
    choose = random.Random(seed)
    read = sampled([0.002 if choose.random() < 0.1 else 0.000_02 for _ in range(100_000)])
    assert read.count == KEPT
    assert 0.000_12 < read.mean < 0.000_35  # the truth: 218 µs
    assert (read.p50, read.p99, read.longest) == (0.000_02, 0.002, 0.002)


def test_kinds_that_take_turns_are_all_kept() -> None:
    """What follows a long one is not all that is seen, nor is the end of a burst missed."""
    alternating = sampled([0.000_001, 0.003] * 1000)
    assert alternating.mean == pytest.approx(0.0015, rel=0.01)
    burst = sampled(([0.000_001] * 20 + [0.010]) * 400)
    assert burst.longest == 0.010
    assert burst.p50 == 0.000_001
