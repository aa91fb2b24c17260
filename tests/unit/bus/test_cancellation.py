"""Every public await of the bus, cancelled at each of its suspensions."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventflow.bus import EventBus, Overflow
from eventflow.errors import BufferFullError, BusClosedError, ResourceError
from eventflow.events import Event
from eventflow.failure import CallOnFailure, FailurePolicy
from eventflow.testing import cancel_rounds, no_leaks, run_virtual

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from eventflow.bus import Subscription
    from eventflow.testing import CancelOutcome, CancelRound

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"


class Tick(Event, topic="cancel.tick"):
    number: int


class Line:
    """Handlers that go on when their gate opens, and what they have handled."""

    def __init__(self, *names: str) -> None:
        self.gates = {name: asyncio.Event() for name in names}
        self.seen: dict[str, list[int]] = {name: [] for name in names}
        self.cut: dict[str, list[int]] = {name: [] for name in names}

    def subscribe(self, bus: EventBus, name: str, **options: Any) -> Subscription:
        async def handler(event: Tick) -> None:
            try:
                await self.gates[name].wait()
            except asyncio.CancelledError:
                self.cut[name].append(event.number)
                raise
            self.seen[name].append(event.number)

        return bus.subscribe(Tick, handler, name=name, **options)

    def open_all(self) -> None:
        for gate in self.gates.values():
            gate.set()


async def each_round(scenario: Callable[[CancelRound], Coroutine[Any, Any, Any]]) -> int:
    """Run a scenario with a fresh round each time, and look for leaks after each."""
    rounds = 0
    for current in cancel_rounds(max_steps=60):
        with no_leaks():
            await scenario(current)
        rounds += 1
    return rounds


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def not_swallowed(outcome: CancelOutcome[Any]) -> None:
    """Whoever was cancelled ends cancelled, in whatever moment it came."""
    if outcome.was_cancelled:
        assert outcome.status == "cancelled", outcome
    else:
        assert outcome.status == "returned", outcome


seeds = pytest.mark.parametrize("seed", [None, 1, 2, 3])


# ------------------------------------------------------------------------------- publish


@seeds
def test_publish_to_full_subscribers(seed: int | None) -> None:
    """Who has a copy keeps it, the others count it as rejected, and the next in line goes on."""

    async def scenario(current: CancelRound) -> None:
        line, loop = Line("roomy", "a", "b"), asyncio.get_running_loop()
        async with EventBus() as bus:
            line.subscribe(bus, "roomy", capacity=9)
            line.subscribe(bus, "a", capacity=1, block_timeout=50)
            line.subscribe(bus, "b", capacity=1, block_timeout=50)
            await bus.publish(Tick(number=0))
            await turns(2)
            await bus.publish(Tick(number=1))
            behind: list[asyncio.Task[None]] = []
            loop.call_later(
                0.5, lambda: behind.append(loop.create_task(bus.publish(Tick(number=3))))
            )
            loop.call_later(1, line.gates["a"].set)
            loop.call_later(2, line.gates["b"].set)
            loop.call_later(2, line.gates["roomy"].set)
            outcome = await current.run(bus.publish(Tick(number=2)))
            not_swallowed(outcome)
            assert bus.statistics().adds_up
            await asyncio.sleep(5)
            assert behind[0].done()
            assert behind[0].exception() is None
            assert sum(row.waiting for row in bus.statistics().subscriptions) == 0
        assert line.seen["roomy"] == [0, 1, 2, 3]
        for name in ("a", "b"):
            row = bus.ledger[name]
            assert line.seen[name] in ([0, 1, 2, 3], [0, 1, 3])
            assert row.rejected == (2 not in line.seen[name])
            assert row.offered == 4
            assert outcome.was_cancelled or not row.rejected

    assert run_virtual(lambda: each_round(scenario), seed=seed) >= 3


@seeds
@pytest.mark.parametrize("at", [0.5, 1.0, 1.5, 2.0, 2.5])
def test_publish_cancelled_between_two_places(at: float, seed: int | None) -> None:
    """One subscriber has made room and one has not: kept there, rejected here, never both."""

    async def main() -> None:
        line, loop = Line("a", "b"), asyncio.get_running_loop()
        with no_leaks():
            async with EventBus() as bus:
                line.subscribe(bus, "a", capacity=1, block_timeout=50)
                line.subscribe(bus, "b", capacity=1, block_timeout=50)
                await bus.publish(Tick(number=0))
                await turns(2)
                await bus.publish(Tick(number=1))
                loop.call_later(1, line.gates["a"].set)
                loop.call_later(2, line.gates["b"].set)
                publisher = loop.create_task(bus.publish(Tick(number=2)))
                loop.call_later(at, publisher.cancel)
                await asyncio.wait({publisher})
                assert publisher.cancelled() == (at <= 2) or at == 2.0
                await asyncio.sleep(5)
            for name, opens in (("a", 1.0), ("b", 2.0)):
                row = bus.ledger[name]
                kept = 2 in line.seen[name]
                assert row.rejected == (not kept)
                if at != opens:
                    assert kept == (at > opens)

    run_virtual(main, seed=seed)


def test_publish_that_is_a_checkpoint() -> None:
    """Cancelled in the checkpoint, the event has been offered all the same."""

    async def scenario(current: CancelRound) -> None:
        line = Line("a")
        line.open_all()
        async with EventBus() as bus:
            line.subscribe(bus, "a")

            async def many() -> None:
                for number in range(600):
                    await bus.publish(Tick(number=number))

            not_swallowed(await current.run(many()))
            assert bus.statistics().adds_up
        assert line.seen["a"] == list(range(bus.ledger["a"].offered))

    assert run_virtual(lambda: each_round(scenario)) >= 3


@pytest.mark.parametrize(
    "overflow", [Overflow.DROP_NEWEST, Overflow.DROP_OLDEST, Overflow.KEEP_LATEST]
)
def test_publish_that_lets_a_subscriber_run_before_it_drops(overflow: Overflow) -> None:
    """Cancelled before anything was dropped, the event counts as rejected."""

    async def scenario(current: CancelRound) -> None:
        line = Line("a")
        line.open_all()
        async with EventBus() as bus:
            await bus.publish(Tick(number=-1))  # the first call is a checkpoint; have it behind us
            line.subscribe(bus, "a", capacity=1, overflow=overflow)

            async def burst() -> None:
                for number in range(4):
                    await bus.publish(Tick(number=number))

            not_swallowed(await current.run(burst()))
            row = bus.statistics()["a"]
            assert row.adds_up
        row = bus.ledger["a"]
        assert row.offered == row.handled + row.dropped + row.rejected
        assert row.handled == len(line.seen["a"]) == len(set(line.seen["a"]))

    assert run_virtual(lambda: each_round(scenario)) >= 3


def test_publish_cancelled_as_the_stream_it_waits_for_is_left() -> None:
    """A stream that was left counts nothing more: no timer of its own comes after it."""

    async def main() -> None:
        async with EventBus() as bus:
            await bus.publish(Tick(number=-1))
            stream = bus.stream(Tick, name="s", capacity=1, overflow=Overflow.DROP_NEWEST)
            await stream.__aenter__()
            bus.publish_nowait(Tick(number=0))
            started: list[int] = []

            async def publish() -> None:
                started.append(1)
                await bus.publish(Tick(number=1))

            publisher = asyncio.ensure_future(publish())
            if not started:  # an eager task has begun by now
                await turns(1)
            # The publisher lets the stream's reader run before it drops.
            assert not publisher.done()
            with no_leaks():
                await stream.__aexit__(None, None, None)
                publisher.cancel()
                await asyncio.wait({publisher})
            assert publisher.cancelled()
        assert bus.ledger["s"].offered == 1

    run_virtual(main)


def test_the_turn_of_a_cancelled_publisher_passes_on() -> None:
    """Whoever of five is cancelled, at whatever moment: the four others come in their order."""

    async def main(cancelled: int, at: float) -> None:
        line, loop = Line("a"), asyncio.get_running_loop()
        with no_leaks():
            async with EventBus() as bus:
                line.subscribe(bus, "a", capacity=1, block_timeout=50)
                await bus.publish(Tick(number=100))
                await turns(2)
                await bus.publish(Tick(number=101))
                tasks = [loop.create_task(bus.publish(Tick(number=n))) for n in range(5)]
                loop.call_later(1, line.gates["a"].set)
                loop.call_later(at, tasks[cancelled].cancel)
                await asyncio.wait(tasks)
                kept = [n for n in range(5) if n != cancelled or not bus.statistics()["a"].rejected]
                assert [n for n, task in enumerate(tasks) if task.cancelled()] in ([cancelled], [])
                await bus.wait_idle()
            assert line.seen["a"] == [100, 101, *kept]

    for seed in range(4):
        for cancelled in range(5):
            for at in (0.5, 1.0):
                run_virtual(functools.partial(main, cancelled, at), seed=seed)


# ----------------------------------------------------------------------- entering, leaving


def resource(opened: Counter[str], name: str) -> Callable[[], Any]:
    @contextlib.asynccontextmanager
    async def open_it() -> AsyncGenerator[str]:
        await asyncio.sleep(1)
        opened[name] += 1
        try:
            yield name
        finally:
            await asyncio.sleep(0.5)
            opened[name] -= 1

    return open_it


def test_entering_with_resources() -> None:
    """Cancelled anywhere, what was opened is closed, and the bus can be entered again."""
    opened: Counter[str] = Counter()
    seen: list[str] = []

    async def handler(event: Tick, name: str) -> None:
        seen.append(name)

    async def scenario(current: CancelRound) -> None:
        bus = EventBus()
        for name in ("first", "second"):
            bus.subscribe(Tick, handler, name=name, resources=resource(opened, name))
        outcome = await current.run(bus.__aenter__())
        not_swallowed(outcome)
        if outcome.was_cancelled:
            assert bus.statistics().state == "closed"
            assert not opened.total()
            with pytest.raises(BusClosedError):
                await bus.publish(Tick(number=1))
            await bus.__aenter__()
        assert bus.statistics().state == "open"
        assert opened == {"first": 1, "second": 1}
        seen.clear()
        await bus.publish(Tick(number=1))
        await bus.__aexit__(None, None, None)
        assert sorted(seen) == ["first", "second"]
        assert not opened.total()

    assert run_virtual(lambda: each_round(scenario)) >= 3


@pytest.mark.parametrize("how", ["normally", "by an error"])
@pytest.mark.parametrize("stuck", [False, True])
@seeds
def test_leaving(how: str, stuck: bool, seed: int | None) -> None:
    """Cancelled anywhere in the drain, the bus is closed when it returns, and all is counted."""

    async def scenario(current: CancelRound) -> None:
        line, loop = Line("slow", "full"), asyncio.get_running_loop()
        opened: Counter[str] = Counter()
        bus = EventBus(drain_timeout=6, cancel_grace=2)

        async def with_resource(event: Tick, name: str) -> None:
            assert opened[name] == 1

        await bus.__aenter__()
        line.subscribe(bus, "slow", capacity=9)
        line.subscribe(bus, "full", capacity=1, block_timeout=50)
        held = bus.subscribe(Tick, with_resource, name="held", resources=resource(opened, "held"))
        await held.wait_ready()
        await bus.publish(Tick(number=0))
        await turns(2)
        await bus.publish(Tick(number=1))
        blocked = loop.create_task(bus.publish(Tick(number=2)))
        await turns(2)
        if not stuck:
            loop.call_later(1, line.gates["slow"].set)
            loop.call_later(2, line.gates["full"].set)
        began = loop.time()
        error = None if how == "normally" else LookupError("mine")
        outcome = await current.run(
            bus.__aexit__(None if error is None else LookupError, error, None)
        )
        not_swallowed(outcome)
        took = loop.time() - began
        assert took <= 9
        ledger = bus.ledger
        assert ledger.state == "closed"
        assert ledger.adds_up
        assert not opened.total()
        assert isinstance(await ended(blocked), BusClosedError)
        for name in ("slow", "full"):
            row = ledger[name]
            assert row.buffered == row.in_flight == row.waiting == row.abandoned == 0
            assert row.handled == len(line.seen[name])
            assert row.cancelled == len(line.cut[name])
            assert row.handled + row.cancelled + row.released == row.offered - row.rejected
        assert ledger["slow"].offered == ledger["full"].offered == 3
        assert ledger["full"].rejected == 1
        if how == "normally" and not outcome.was_cancelled and not stuck:
            assert ledger["slow"].handled == 3
            assert ledger["full"].handled == 2
        assert str(bus.ledger) == str(ledger)
        if not stuck:
            await asyncio.sleep(3)  # until the gates have opened

    assert run_virtual(lambda: each_round(scenario), seed=seed) >= 3


async def ended(task: asyncio.Task[Any]) -> BaseException | None:
    """What a task that is about to end raised."""
    await asyncio.wait({task})
    return task.exception()


@pytest.mark.parametrize("second_after", [0.0, 0.5, 1.0])
def test_leaving_cancelled_twice(second_after: float) -> None:
    """The first ends the drain; a second one changes nothing, and what refuses is abandoned."""

    async def main() -> None:
        async def stubborn(event: Tick) -> None:
            for _ in range(3):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(20)

        bus, loop = EventBus(drain_timeout=6, cancel_grace=2), asyncio.get_running_loop()
        await bus.__aenter__()
        bus.subscribe(Tick, stubborn, name="stubborn")
        await bus.publish(Tick(number=1))
        await turns(2)
        leaving = loop.create_task(bus.__aexit__(None, None, None))
        await asyncio.sleep(1)
        began = loop.time()
        leaving.cancel()
        loop.call_later(second_after, leaving.cancel)
        await asyncio.wait({leaving})
        assert leaving.cancelled()
        assert loop.time() - began <= 3
        assert bus.ledger["stubborn"].abandoned == 1
        assert len(bus.ledger.abandoned) == 1
        await asyncio.sleep(100)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


@pytest.mark.parametrize("where", ["handler", "callback"])
@pytest.mark.parametrize("then", ["returns", "raises"])
def test_what_was_abandoned_counts_nothing_more(where: str, then: str) -> None:
    """A handler or failure callback that ends after the stop finds the counts final."""

    async def main() -> None:
        async def refuse() -> None:
            for _ in range(3):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(20)
            if then == "raises":
                raise LookupError("late")

        async def handler(event: Tick) -> None:
            if where == "handler":
                await refuse()
            raise LookupError("mine")

        async def callback(event: Event, error: BaseException, attempts: int) -> None:
            await refuse()

        async with EventBus(drain_timeout=1, cancel_grace=1) as bus:
            bus.subscribe(
                Tick, handler, name="a", on_failure=FailurePolicy(then=CallOnFailure(callback))
            )
            await bus.publish(Tick(number=1))
        ledger = bus.ledger
        assert (ledger["a"].abandoned, ledger["a"].failed) == (1, 0)
        assert ledger.adds_up
        await asyncio.sleep(100)
        assert len(asyncio.all_tasks()) == 1
        assert bus.ledger == ledger

    run_virtual(main)


def test_leaving_in_an_anyio_scope_that_is_cancelled() -> None:
    """A scope cancels at every await; the stop takes it as one cancellation, and ends."""

    async def main() -> None:
        line, loop = Line("a"), asyncio.get_running_loop()
        with no_leaks():
            bus = EventBus(drain_timeout=6, cancel_grace=2)
            with anyio.move_on_after(1) as scope:
                async with bus:
                    line.subscribe(bus, "a")
                    await bus.publish(Tick(number=1))
            assert scope.cancelled_caught
            assert loop.time() == 1
            assert bus.ledger["a"].cancelled == 1

    run_virtual(main)


# ---------------------------------------------------------------------------- subscription


@pytest.mark.parametrize("drain", [True, False])
@seeds
def test_closing_a_subscription(drain: bool, seed: int | None) -> None:
    """Cancelled anywhere, it has ended when it returns, and nothing else on the bus has."""

    async def scenario(current: CancelRound) -> None:
        line, loop = Line("ends", "stays"), asyncio.get_running_loop()
        opened: Counter[str] = Counter()
        async with EventBus(drain_timeout=6, cancel_grace=2) as bus:
            ends = line.subscribe(bus, "ends", capacity=1, block_timeout=50)
            line.subscribe(bus, "stays")
            await bus.publish(Tick(number=0))
            await turns(2)
            await bus.publish(Tick(number=1))
            blocked = loop.create_task(bus.publish(Tick(number=2)))
            await turns(2)
            loop.call_later(1, line.open_all)
            outcome = await current.run(ends.aclose(drain=drain))
            not_swallowed(outcome)
            assert ends.closed
            row = ends.statistics()
            assert row.adds_up
            assert row.buffered == row.in_flight == row.waiting == 0
            assert row.handled == len(line.seen["ends"])
            assert row.cancelled == len(line.cut["ends"])
            assert row.offered == 3  # the one that waited for room ends with it
            assert await ended(blocked) is None
            await bus.publish(Tick(number=3))
            await asyncio.sleep(2)
            assert line.seen["stays"] == [0, 1, 2, 3]
            assert bus.ledger["ends"] == row
        assert not opened.total()

    assert run_virtual(lambda: each_round(scenario), seed=seed) >= 3


def test_closing_a_subscription_whose_resource_hangs() -> None:
    """The resource's own clean-up is given up in time, whatever cancels the caller."""

    @contextlib.asynccontextmanager
    async def hangs() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1000)

    async def handler(event: Tick, value: int) -> None: ...

    async def scenario(current: CancelRound) -> None:
        loop = asyncio.get_running_loop()
        async with EventBus(drain_timeout=6, cancel_grace=2) as bus:
            subscription = bus.subscribe(Tick, handler, resources=hangs)
            await subscription.wait_ready()
            began = loop.time()
            not_swallowed(await current.run(subscription.aclose()))
            assert loop.time() - began <= 9
            assert subscription.closed

    assert run_virtual(lambda: each_round(scenario)) >= 3


