"""`Throttle`: how many attempts begin, and when."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import FailurePolicy, current
from eventflow.errors import InvalidOptionError
from eventflow.messaging import BrokerEventPublisher, Router
from eventflow.messaging.middleware import Throttle
from eventflow.messaging.middleware.throttle import TokenBucket
from eventflow.testing import run_virtual
from tests.unit.messaging.middleware.support import Seen, send
from tests.unit.messaging.support import QUICK, Placed, Shipped, now

if TYPE_CHECKING:
    from eventflow.brokers.memory import MemoryBroker

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@given(
    rate=st.floats(0.1, 1_000),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_a_bucket_never_lets_more_pass_than_rate_and_burst(
    rate: float, burst: int, gaps: list[float]
) -> None:
    """In no span of time; and in the order in which they came."""
    bucket, time, passed = TokenBucket(rate=rate, burst=burst, now=0.0), 0.0, list[float]()
    for gap in gaps:
        time += gap
        wait = bucket.take(time)
        assert wait >= 0
        passed.append(time + wait)
    assert all(later - earlier > -1e-6 for earlier, later in pairwise(passed))
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= burst + rate * (passed[j] - start) + 1e-6


def test_a_bucket_makes_nobody_wait_without_need() -> None:
    """A burst at once, then one each interval; full again after a quiet time."""
    bucket = TokenBucket(rate=2, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(5)] == [0, 0, 0, 0.5, 1.0]
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 0, 0.5]


async def test_attempts_begin_at_the_rate(broker: MemoryBroker) -> None:
    """After the burst, and without an effect on what is slower anyway."""
    handler = Seen()
    router = Router(middlewares=[Throttle(rate=10, burst=2)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), concurrency=4)
    async with router:
        await send(broker, *range(6))
    assert handler.times == [0, 0, 0.1, 0.2, 0.3, 0.4]
    assert router.ledger["h"].handled == 6


async def test_the_wait_does_not_count_towards_the_timeout(broker: MemoryBroker) -> None:
    """Waits of up to 9 s under a timeout of 1 s; and a handler that is too slow times out still."""
    deadlines: list[float] = []

    async def handler(event: Placed) -> None:
        deadline = current().deadline
        assert deadline is not None
        deadlines.append(round(deadline - now(), 6))
        await asyncio.sleep(2 if event.n == 9 else 0.9)

    router = Router(on_failure=FailurePolicy(), middlewares=[Throttle(rate=1)])
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), concurrency=10, timeout=1
    )
    async with router:
        await send(broker, *range(10))
    assert deadlines == [1.0] * 10
    assert router.ledger["h"].handled == 9
    assert router.ledger["h"].timed_out == 1


async def test_time_before_the_wait_counts(broker: MemoryBroker) -> None:
    """What a middleware further out took is not given back."""

    async def slow(delivery: Any, call_next: Any) -> Any:
        await asyncio.sleep(0.6)
        return await call_next(delivery)

    handler = Seen(takes=0.6)
    router = Router(on_failure=FailurePolicy(), middlewares=[slow, Throttle(rate=0.1)])
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), concurrency=2, timeout=1
    )
    async with router:
        await send(broker, 1, 2)
    assert handler.times == [0.6, 10.6]
    assert router.ledger["h"].timed_out == 2


@pytest.mark.parametrize(
    ("shared", "one", "two"), [(False, [0, 1], [0, 1]), (True, [0, 1], [2, 3])]
)
async def test_each_handler_has_a_bucket_or_all_share_one(
    broker: MemoryBroker, shared: bool, one: list[float], two: list[float]
) -> None:
    """The same object around two handlers; who comes first is served first."""
    placed, shipped = Seen(), Seen()
    subscriber = broker.subscriber(group="g")
    router = Router(middlewares=[Throttle(rate=1, shared=shared)])
    router.add_handler("placed", Placed, placed, subscriber=subscriber, concurrency=2)
    router.add_handler("shipped", Shipped, shipped, subscriber=subscriber, concurrency=2)
    publisher = BrokerEventPublisher(broker.publisher())
    await send(broker, 1, 2)
    async with router:
        await asyncio.sleep(0)
        await publisher.publish(Shipped(n=1))
        await publisher.publish(Shipped(n=2))
    assert (placed.times, shipped.times) == (one, two)


async def test_a_retry_takes_a_token_too(broker: MemoryBroker) -> None:
    """Attempts are what is counted."""
    handler = Seen(ValueError(), None)
    router = Router(on_failure=QUICK, middlewares=[Throttle(rate=1)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1, 2)
    assert handler.numbers == [1, 1, 2]
    assert handler.times == [0, 1, 2]


async def test_a_stop_does_not_wait_for_tokens(broker: MemoryBroker) -> None:
    """What waits is cut at the end of the drain, and comes again."""
    handler, subscriber = Seen(), broker.subscriber(group="g")
    router = Router(drain_timeout=1, middlewares=[Throttle(rate=0.01)])
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    async with router:
        await send(broker, 1, 2, 3)
    assert now() == 1.0
    assert handler.numbers == [1]
    assert router.ledger["h"].cancelled == 1
    assert router.ledger.adds_up
    assert await subscriber.lag("orders") == 2


def test_a_shared_throttle_works_in_one_loop_after_another() -> None:
    """Each has a clock of its own."""
    throttle = Throttle(rate=1, shared=True)

    class Handler:
        name = bus = "h"

    async def first_waits(start: float) -> bool:
        await asyncio.sleep(start)
        called: list[object] = []

        async def call_next(delivery: object) -> None:
            called.append(delivery)

        handler: Any = Handler()
        anything: Any = object()
        await throttle.for_handler(handler)(anything, call_next)
        return bool(called) and now() == start

    assert run_virtual(lambda: first_waits(1_000.0))
    assert run_virtual(lambda: first_waits(0.0))


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": -1}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": True}, "rate"),
        ({"rate": "fast"}, "rate"),
        ({"rate": 1, "burst": 0}, "burst"),
        ({"rate": 1, "burst": 1.5}, "burst"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], option: str) -> None:
    """With the option's name."""
    with pytest.raises(InvalidOptionError, match=option) as caught:
        Throttle(**options)
    assert caught.value.option == option
