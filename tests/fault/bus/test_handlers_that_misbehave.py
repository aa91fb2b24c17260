"""Faults inside handlers, and around the moment an event changes hands."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import random
import sys
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
import structlog

from eventflow import Event
from eventflow.bus import EventBus, Overflow
from eventflow.context import current
from eventflow.errors import PublishDeadlockError
from eventflow.failure import CallOnFailure, FailurePolicy, Retry
from eventflow.logging import add_event_context
from eventflow.testing import run_virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"


class Ping(Event, topic="test.ping"):
    n: int = 0


class Pong(Event, topic="test.pong"):
    n: int = 0


def now() -> float:
    return asyncio.get_running_loop().time()


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------ BUS-01


@pytest.mark.fault("BUS-01")
@pytest.mark.virtual_clock
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_publishing_into_ones_own_full_buffer(concurrency: int) -> None:
    """A typed error within 1 s for whoever closes the circle; nothing is lost."""
    errors: list[BaseException] = []
    times: list[float] = []

    async def handler(event: Ping) -> None:
        started = now()
        try:
            if event.n < 20:
                await bus.publish(Ping(n=event.n + 10))
                await bus.publish(Ping(n=event.n + 20))
        except PublishDeadlockError as exc:
            errors.append(exc)
        times.append(now() - started)

    async with EventBus() as bus:
        bus.subscribe(Ping, handler, capacity=1, concurrency=concurrency, name="h")
        for n in range(concurrency):
            await bus.publish(Ping(n=n))
        await bus.wait_idle()
    row = bus.ledger["h"]
    assert max(times) <= 1
    assert row.rejected == len(errors)
    if concurrency == 1:
        assert errors
    assert row.handled + row.rejected == row.offered


@pytest.mark.fault("BUS-01")
@pytest.mark.stress
def test_a_chain_of_publishes_to_oneself_ends_and_keeps_nothing() -> None:
    """1,000 steps with a buffer of 1 (100,000 in a stress run), in flat memory."""
    steps = 100_000 if STRESS else 1_000
    blocks: list[int] = []

    async def handler(event: Ping) -> None:
        if event.n < steps:
            await bus.publish(Ping(n=event.n + 1))

    async def main() -> None:
        async with bus:
            for _ in range(3):
                await bus.publish(Ping())
                await bus.wait_idle()
                gc.collect()
                blocks.append(sys.getallocatedblocks())

    bus = EventBus()
    bus.subscribe(Ping, handler, capacity=1, name="h")
    run_virtual(main)
    assert bus.ledger["h"].handled == 3 * (steps + 1)
    assert blocks[2] - blocks[1] < 200


# ------------------------------------------------------------------------------ BUS-03


async def latencies(*, bad: bool, events: int) -> list[float]:
    """How long 8 good subscribers took for each event, on the loop's clock."""
    took: list[float] = []
    published: dict[int, float] = {}

    async def good(event: Ping) -> None:
        await asyncio.sleep(0.001)
        took.append(now() - published[event.n])

    async def hangs(event: Ping) -> None:
        await asyncio.Event().wait()

    async def raises(event: Ping) -> None:
        raise ValueError

    async with EventBus(drain_timeout=0) as bus:
        for number in range(8):
            if bad and number == 2:
                bus.subscribe(Ping, hangs, capacity=events, timeout=None)
                bus.subscribe(Ping, raises)
            if bad and number == 5:
                bus.subscribe(Ping, hangs, capacity=2, overflow=Overflow.DROP_OLDEST, timeout=None)
            bus.subscribe(Ping, good)
        for n in range(events):
            published[n] = now()
            await bus.publish(Ping(n=n))
            await asyncio.sleep(0.0015)
        await asyncio.sleep(1)
        assert bus.statistics().adds_up
    return sorted(took)


@pytest.mark.fault("BUS-03")
@pytest.mark.promise("5")
@pytest.mark.stress
def test_bad_subscribers_hurt_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """One hangs, one drops, one always raises: the other 8 get everything, as fast as before."""
    caplog.set_level(logging.CRITICAL, "eventflow.bus")
    events = 20_000 if STRESS else 500
    alone = run_virtual(lambda: latencies(bad=False, events=events))
    together = run_virtual(lambda: latencies(bad=True, events=events))
    assert len(alone) == len(together) == 8 * events
    p99 = int(8 * events * 0.99)
    assert together[p99] <= 2 * alone[p99]
    assert together[-1] <= 2 * alone[-1]