def test_waiting_until_a_subscription_is_ready() -> None:
    """A cancelled wait disturbs neither the resource nor another that waits."""

    async def scenario(current: CancelRound) -> None:
        opened: Counter[str] = Counter()

        async def handler(event: Tick, name: str) -> None: ...

        async with EventBus() as bus:
            subscription = bus.subscribe(Tick, handler, resources=resource(opened, "r"))
            other = asyncio.ensure_future(subscription.wait_ready())
            not_swallowed(await current.run(subscription.wait_ready()))
            await other
            assert opened["r"] == 1
        assert not opened.total()

    assert run_virtual(lambda: each_round(scenario)) == 3


def test_waiting_for_a_resource_that_fails() -> None:
    """The error reaches whoever waits, and a cancelled one hears of the cancellation alone."""

    @contextlib.asynccontextmanager
    async def fails() -> AsyncGenerator[int]:
        await asyncio.sleep(1)
        raise LookupError("mine")
        yield 1  # makes it a generator

    async def handler(event: Tick, value: int) -> None: ...

    async def scenario(current: CancelRound) -> None:
        async with EventBus() as bus:
            subscription = bus.subscribe(Tick, handler, resources=fails)
            outcome = await current.run(subscription.wait_ready())
            if outcome.was_cancelled:
                assert outcome.status == "cancelled"
            else:
                assert isinstance(outcome.error, ResourceError)
            with pytest.raises(ResourceError):
                await subscription.wait_ready()

    assert run_virtual(lambda: each_round(scenario)) == 3


