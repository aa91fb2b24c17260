"""Entering and leaving a bus: every way in, every way out, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import pytest_asyncio

from eventflow.bus import EventBus, Overflow
from eventflow.errors import (
    BusClosedError,
    BusError,
    BusNotEnteredError,
    DeadlockError,
    ResourceError,
    WrongLoopError,
)
from eventflow.testing import no_leaks, run_virtual
from tests.unit.bus.support import (
    Ping,
    Pong,
    Recorder,
    Stubborn,
    lines,
    now,
    outcome,
    publish_all,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"


# ---------------------------------------------------------------- nothing before entering


@pytest.mark.promise("1")
async def test_nothing_starts_before_a_bus_is_entered() -> None:
    """Construction and subscribe() make no task, no thread, and open no resource."""
    opened: list[int] = []

    @asynccontextmanager
    async def resource() -> AsyncGenerator[int]:
        opened.append(1)
        yield 1

    async def with_resource(event: Ping, value: int) -> None: ...

    tasks, threads = asyncio.all_tasks(), threading.enumerate()
    bus = EventBus()
    bus.subscribe(Ping, Recorder(), concurrency=8)
    bus.subscribe(Ping, lambda event: None)
    bus.subscribe(Ping, with_resource, resources=resource)
    await turns()
    assert asyncio.all_tasks() == tasks
    assert threading.enumerate() == threads
    assert opened == []
    assert bus.statistics().state == "new"
    with pytest.raises(BusNotEnteredError):
        await bus.publish(Ping())


def test_a_bus_can_be_made_and_bound_without_a_loop() -> None:
    """At import time of an application, long before asyncio.run."""
    bus = EventBus()
    seen: list[int] = []

    @bus.on(Ping)
    async def handler(event: Ping) -> None:
        seen.append(event.n)

    async def main() -> None:
        async with bus:
            await bus.publish(Ping(n=1))

    run_virtual(main)
    run_virtual(main)
    assert seen == [1, 1]


@pytest.mark.parametrize("number", [1, 2])
async def test_a_bus_can_be_entered_again(number: int) -> None:
    """What was subscribed before starts with each entry; what was subscribed inside ended."""
    bus = EventBus()
    before, inside = Recorder(), Recorder()
    bus.subscribe(Ping, before, name="before")
    for _ in range(number):
        async with bus:
            bus.subscribe(Ping, inside, name="inside")
            await bus.publish(Ping())
        assert bus.ledger["before"].handled == 1
        assert bus.ledger["inside"].handled == 1
        assert bus.ledger.state == "closed"
    async with bus:
        await bus.publish(Ping())
    assert len(before.seen) == number + 1
    assert len(inside.seen) == number


async def test_entering_twice_is_an_error() -> None:
    """A bus that is open can't be entered, and stays as it is."""
    async with EventBus() as bus:
        with pytest.raises(BusError, match="open already"):
            await bus.__aenter__()
        await bus.publish(Ping())


async def test_after_the_bus_was_left_everything_is_a_typed_error() -> None:
    """Publish, subscribe of a stream, wait_idle and leaving again say that it is closed."""
    async with EventBus() as bus:
        pass
    for call in (bus.publish(Ping()), bus.wait_idle(), bus.__aexit__(None, None, None)):
        assert isinstance(await outcome(call), BusClosedError)
    with pytest.raises(BusClosedError):
        bus.publish_nowait(Ping())
    with pytest.raises(BusClosedError):
        await bus.stream(Ping).__aenter__()
    with pytest.raises(BusClosedError):
        await bus.wait_for(Ping, timeout=1)


# ------------------------------------------------------------------------- where from


async def test_entered_in_one_task_left_in_another() -> None:
    """As ASGI lifespans do it; the drain works all the same."""
    bus = EventBus()
    recorder = Recorder()
    bus.subscribe(Ping, recorder)
    await asyncio.ensure_future(bus.__aenter__())
    await asyncio.ensure_future(bus.publish(Ping()))
    await asyncio.ensure_future(bus.__aexit__(None, None, None))
    assert recorder.seen == [0]
    assert bus.ledger["Recorder"].handled == 1


@pytest_asyncio.fixture
async def open_bus() -> AsyncIterator[EventBus]:
    async with EventBus() as bus:
        yield bus


@pytest.fixture
async def bus_in_anyio_group() -> AsyncIterator[EventBus]:
    async with anyio.create_task_group() as group, EventBus() as bus:
        yield bus
        group.cancel_scope.cancel()