# ------------------------------------------------------------------------------ BUS-06


@pytest.mark.fault("BUS-06")
@pytest.mark.stress
def test_collecting_garbage_at_every_tick() -> None:
    """Idle workers, waits for a retry, blocked publishers, readers and timers all survive."""
    rounds = 300 if STRESS else 15
    handled: list[int] = []

    async def fails_once(event: Ping) -> None:
        if current().attempt == 1:
            raise ValueError
        await asyncio.sleep(0.01)
        handled.append(event.n)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stopped = False

        def tick() -> None:
            gc.collect()
            if not stopped:
                loop.call_later(0.001, tick)

        loop.call_soon(tick)
        retry = FailurePolicy(retry=Retry(attempts=2, initial=0.01))
        async with EventBus() as bus:
            bus.subscribe(Ping, fails_once, capacity=1, on_failure=retry, timeout=1)
            bus.subscribe(Pong, lambda event: None)
            waiting = asyncio.ensure_future(bus.wait_for(Pong, timeout=1000))
            async with bus.stream(Ping) as events:
                for n in range(rounds):
                    await bus.publish(Ping(n=n))
                    gc.collect()
                    assert (await anext(events)).n == n
            await bus.publish(Pong())
            await waiting
            await bus.wait_idle()
        stopped = True
        await asyncio.sleep(0.01)

    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(1)
    try:
        run_virtual(main)
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()
    assert handled == list(range(rounds))


# ------------------------------------------------------------------------------ BUS-08


@pytest.mark.fault("BUS-08")
@pytest.mark.promise("2")
@pytest.mark.stress
@pytest.mark.parametrize("seed", [1, 2])
def test_cancelling_a_reader_around_the_receive(seed: int) -> None:
    """Thousands of cancellations at random points (100,000 in a stress run): no item is lost."""
    count = 100_000 if STRESS else 4_000
    rng = random.Random(seed)
    seen: list[int] = []

    async def main() -> None:
        async with EventBus() as bus, bus.stream(Ping, capacity=4) as events:

            async def read() -> None:
                seen.append((await anext(events)).n)

            published = 0
            while len(seen) < count:
                task = asyncio.ensure_future(read())
                before = rng.randrange(4)
                for _ in range(before):
                    await asyncio.sleep(0)
                row = bus.statistics()["stream(Ping)"]
                if row.buffered < 4 and rng.random() < 0.8:
                    bus.publish_nowait(Ping(n=published))
                    published += 1
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled() and (error := task.exception()) is not None:
                    raise error
                row = bus.statistics()["stream(Ping)"]
                assert row.adds_up
                assert row.offered == published
                assert row.handled + row.in_flight == len(seen)

    run_virtual(main)
    assert seen == list(range(len(seen)))