def test_waiting_until_idle() -> None:
    """A cancelled wait leaves nothing behind, however often it is tried on a busy bus."""

    async def scenario(current: CancelRound) -> None:
        line, loop = Line("a", "b"), asyncio.get_running_loop()
        async with EventBus() as bus:
            line.subscribe(bus, "a")
            line.subscribe(bus, "b")
            await bus.publish(Tick(number=1))
            loop.call_later(1, line.gates["a"].set)
            loop.call_later(2, line.gates["b"].set)
            outcome = await current.run(bus.wait_idle())
            not_swallowed(outcome)
            if outcome.status == "returned":
                assert loop.time() >= 2
            await asyncio.sleep(3)
            assert line.seen == {"a": [1], "b": [1]}

    assert run_virtual(lambda: each_round(scenario)) >= 3


def test_waits_until_idle_that_were_given_up_do_not_add_up() -> None:
    """A busy bus that is asked again and again holds nothing of the earlier waits."""

    async def main() -> None:
        line = Line("a")
        async with EventBus() as bus:
            line.subscribe(bus, "a")
            await bus.publish(Tick(number=1))
            gc.collect()
            before = sum(type(thing) is asyncio.Future for thing in gc.get_objects())
            for _ in range(100):
                with anyio.move_on_after(0.001):
                    await bus.wait_idle()
            gc.collect()
            after = sum(type(thing) is asyncio.Future for thing in gc.get_objects())
            assert after - before < 10
            line.open_all()

    run_virtual(main)