async def test_a_bus_in_a_fixture(open_bus: EventBus) -> None:
    """A pytest fixture enters and leaves it in tasks of its own."""
    recorder = Recorder()
    open_bus.subscribe(Ping, recorder)
    await open_bus.publish(Ping())
    await open_bus.wait_idle()
    assert recorder.seen == [0]


async def test_an_exit_stack_and_an_async_generator() -> None:
    """Other ways of entering: an exit stack, and an async generator closed by hand."""

    async def lifespan() -> AsyncIterator[EventBus]:
        async with EventBus() as bus:
            yield bus

    generator = lifespan()
    bus = await anext(generator)
    async with contextlib.AsyncExitStack() as stack:
        other = await stack.enter_async_context(EventBus())
        await other.publish(Ping())
    await bus.publish(Ping())
    assert isinstance(await outcome(anext(generator)), StopAsyncIteration)
    assert bus.ledger.state == other.ledger.state == "closed"


# ------------------------------------------------------------------------- ways out


@pytest.mark.promise("6")
@pytest.mark.option("drain_timeout")
async def test_leaving_normally_drains() -> None:
    """Handlers finish what was published; it ends as soon as they have."""
    recorder = Recorder()

    async def slow(event: Ping) -> None:
        await asyncio.sleep(1)
        await recorder(event)

    async with EventBus(drain_timeout=20) as bus:
        bus.subscribe(Ping, slow)
        await publish_all(bus, range(5))
    assert recorder.seen == [0, 1, 2, 3, 4]
    assert now() == 5
    assert bus.ledger["slow"].handled == 5