@pytest.mark.fault("BUS-08")
@pytest.mark.promise("7")
@pytest.mark.stress
@pytest.mark.parametrize("ordered", [False, True])
def test_cancelling_workers_from_elsewhere(ordered: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Stray cancels at random points: each event is handled or counted as cancelled, once."""
    caplog.set_level(logging.CRITICAL, "eventflow.bus")
    count = 50_000 if STRESS else 2_000
    rng = random.Random(7)
    seen: list[int] = []

    async def handler(event: Ping) -> None:
        for _ in range(event.n % 3):
            await asyncio.sleep(0)
        seen.append(event.n)

    def fifth(event: Ping) -> int:
        return event.n % 5

    async def main() -> None:
        options: dict[str, Any] = {"concurrency": 3, "order_key": fifth} if ordered else {}
        async with EventBus() as bus:
            sub = bus.subscribe(Ping, handler, capacity=8, **options)
            for n in range(count):
                await bus.publish(Ping(n=n))
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                if rng.random() < 0.3:
                    workers = sorted(
                        (t for t in asyncio.all_tasks() if t.get_name() == "eventflow:bus:handler"),
                        key=id,
                    )
                    if workers:  # else the last one cancelled is about to be replaced
                        rng.choice(workers).cancel()
                assert sub.statistics().adds_up
            await bus.wait_idle()
            row = sub.statistics()
            assert row.handled + row.cancelled == count
            assert row.handled == len(seen)
            assert row.restarts > count / 10

    run_virtual(main)
    assert len(set(seen)) == len(seen)
    if not ordered:
        assert seen == sorted(seen)


# ------------------------------------------------------------------------------ BUS-10


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for inner in group.exceptions for leaf in leaves(inner)]
    return [error]


@pytest.mark.fault("BUS-10")
@pytest.mark.virtual_clock
@pytest.mark.parametrize("kind", ["plain", "asyncio", "anyio", "nested", "base"])
async def test_each_leaf_of_a_group_is_reported_once(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log with its message, and to the callback whole; the subscriber lives on."""
    told: list[BaseException] = []

    async def fails(text: str) -> None:
        await asyncio.sleep(0)
        raise ValueError(text)

    async def handler(event: Ping) -> None:
        if event.n:
            return
        if kind == "plain":
            raise ValueError("leaf-1")
        if kind == "asyncio":
            async with asyncio.TaskGroup() as group:
                group.create_task(fails("leaf-1"))
                group.create_task(fails("leaf-2"))
        if kind == "anyio":
            async with anyio.create_task_group() as scope:
                scope.start_soon(fails, "leaf-1")
                scope.start_soon(fails, "leaf-2")
        if kind == "nested":
            inner = ExceptionGroup("inner", [KeyError("leaf-2"), ValueError("leaf-3")])
            raise ExceptionGroup("outer", [ValueError("leaf-1"), inner])
        raise BaseExceptionGroup("base", [SystemExit("leaf-1"), ValueError("leaf-2")])

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        told.append(error)

    async with EventBus() as bus:
        policy = FailurePolicy(then=CallOnFailure(tell))
        sub = bus.subscribe(Ping, handler, on_failure=policy)
        await bus.publish(Ping(n=0))
        await bus.publish(Ping(n=1))
        await bus.wait_idle()
        row = sub.statistics()
    assert (row.failed, row.handled, row.restarts) == (1, 1, 0)
    (error,) = told
    expected = {"plain": 1, "asyncio": 2, "anyio": 2, "nested": 3, "base": 2}[kind]
    assert len(leaves(error)) == expected
    (record,) = [r for r in caplog.records if r.name == "eventflow.bus"]
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    text = logging.Formatter().formatException(record.exc_info)
    for number in range(1, expected + 1):
        lines = [
            line for line in text.splitlines() if line.rstrip("'\")").endswith(f"leaf-{number}")
        ]
        assert len([line for line in lines if "raise" not in line and "group" not in line]) == 1


# ------------------------------------------------------------------------------ BUS-12

ORDINARY = [
    GeneratorExit,
    StopAsyncIteration,
    StopIteration,
    RecursionError,
    MemoryError,
    asyncio.CancelledError,
    BaseException,
    AssertionError,
    asyncio.InvalidStateError,
    TimeoutError,
]


@pytest.mark.fault("BUS-12")
@pytest.mark.promise("3")
@pytest.mark.virtual_clock
@pytest.mark.parametrize("where", ["loop", "thread", "retried"])
@pytest.mark.parametrize("kind", ORDINARY, ids=lambda kind: kind.__name__)
async def test_strange_exceptions_are_failures(kind: type[BaseException], where: str) -> None:
    """Counted as failed and never as handled; the same worker takes the next event."""

    async def on_loop(event: Ping) -> None:
        if event.n == 0:
            raise kind

    def in_thread(event: Ping) -> None:
        if event.n == 0:
            raise kind

    retry = Retry(attempts=2, on=(BaseException,), initial=1) if where == "retried" else None
    async with EventBus() as bus:
        handler: Any = in_thread if where == "thread" else on_loop
        sub = bus.subscribe(Ping, handler, on_failure=FailurePolicy(retry=retry))
        await bus.publish(Ping(n=0))
        await bus.publish(Ping(n=1))
        await bus.wait_idle()
        row = sub.statistics()
    assert (row.failed, row.handled, row.restarts) == (1, 1, 0)
    assert row.retried == (where == "retried")
    assert row.adds_up


@pytest.mark.fault("BUS-12")
@pytest.mark.parametrize("where", ["loop", "thread"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_process_goes_through(
    kind: type[BaseException], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The event is counted as failed, the loop stops with it; the subscriber is not dead."""
    bus = EventBus()
    seen: list[int] = []

    async def on_loop(event: Ping) -> None:
        if event.n == 0:
            raise kind
        seen.append(event.n)

    def in_thread(event: Ping) -> None:
        if event.n == 0:
            raise kind
        seen.append(event.n)

    async def first() -> None:
        await bus.__aenter__()
        handler: Any = in_thread if where == "thread" else on_loop
        bus.subscribe(Ping, handler, name="h")
        await bus.publish(Ping(n=0))
        await asyncio.sleep(5)

    async def second() -> None:
        await bus.publish(Ping(n=1))
        await bus.wait_idle()
        await bus.__aexit__(None, None, None)

    loop = asyncio.new_event_loop()
    task = loop.create_task(first())
    try:
        with pytest.raises(kind):
            loop.run_until_complete(task)
        task.cancel()
        loop.run_until_complete(second())
    finally:
        loop.close()
    row = bus.ledger["h"]
    assert (row.failed, row.handled, row.restarts) == (1, 1, 1)
    assert seen == [1]
    assert "handler_failed" in caplog.text


# ------------------------------------------------------------------------------ BUS-13

variable: contextvars.ContextVar[int | None] = contextvars.ContextVar("variable", default=None)


@pytest.mark.fault("BUS-13")
@pytest.mark.stress
@pytest.mark.parametrize("kind", ["contextvar", "structlog"])
def test_what_handlers_bind_stays_theirs(kind: str) -> None:
    """10,000 events with concurrency 50 (2,000 in a short run): none sees another's."""
    events = 10_000 if STRESS else 2_000
    foreign: list[int] = []
    lost: list[int] = []

    async def handler(event: Ping) -> None:
        bound: object
        if kind == "contextvar":
            bound = variable.get()
            variable.set(event.n)
        else:
            bound = structlog.contextvars.get_contextvars().get("n")
            structlog.contextvars.bind_contextvars(n=event.n)
        if bound is not None:
            foreign.append(event.n)
        await asyncio.sleep(0.001 * (event.n % 7))
        mine = (
            variable.get()
            if kind == "contextvar"
            else structlog.contextvars.get_contextvars().get("n")
        )
        if mine != event.n:
            lost.append(event.n)

    async def main() -> None:
        async with EventBus() as bus:
            sub = bus.subscribe(Ping, handler, concurrency=50)
            for n in range(events):
                await bus.publish(Ping(n=n))
            await bus.wait_idle()
            assert sub.statistics().handled == events
            assert sub.statistics().restarts == 0

    run_virtual(main)
    assert foreign == []
    assert lost == []


# ------------------------------------------------------------------------------ BUS-14


@pytest.fixture
def structured() -> Iterator[list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []

    def keep(logger: Any, name: str, event_dict: Any) -> Any:
        lines.append(dict(event_dict))
        raise structlog.DropEvent

    structlog.configure(processors=[add_event_context, keep])
    yield lines
    structlog.reset_defaults()


@pytest.mark.fault("BUS-14")
@pytest.mark.stress
def test_log_lines_carry_their_own_event(structured: list[dict[str, Any]]) -> None:
    """Sync and async handlers interleaved: no foreign id, none missing."""
    events = 5_000 if STRESS else 300
    ids: list[str] = []
    logger = structlog.get_logger()

    async def on_loop(event: Ping) -> None:
        logger.info("before", n=event.n)
        await asyncio.sleep(0.001 * (event.n % 3))
        async with asyncio.TaskGroup() as group:
            group.create_task(child(event.n))

    async def child(n: int) -> None:
        await asyncio.sleep(0)
        logger.info("child", n=n)

    def in_thread(event: Ping) -> None:
        logger.info("thread", n=event.n)

    async def main() -> None:
        async with EventBus() as bus:
            bus.subscribe(Ping, on_loop, concurrency=5)
            bus.subscribe(Ping, in_thread, concurrency=4)
            for n in range(events):
                event = Ping(n=n)
                ids.append(event.id)
                await bus.publish(event)

    run_virtual(main)
    assert len(structured) == 3 * events
    assert [line for line in structured if line.get("event_id") != ids[line["n"]]] == []