def test_waiting_for_an_event() -> None:
    """Cancelled anywhere, the wait is subscribed no longer."""

    async def scenario(current: CancelRound) -> None:
        loop = asyncio.get_running_loop()
        async with EventBus() as bus:
            for number in range(4):
                loop.call_later(1 + number, bus.publish_nowait, Tick(number=number))
            outcome = await current.run(
                bus.wait_for(Tick, where=lambda event: event.number == 2, timeout=50)
            )
            not_swallowed(outcome)
            if outcome.result is not None:
                assert outcome.result.number == 2
            (row,) = bus.statistics().subscriptions
            assert row.adds_up
            assert row.buffered == row.in_flight == 0
            await asyncio.sleep(5)
            assert bus.statistics().subscriptions == (row,)

    assert run_virtual(lambda: each_round(scenario)) >= 5


# --------------------------------------------------------------------- receiving (BUS-08)


@pytest.mark.fault("BUS-08")
@seeds
def test_a_stream_cancelled_while_it_receives(seed: int | None) -> None:
    """The event is with the reader, or the next to be read; a waiting publisher comes after it."""

    async def scenario(current: CancelRound) -> None:
        loop = asyncio.get_running_loop()
        async with EventBus() as bus:
            async with bus.stream(Tick, name="s", capacity=1) as events:

                async def two() -> None:
                    await bus.publish(Tick(number=0))
                    await bus.publish(Tick(number=1))

                publisher: list[asyncio.Task[None]] = []
                loop.call_later(1, lambda: publisher.append(loop.create_task(two())))
                outcome = await current.run(anext(events))
                not_swallowed(outcome)
                got = [] if outcome.result is None else [outcome.result.number]
                while len(got) < 2:
                    got.append((await anext(events)).number)
                assert got == [0, 1]
                await asyncio.wait(publisher)
                assert bus.statistics()["s"].adds_up
            assert bus.ledger["s"].handled == 2

    assert run_virtual(lambda: each_round(scenario), seed=seed) == 3