@pytest.mark.promise("2")
@pytest.mark.option("drain_timeout")
async def test_what_the_drain_had_no_time_for_is_cancelled_and_released(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Counted, and each id is in a log line."""
    async with EventBus(drain_timeout=2.5) as bus:

        async def slow(event: Ping) -> None:
            await asyncio.sleep(1)

        bus.subscribe(Ping, slow)
        events = [Ping(n=n) for n in range(5)]
        for event in events:
            await bus.publish(event)
    row = bus.ledger["slow"]
    assert (row.handled, row.cancelled, row.released) == (2, 1, 2)
    assert row.adds_up
    assert now() == 2.5
    (cancelled,) = lines(caplog, "handler_cancelled")
    (released,) = lines(caplog, "events_released")
    assert events[2].id in cancelled
    assert events[3].id in released
    assert events[4].id in released


class BodyError(Exception):
    pass


@pytest.mark.promise("6")
async def test_leaving_by_an_exception_does_not_drain() -> None:
    """Handlers are cancelled at once, and the exception comes out."""
    bus = EventBus()
    with pytest.raises(BodyError):  # noqa: PT012 - the block is the subject
        async with bus:
            bus.subscribe(Ping, Recorder(gate=asyncio.Event()), name="r")
            await publish_all(bus, range(3))
            await turns()
            raise BodyError
    assert now() == 0
    assert (bus.ledger["r"].cancelled, bus.ledger["r"].released) == (1, 2)


async def test_leaving_by_a_cancellation_does_not_drain() -> None:
    """A native cancel of the task inside the block."""
    bus = EventBus()

    async def body() -> None:
        async with bus:
            bus.subscribe(Ping, Recorder(gate=asyncio.Event()), name="r")
            await bus.publish(Ping())
            await asyncio.sleep(1000)

    task = asyncio.ensure_future(body())
    await asyncio.sleep(3)
    task.cancel()
    assert isinstance(await outcome(task), asyncio.CancelledError)
    assert now() == 3
    assert bus.ledger["r"].cancelled == 1


async def test_leaving_by_an_outer_anyio_scope_does_not_drain() -> None:
    """An anyio scope cancels at every await; the stop still runs to its end, grace included."""
    bus = EventBus(cancel_grace=5)
    cleaned: list[float] = []

    async def tidy(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(2)
            cleaned.append(now())

    with anyio.move_on_after(3) as scope:
        async with bus:
            bus.subscribe(Ping, tidy)
            await bus.publish(Ping())
            await asyncio.sleep(1000)
    assert scope.cancelled_caught
    assert cleaned == [5]
    assert now() == 5
    assert bus.ledger.state == "closed"


async def test_a_bus_that_drains_takes_no_more_subscriptions() -> None:
    """Of nobody, its own handlers included; a stream neither."""
    refused: list[BaseException | None] = []

    async def late(event: Ping) -> None:
        await asyncio.sleep(1)
        with pytest.raises(BusClosedError) as caught:
            bus.subscribe(Ping, Recorder(), name="later")
        refused.append(caught.value)
        refused.append(await outcome(bus.stream(Pong).__aenter__()))

    async with EventBus() as bus:
        bus.subscribe(Ping, late)
        await bus.publish(Ping())
    assert [type(error) for error in refused] == [BusClosedError, BusClosedError]
    assert bus.ledger["late"].handled == 1


async def test_whoever_cancels_everything_during_a_drain_ends_it() -> None:
    """The stop begins again, without draining; each event has one end."""
    bus = EventBus(name="all", drain_timeout=500)
    bus.subscribe(Ping, Recorder(gate=asyncio.Event()), name="r", concurrency=2, timeout=None)
    await bus.__aenter__()
    await publish_all(bus, range(4))
    leaving = asyncio.create_task(bus.__aexit__(None, None, None))
    await asyncio.sleep(10)
    assert bus.statistics().state == "closing"
    for task in asyncio.all_tasks():
        if task.get_name().startswith("eventflow:all:"):
            task.cancel()
    await leaving
    assert now() == 10
    row = bus.ledger["r"]
    assert (row.cancelled, row.released, row.in_flight) == (2, 2, 0)


@pytest.mark.parametrize("how", ["native", "anyio"])
async def test_a_cancellation_during_a_drain_ends_the_drain(how: str) -> None:
    """The second signal: no more draining, but cancel and grace as always."""
    bus = EventBus(drain_timeout=20, cancel_grace=5)

    async def body() -> None:
        async with bus:
            bus.subscribe(Ping, Recorder(gate=asyncio.Event()), name="r")
            await publish_all(bus, range(2))

    if how == "native":
        task = asyncio.ensure_future(body())
        await asyncio.sleep(4)
        assert bus.statistics().state == "closing"
        task.cancel()
        assert isinstance(await outcome(task), asyncio.CancelledError)
    else:
        with anyio.move_on_after(4) as scope:
            await body()
        assert scope.cancelled_caught
    assert now() == 4
    assert (bus.ledger["r"].cancelled, bus.ledger["r"].released) == (1, 1)


async def test_many_cancellations_during_a_stop() -> None:
    """However often the caller is cancelled, the stop ends once, in its bound, as cancelled."""
    bus = EventBus(drain_timeout=20, cancel_grace=5)
    stubborn = Stubborn()

    async def body() -> None:
        async with bus:
            bus.subscribe(Ping, stubborn, timeout=None)
            await bus.publish(Ping())

    task = asyncio.ensure_future(body())
    for _ in range(8):
        await asyncio.sleep(0.5)
        task.cancel()
    assert isinstance(await outcome(task), asyncio.CancelledError)
    assert now() <= 0.5 + 5 + 1
    assert len(bus.ledger.abandoned) == 1
    await stubborn.let_go()


async def test_leaving_a_bus_that_the_loop_has_stopped_already() -> None:
    """`asyncio.run` cancels all tasks in no order; the bus's own may be done before its owner's."""
    bus = EventBus(name="early")
    await bus.__aenter__()
    bus.subscribe(Ping, Recorder(), name="r")
    await turns()
    [owner] = [t for t in asyncio.all_tasks() if t.get_name() == "eventflow:early:supervisor"]
    owner.cancel()
    await asyncio.wait([owner])
    assert bus.ledger.state == "closed"
    await bus.__aexit__(None, None, None)
    with pytest.raises(BusClosedError):
        await bus.publish(Ping())


async def test_leaving_from_a_handler_is_refused() -> None:
    """It could only wait for itself."""
    bus = EventBus()
    errors: list[BaseException | None] = []

    async def handler(event: Ping) -> None:
        errors.append(await outcome(bus.__aexit__(None, None, None)))
        errors.append(await outcome(bus.wait_idle()))

    async with bus:
        bus.subscribe(Ping, handler)
        await bus.publish(Ping())
    assert [type(error) for error in errors] == [DeadlockError, DeadlockError]


def test_a_bus_is_left_in_the_loop_it_was_entered_in() -> None:
    """Another loop is a typed error, for leaving, publishing, subscribing and waiting."""
    bus = EventBus()
    recorder = Recorder()
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(bus.__aenter__())

        async def elsewhere() -> list[BaseException | None]:
            async def subscribe() -> None:
                bus.subscribe(Ping, recorder)

            return [
                await outcome(bus.__aexit__(None, None, None)),
                await outcome(bus.publish(Ping())),
                await outcome(bus.wait_idle()),
                await outcome(bus.stream(Ping).__aenter__()),
                await outcome(subscribe()),
            ]

        assert [type(error) for error in run_virtual(elsewhere)] == [WrongLoopError] * 5
        loop.run_until_complete(bus.__aexit__(None, None, None))
    finally:
        loop.close()


@pytest.mark.parametrize("workers_first", [True, False])
def test_a_loop_that_ends_around_an_open_bus_stops_it(workers_first: bool) -> None:
    """As asyncio.run cancels everything, the supervisor stops the bus, and clean-up may await."""
    bus = EventBus()
    tidied: list[float] = []

    async def handler(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(3)
            tidied.append(now())

    async def main() -> None:
        await bus.__aenter__()
        bus.subscribe(Ping, handler)
        await bus.publish(Ping())
        await turns()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in sorted(tasks, key=lambda task: task.get_name(), reverse=not workers_first):
            task.cancel()
        await asyncio.wait(tasks)

    run_virtual(main)
    assert tidied == [3]
    assert bus.ledger.state == "closed"
    assert bus.ledger.adds_up
    assert bus.ledger["handler"].cancelled == 1


@pytest.mark.parametrize("kind", ["plain", "keyed", "stream", "retrying", "callback"])
def test_a_loop_closed_around_an_open_bus(kind: str) -> None:
    """Nothing hangs or complains beyond asyncio itself, and the bus can be entered again."""
    from eventflow.failure import CallOnFailure, FailurePolicy, Retry

    bus = EventBus()
    unraisable: list[Any] = []
    gate: list[asyncio.Event] = []

    async def handler(event: Ping) -> None:
        if gate:
            await gate[0].wait()
        if kind in ("retrying", "callback"):
            raise ValueError

    async def callback(event: Any, error: BaseException, attempts: int) -> None:
        await asyncio.Event().wait()

    def key_of(event: Ping) -> str:
        return event.key

    async def main() -> None:
        await bus.__aenter__()
        all_options: dict[str, dict[str, Any]] = {
            "plain": {},
            "stream": {},
            "keyed": {"concurrency": 4, "order_key": key_of},
            "retrying": {"on_failure": FailurePolicy(retry=Retry(initial=100))},
            "callback": {"on_failure": FailurePolicy(then=CallOnFailure(callback))},
        }
        options = all_options[kind]
        if kind not in ("retrying", "callback"):
            gate.append(asyncio.Event())
        bus.subscribe(Ping, handler, **options)
        if kind == "stream":
            await bus.stream(Pong).__aenter__()
        await publish_all(bus, range(3))
        await turns()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed …" is asyncio's
    loop.run_until_complete(main())
    loop.close()
    del loop
    gate.clear()

    import sys

    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        bus2, bus = bus, EventBus()
        assert bus2.statistics()["handler"].in_flight == 1

        async def again() -> None:
            with pytest.raises(WrongLoopError):
                await bus2.publish(Ping())
            async with bus2:
                await bus2.publish(Ping())

        run_virtual(again)
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert [str(u.exc_value) for u in unraisable] == []


# ------------------------------------------------------------------------ the bound


@asynccontextmanager
async def hangs_on_close() -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await asyncio.sleep(1000)


class StubbornClose:
    """A resource that refuses to close, until `let_go`."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> None:
        self.task = asyncio.current_task()

    async def __aexit__(self, *args: object) -> None:
        while not self.released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.released.wait()

    async def let_go(self) -> None:
        self.released.set()
        if self.task is not None:
            await asyncio.wait([self.task])


async def with_resource(event: Ping, value: object) -> None: ...


@pytest.mark.promise("6")
@pytest.mark.parametrize("leave", ["drain", "error"])
@pytest.mark.parametrize("handler_hangs", [False, True])
@pytest.mark.parametrize("resource", ["none", "slow", "stubborn"])
@pytest.mark.parametrize("reader_hangs", [False, True])
async def test_a_stop_ends_within_its_bound(
    leave: str, handler_hangs: bool, resource: str, reader_hangs: bool
) -> None:
    """drain_timeout + cancel_grace + 1 s, whatever refuses; and that is abandoned by name."""
    bus = EventBus(drain_timeout=20, cancel_grace=5)
    stubborn, close = Stubborn(), StubbornClose()
    if handler_hangs:
        bus.subscribe(Ping, stubborn, timeout=None, name="handler")
    if resource == "slow":
        bus.subscribe(Ping, with_resource, resources=hangs_on_close, name="resource")
    if resource == "stubborn":
        bus.subscribe(Ping, with_resource, resources=lambda: close, name="resource")
    reader: asyncio.Task[Any] | None = None

    async def read() -> None:
        async with bus.stream(Ping) as events:
            async for _ in events:
                await asyncio.sleep(1000)

    started = now()
    try:
        async with bus:
            if reader_hangs:
                reader = asyncio.ensure_future(read())
                await turns()
            await publish_all(bus, range(3))
            await turns()
            if leave == "error":
                raise BodyError
    except BodyError:
        pass
    took = now() - started

    assert took <= 5 + 1 + (20 if leave == "drain" else 0)
    assert bus.ledger.state == "closed"
    assert bus.ledger.adds_up
    named = "\n".join(bus.ledger.abandoned)
    assert ("handler" in named) == handler_hangs
    assert ("resource" in named) == (resource == "stubborn")
    for row in bus.ledger.subscriptions:
        assert row.in_flight == row.buffered == 0
    await stubborn.let_go()
    await close.let_go()
    if reader is not None:
        reader.cancel()
        await asyncio.wait([reader])
    assert bus.ledger.adds_up


@pytest.mark.promise("6")
@pytest.mark.parametrize("handler_hangs", [False, True])
@pytest.mark.parametrize("resource_hangs", [False, True])
async def test_closing_one_subscription_ends_within_the_same_bound(
    handler_hangs: bool, resource_hangs: bool
) -> None:
    """Also where its handler and its resource both take all the time they can get."""
    stubborn, close = Stubborn(), StubbornClose()

    async def handler(event: Ping, value: object) -> None:
        if handler_hangs:
            await stubborn(event)

    async with EventBus(drain_timeout=20, cancel_grace=5) as bus:
        resource = (lambda: close) if resource_hangs else StubbornClose
        if not resource_hangs:
            close.released.set()
            resource = lambda: close  # noqa: E731
        sub = bus.subscribe(Ping, handler, resources=resource, timeout=None)
        await sub.wait_ready()
        await bus.publish(Ping())
        await turns()
        await sub.aclose()
        assert now() <= 20 + 5 + 1
        assert sub.closed
        assert sub.statistics().adds_up
        await stubborn.let_go()
        await close.let_go()


@pytest.mark.promise("1")
async def test_a_second_stop_does_not_cut_the_clean_up_of_the_first() -> None:
    """A handler that its subscription has cancelled is not cancelled again before its grace."""
    cleaned: list[float] = []

    async def tidy(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(3)
            cleaned.append(now())

    bus = EventBus(drain_timeout=1, cancel_grace=5)
    async with bus:
        sub = bus.subscribe(Ping, tidy)
        await bus.publish(Ping())
        await turns()
        sub.cancel()
        await turns()
    assert cleaned == [3]


# -------------------------------------------------------------------- stuck threads


@pytest.mark.virtual_clock(hold_limit=None)
@pytest.mark.slow
def test_a_stuck_thread_is_named_and_the_stop_is_bounded() -> None:
    """Real time: a sync handler that does not return costs the grace, not more."""
    release = threading.Event()
    bus = EventBus(drain_timeout=0.1, cancel_grace=0.1)

    def stuck(event: Ping) -> None:
        release.wait()

    bus.subscribe(Ping, stuck, timeout=None)

    async def main() -> float:
        await bus.__aenter__()
        event = Ping()
        await bus.publish(event)
        await turns()
        started = time.monotonic()
        await bus.__aexit__(None, None, None)
        return time.monotonic() - started

    try:
        took = asyncio.run(main())
        assert took <= 0.1 + 0.1 + 1
        assert bus.ledger["stuck"].abandoned == 1
        assert bus.ledger.adds_up
        assert any(line.startswith("thread ") and "stuck" in line for line in bus.ledger.abandoned)
    finally:
        release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("eventflow"):
            thread.join(5)
            assert not thread.is_alive()


def test_a_stuck_thread_of_one_subscription_is_named_when_that_ends() -> None:
    """Real time: its task ends, since it only waited; the thread is named when the bus ends."""
    started, release = threading.Event(), threading.Event()
    bus = EventBus(name="one", cancel_grace=0.1)

    def stuck(event: Ping) -> None:
        started.set()
        release.wait()

    async def main() -> None:
        async with bus:
            sub = bus.subscribe(Ping, stuck, timeout=None)
            await bus.publish(Ping())
            await asyncio.to_thread(started.wait, 10)
            await sub.aclose(drain=False)
            assert sub.statistics().abandoned == 1
            names = [task.get_name() for task in asyncio.all_tasks()]
            assert "eventflow:one:stuck" not in names

    try:
        asyncio.run(main())
        first, second = bus.ledger.abandoned
        assert first.startswith("task eventflow:one:stuck")
        assert second.startswith("thread ")
        assert bus.ledger.adds_up
    finally:
        release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("eventflow"):
            thread.join(5)
            assert not thread.is_alive()


# --------------------------------------------------------------------------- resources


@pytest.mark.option("resources")
async def test_a_resource_is_opened_and_closed_with_its_subscription() -> None:
    """Entering waits for it; the handler gets it as second argument; it is closed last."""
    log: list[Any] = []

    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        task = asyncio.current_task()
        await asyncio.sleep(1)
        log.append("open")
        with anyio.CancelScope():  # entered and left in one task, as it has to be
            yield "db"
        assert asyncio.current_task() is task
        await asyncio.sleep(1)
        log.append("closed")

    async def store(event: Ping, db: str) -> None:
        log.append((event.n, db))

    def store_in_thread(event: Pong, db: str) -> None:
        log.append((event.n, db, "thread"))

    bus = EventBus()
    bus.subscribe(Ping, store, resources=database)
    async with bus:
        assert log == ["open"]
        late = bus.subscribe(Pong, store_in_thread, resources=database)
        assert now() == 1
        await bus.publish(Pong(n=7))
        await late.wait_ready()
        assert now() == 2
        await bus.publish(Ping(n=1))
    assert log == ["open", "open", (7, "db", "thread"), (1, "db"), "closed", "closed"] or log == [
        "open",
        "open",
        (1, "db"),
        (7, "db", "thread"),
        "closed",
        "closed",
    ]


class OpenError(Exception):
    pass


@pytest.mark.option("resources")
@pytest.mark.parametrize("when", [0, 3])
async def test_entering_fails_when_a_resource_fails(when: float) -> None:
    """The others are closed again, nothing is left, and the bus can be entered later."""
    log: list[str] = []
    broken = True

    @asynccontextmanager
    async def bad() -> AsyncGenerator[None]:
        if when:
            await asyncio.sleep(when)
        if broken:
            raise OpenError
        yield

    @asynccontextmanager
    async def good() -> AsyncGenerator[None]:
        log.append("open")
        yield
        log.append("closed")

    bus = EventBus()
    bus.subscribe(Ping, with_resource, resources=good, name="good")
    bus.subscribe(Ping, with_resource, resources=bad, name="bad")
    with pytest.raises(ResourceError) as caught:
        await bus.__aenter__()
    assert caught.value.subscription == "bad"
    assert isinstance(caught.value.__cause__, OpenError)
    assert log == ["open", "closed"]
    assert now() <= when + 1
    assert bus.statistics().state == "closed"
    broken = False
    async with bus:
        await bus.publish(Ping())
    assert bus.ledger["bad"].handled == 1


@pytest.mark.option("resources")
async def test_a_resource_function_that_raises_or_is_no_context_manager() -> None:
    """Both are a ResourceError at entry."""

    def raises() -> Any:
        raise OpenError

    for resources in (raises, object):
        bus = EventBus()
        bus.subscribe(Ping, with_resource, resources=resources)  # type: ignore[arg-type]
        with pytest.raises(ResourceError):
            await bus.__aenter__()


@pytest.mark.promise("6")
@pytest.mark.promise("1")
async def test_a_resource_that_opens_although_a_stop_cancels_it_is_closed() -> None:
    """It swallowed the cancellation: nothing is handled with it, and nothing is left open."""
    seen: list[str] = []

    @asynccontextmanager
    async def stubborn() -> AsyncGenerator[None]:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            seen.append("opened")
        yield
        seen.append("closed")

    async def handler(event: Ping, resource: object) -> None:
        seen.append("handled")

    async with EventBus() as bus:
        sub = bus.subscribe(Ping, handler, resources=stubborn)
        await bus.publish(Ping())
        await turns()
        await sub.aclose(drain=False)
        assert seen == ["opened", "closed"]
    assert bus.ledger["handler"].released == 1


async def test_giving_up_while_a_resource_is_being_opened_is_quick() -> None:
    """Cancelled while entering: what is being opened is cancelled at once, not after a grace."""
    cancelled: list[float] = []

    @asynccontextmanager
    async def hangs() -> AsyncGenerator[None]:
        try:
            await asyncio.sleep(1000)
        finally:
            cancelled.append(now())
        yield

    bus = EventBus(cancel_grace=5)
    bus.subscribe(Ping, with_resource, resources=hangs)
    task = asyncio.ensure_future(bus.__aenter__())
    await asyncio.sleep(2)
    task.cancel()
    assert isinstance(await outcome(task), asyncio.CancelledError)
    assert cancelled == [2]
    assert now() <= 3


@pytest.mark.option("resources")
async def test_a_late_resource_that_fails_ends_its_subscription_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its events are released and logged, the others go on; wait_ready() tells."""
    other = Recorder()

    @asynccontextmanager
    async def bad() -> AsyncGenerator[None]:
        await asyncio.sleep(1)
        raise OpenError
        yield

    async with EventBus() as bus:
        bus.subscribe(Ping, other)
        sub = bus.subscribe(Ping, with_resource, resources=bad)
        event = Ping()
        await bus.publish(event)
        with pytest.raises(ResourceError):
            await sub.wait_ready()
        await turns(50)
        assert sub.closed
        await bus.publish(Ping(n=1))
    assert other.seen == [0, 1]
    row = sub.statistics()
    assert (row.offered, row.released) == (1, 1)
    assert event.id in "".join(lines(caplog, "events_released"))
    assert len(lines(caplog, "resource_failed")) == 1


@pytest.mark.option("resources")
async def test_a_resource_that_fails_to_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving is not harmed."""

    @asynccontextmanager
    async def bad() -> AsyncGenerator[None]:
        yield
        raise OpenError

    bus = EventBus()
    bus.subscribe(Ping, with_resource, resources=bad, name="r")
    async with bus:
        await bus.publish(Ping())
    assert bus.ledger["r"].handled == 1
    assert len(lines(caplog, "resource_failed")) == 1


@pytest.mark.option("resources")
async def test_a_resource_stays_open_while_handlers_drain() -> None:
    """Also for a handler that needs its grace to clean up."""
    open_now: list[bool] = []

    @asynccontextmanager
    async def resource() -> AsyncGenerator[list[bool]]:
        state = [True]
        yield state
        state[0] = False

    async def uses(event: Ping, state: list[bool]) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(4)
            open_now.append(state[0])

    bus = EventBus(drain_timeout=1, cancel_grace=5)
    bus.subscribe(Ping, uses, resources=resource)
    async with bus:
        await bus.publish(Ping())
        await turns()
    assert open_now == [True]


# ------------------------------------------------------- publishing while it stops


@pytest.mark.promise("2")
async def test_publishing_while_the_bus_drains() -> None:
    """From outside it is refused; of a handler that still runs it is taken and handled."""
    bus = EventBus(drain_timeout=20)
    pongs: list[int] = []
    refused: list[BaseException | None] = []

    async def ping(event: Ping) -> None:
        await asyncio.sleep(2)
        await bus.publish(Pong(n=event.n))

    async def pong(event: Pong) -> None:
        await asyncio.sleep(1)
        pongs.append(event.n)

    async def outsider() -> None:
        await asyncio.sleep(1)
        refused.append(await outcome(bus.publish(Ping(n=9))))

    async with bus:
        bus.subscribe(Ping, ping)
        bus.subscribe(Pong, pong)
        task = asyncio.ensure_future(outsider())
        await bus.publish(Ping(n=1))
    await task
    assert pongs == [1]
    assert [type(error) for error in refused] == [BusClosedError]
    assert bus.ledger["ping"].offered == 1


async def test_publishing_after_the_drain_deadline_is_refused_to_handlers_too() -> None:
    """A handler that publishes in its clean-up gets BusClosedError."""
    bus = EventBus(drain_timeout=1)
    errors: list[BaseException | None] = []

    async def late(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            errors.append(await outcome(bus.publish(Pong())))

    async with bus:
        bus.subscribe(Ping, late)
        bus.subscribe(Pong, Recorder(), name="pong")  # type: ignore[arg-type]
        await bus.publish(Ping())
        await turns()
    assert [type(error) for error in errors] == [BusClosedError]
    assert bus.ledger["pong"].offered == 0


@pytest.mark.promise("8")
async def test_a_stop_sends_blocked_publishers_away() -> None:
    """Those outside at once, with a typed error, counted as rejected."""
    bus = EventBus(drain_timeout=3)
    results: list[tuple[float, BaseException | None]] = []

    async def publisher(n: int) -> None:
        error = await outcome(bus.publish(Ping(n=n)))
        results.append((now(), error))

    async with bus:
        bus.subscribe(Ping, Recorder(gate=asyncio.Event()), capacity=1, block_timeout=100, name="r")
        await publish_all(bus, range(1))
        await turns()
        await publish_all(bus, range(1))
        tasks = [asyncio.ensure_future(publisher(n)) for n in range(5)]
        await turns()
        assert bus.statistics()["r"].waiting == 5
    await asyncio.wait(tasks)
    assert [(at, type(error)) for at, error in results] == [(0, BusClosedError)] * 5
    row = bus.ledger["r"]
    assert (row.rejected, row.cancelled, row.released, row.waiting) == (5, 1, 1, 0)
    assert row.adds_up


@pytest.mark.promise("2")
@pytest.mark.parametrize(
    "overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.KEEP_LATEST]
)
@pytest.mark.parametrize("ticks", range(4))
async def test_a_publish_that_a_stop_overtakes_is_not_lost_silently(
    overflow: Overflow, ticks: int
) -> None:
    """A publisher that let the subscriber run before dropping, and found the bus closed."""
    bus = EventBus()
    results: list[BaseException | None] = []

    go = asyncio.Event()

    async def publisher() -> None:
        await go.wait()
        results.extend([await outcome(bus.publish(Ping(n=n))) for n in range(3)])

    task: asyncio.Task[None] | None = None
    try:
        async with bus:
            bus.subscribe(
                Ping, Recorder(gate=asyncio.Event()), capacity=1, overflow=overflow, name="r"
            )
            task = asyncio.ensure_future(publisher())
            await bus.publish(Pong())  # the first publish is a checkpoint
            await turns(3)
            go.set()
            await turns(ticks)
            raise BodyError
    except BodyError:
        pass
    assert task is not None
    await asyncio.wait([task])
    accepted = sum(error is None for error in results)
    assert bus.ledger.adds_up
    assert bus.ledger["r"].offered >= accepted


# ----------------------------------------------------------------------- what is left


async def noop(event: Ping) -> None: ...


@pytest.mark.promise("1")
@pytest.mark.stress
def test_a_thousand_cycles_leave_nothing() -> None:
    """Tasks, threads, timers, descriptors and objects are what they were before."""
    bus = EventBus()
    bus.subscribe(Ping, noop, concurrency=2)
    bus.subscribe(Ping, with_resource, resources=contextlib.nullcontext)
    bus.subscribe(Ping, lambda event: None, name="thread")

    async def cycle() -> None:
        async with bus:
            async with bus.stream(Ping) as events:
                await bus.publish(Ping())
                assert (await anext(events)).n == 0
            inner = bus.subscribe(Ping, noop)
            await bus.publish(Ping())
            await bus.wait_idle()  # pytest keeps each line about what is released
            inner.cancel()

    async def main(cycles: int) -> None:
        with no_leaks():
            for _ in range(cycles):
                await cycle()

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    asyncio.run(main(20))
    before = objects(), open_files(), threading.active_count()
    cycles = 1000 if STRESS else 200
    asyncio.run(main(cycles))
    after = objects(), open_files(), threading.active_count()
    # Coverage's tracer keeps a few objects for each thread that it has seen.
    assert after[0] - before[0] < 200 + (5 * cycles if threading.gettrace() else 0)
    assert after[1:] == before[1:]
    assert bus.ledger.adds_up


@pytest.mark.promise("2")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("inside_the_loop", [True, False])
def test_a_forked_child_can_not_publish_into_its_copy(inside_the_loop: bool) -> None:
    """Nobody would handle it there: every use is a typed error, and the parent sees nothing."""
    bus = EventBus()
    recorder = Recorder()
    bus.subscribe(Ping, recorder)

    async def in_child() -> list[str]:
        return [
            type(await outcome(bus.publish(Ping(n=9)))).__name__,
            type(await outcome(bus.wait_idle())).__name__,
        ]

    def child(write: int) -> None:
        names: list[str] = []
        try:
            if inside_the_loop:
                coroutine = bus.publish(Ping(n=9))
                try:
                    coroutine.send(None)
                except BaseException as exc:  # noqa: BLE001 - reported to the parent
                    names.append(type(exc).__name__)
            else:
                names = asyncio.run(in_child())
            try:
                bus.publish_from_thread(Ping(n=9), timeout=5)
            except BaseException as exc:  # noqa: BLE001 - reported to the parent
                names.append(type(exc).__name__)
        finally:
            os.write(write, " ".join(names).encode())
            os._exit(0)

    async def main() -> str:
        async with bus:
            await bus.publish(Ping(n=1))
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                child(write)
            os.close(write)
            os.waitpid(pid, 0)  # noqa: ASYNC222 - the child runs by itself
            answer = os.read(read, 1000).decode()
            os.close(read)
            await bus.publish(Ping(n=2))
        return answer

    answer = asyncio.run(main())
    assert set(answer.split()) == {"WrongLoopError"}
    assert len(answer.split()) == (2 if inside_the_loop else 3)
    assert recorder.seen == [1, 2]