@pytest.mark.promise("2")
@pytest.mark.parametrize("how", ["cancelled", "abandoned"])
def test_what_a_stream_was_reading_is_named(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Cut in the reader's hands, or never given back: counted, and logged with its id."""
    event = Tick(number=1)

    async def main() -> None:
        async def read() -> None:
            async with bus.stream(Tick, name="s") as events:
                await anext(events)
                await asyncio.sleep(1000)

        async with EventBus(drain_timeout=1, cancel_grace=1) as bus:
            reader = asyncio.ensure_future(read())
            await turns(1)
            await bus.publish(event)
            await turns(2)
            if how == "cancelled":
                reader.cancel()
                await asyncio.wait({reader})
        assert getattr(bus.ledger["s"], how) == 1
        reader.cancel()
        await asyncio.wait({reader})
        assert bus.ledger.adds_up

    run_virtual(main)
    (record,) = caplog.records
    assert event.id in record.message
    assert "subscription='s'" in record.message


@pytest.mark.fault("BUS-08")
@pytest.mark.stress
@pytest.mark.timeout(1800 if STRESS else 60)
@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("keyed", [False, True])
def test_workers_cancelled_at_every_point_around_receiving(concurrency: int, keyed: bool) -> None:
    """An event that no handler saw begin is still handled; one that was cut is counted as such."""
    points = 7
    repeats = 100_000 // (4 * points) if STRESS else 30

    async def main() -> None:
        handled: Counter[int] = Counter()
        cut: Counter[int] = Counter()
        workers: set[asyncio.Task[Any]] = set()

        async def handler(event: Tick) -> None:
            task = asyncio.current_task()
            assert task is not None
            workers.add(task)
            try:
                for _ in range(event.number % 3):
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                cut[event.number] += 1
                raise
            handled[event.number] += 1

        def parity(event: Tick) -> int:
            return event.number % 2

        options: dict[str, Any] = {"order_key": parity} if keyed else {}
        with no_leaks():
            async with EventBus() as bus:
                bus.subscribe(
                    Tick, handler, name="a", capacity=2, concurrency=concurrency, **options
                )
                number = 0
                for _ in range(repeats):
                    for point in range(points):
                        publishers = [
                            asyncio.ensure_future(bus.publish(Tick(number=number + n)))
                            for n in range(3)
                        ]
                        number += 3
                        await turns(point)
                        for worker in tuple(workers):
                            worker.cancel()
                        workers.clear()
                        await asyncio.wait(publishers)
                        await bus.wait_idle()
                row = bus.statistics()["a"]
        assert row.adds_up
        assert row.offered == number
        assert row.restarts > 0
        assert (row.handled, row.cancelled) == (handled.total(), cut.total())
        assert Counter(range(number)) == handled + cut

    run_virtual(main)


@pytest.mark.fault("BUS-08")
@pytest.mark.stress
@pytest.mark.timeout(1800 if STRESS else 60)
def test_streams_cancelled_at_every_point_around_receiving() -> None:
    """However a cancellation and an event fall together, each is read once, in order."""
    repeats = 25_000 if STRESS else 400

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with no_leaks():
            async with EventBus() as bus, bus.stream(Tick, name="s", capacity=2) as events:
                got: list[int] = []
                for number in range(repeats):
                    reader: asyncio.Task[Any] = loop.create_task(events.__anext__())
                    calls: list[Callable[[], object]] = [
                        functools.partial(bus.publish_nowait, Tick(number=number)),
                        reader.cancel,
                    ]
                    if number % 2:
                        calls.reverse()
                    for place, call in enumerate(calls):
                        for _ in range(number // 2 % 3 * place):
                            await asyncio.sleep(0)
                        call()
                        if number % 5 == 0:
                            await asyncio.sleep(0)
                    await asyncio.wait({reader})
                    if not reader.cancelled():
                        got.append(reader.result().number)
                    if number % 2:
                        got.append((await anext(events)).number) if len(got) <= number else None
                    elif reader.cancelled():
                        got.append((await anext(events)).number)
                assert got == list(range(repeats))
                assert bus.statistics()["s"].adds_up

    run_virtual(main)


# ----------------------------------------------------------------------- while it is full


def test_a_publisher_waits_no_longer_than_it_has_to() -> None:
    """An event whose key function fails leaves its place, and whoever waited for it has it."""

    async def main() -> None:
        seen: list[int] = []

        async def handler(event: Tick) -> None:
            seen.append(event.number)

        def key(event: Tick) -> int:
            if event.number == 0:
                raise LookupError("no key")
            return event.number

        loop = asyncio.get_running_loop()
        with no_leaks():
            async with EventBus() as bus:
                bus.subscribe(Tick, handler, name="a", capacity=1, concurrency=2, order_key=key)
                publishers = [loop.create_task(bus.publish(Tick(number=n))) for n in range(3)]
                await asyncio.wait(publishers)
                assert loop.time() == 0
                assert [task.exception() for task in publishers] == [None] * 3
                await bus.wait_idle()
            assert seen == [1, 2]
            assert bus.ledger["a"].failed == 1

    run_virtual(main)


def test_a_task_of_a_handler_does_not_wait_for_room_beyond_the_stop() -> None:
    """Cancelling the handler does not reach a task that it started; the stop refuses its publish.

    Else it would wait until block_timeout, and be counted when the counts are final.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        publishing: list[asyncio.Task[None]] = []

        async def handler(event: Tick) -> None:
            await asyncio.sleep(0.1)  # by then the buffer is full
            publishing.append(loop.create_task(bus.publish(Tick(number=2))))
            await asyncio.sleep(1000)

        with no_leaks():
            async with EventBus(drain_timeout=1, cancel_grace=1) as bus:
                bus.subscribe(Tick, handler, name="a", capacity=1, block_timeout=50, timeout=None)
                bus.publish_nowait(Tick(number=0))
                await turns(3)
                bus.publish_nowait(Tick(number=1))
                await asyncio.sleep(0.2)
                assert bus.statistics()["a"].waiting == 1
            ledger = bus.ledger
            assert isinstance(await ended(publishing[0]), BusClosedError)
            assert loop.time() < 3
        assert (ledger["a"].rejected, ledger["a"].waiting) == (1, 0)
        assert ledger["a"].adds_up
        assert bus.ledger == ledger

    run_virtual(main)


def test_block_timeout_is_exact_for_each_place_in_line() -> None:
    """Each waits its own time, not that of those before it."""

    async def main() -> None:
        line, loop = Line("a"), asyncio.get_running_loop()
        ends: list[float] = []

        async def publish(number: int) -> None:
            with pytest.raises(BufferFullError) as caught:
                await bus.publish(Tick(number=number))
            assert caught.value.waited_s == 5
            ends.append(loop.time())

        with no_leaks():
            async with EventBus() as bus:
                line.subscribe(bus, "a", capacity=1, timeout=None)
                await bus.publish(Tick(number=0))
                await turns(2)
                await bus.publish(Tick(number=1))
                tasks: list[asyncio.Task[None]] = []
                for number in range(3):
                    tasks.append(loop.create_task(publish(number)))
                    await asyncio.sleep(1)
                assert bus.statistics()["a"].waiting == 3
                await asyncio.wait(tasks)
                assert ends == [5, 6, 7]
                assert bus.statistics()["a"].rejected == 3
                line.open_all()

    run_virtual(main)
