"""Events as an async iterator, and waiting for one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventflow.bus import EventBus, Overflow
from eventflow.errors import BusClosedError, BusError, BusNotEnteredError, InvalidOptionError
from eventflow.testing import cancel_rounds, run_virtual
from tests.unit.bus.support import Ping, Pong, lines, now, outcome, publish_all, turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    async with EventBus() as bus:
        yield bus
    assert bus.ledger.adds_up


class ReadError(Exception):
    pass


async def test_a_stream_gives_events_in_order(bus: EventBus) -> None:
    """From entering the block on; what was taken and gone on from counts as handled."""
    await bus.publish(Ping(n=-1))
    async with bus.stream(Ping) as events:
        await publish_all(bus, range(5))
        seen: list[int] = []
        async for event in events:
            seen.append(event.n)
            row = bus.statistics()["stream(Ping)"]
            assert (row.handled, row.in_flight) == (event.n, 1)
            assert row.adds_up
            if event.n == 4:
                break
    assert seen == [0, 1, 2, 3, 4]
    row = bus.statistics()["stream(Ping)"]
    assert (row.handled, row.in_flight, row.released) == (5, 0, 0)


async def test_what_is_left_in_a_stream_is_released(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted and logged with its id."""
    event = Ping(n=1)
    async with bus.stream(Ping, name="s") as events:
        await bus.publish(Ping(n=0))
        await bus.publish(event)
        await anext(events)
    row = bus.statistics()["s"]
    assert (row.handled, row.released) == (1, 1)
    assert event.id in "".join(lines(caplog, "events_released"))


@pytest.mark.parametrize("how", ["normal", "error", "cancelled"])
async def test_how_the_block_is_left_decides_over_the_event_in_hand(
    bus: EventBus, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Handled, failed (logged) or cancelled."""
    event = Ping()

    async def read() -> None:
        async with bus.stream(Ping, name="s") as events:
            await bus.publish(event)
            async for _ in events:
                if how == "error":
                    raise ReadError
                if how == "cancelled":
                    await asyncio.sleep(1000)
                return

    task = asyncio.ensure_future(read())
    await turns()
    task.cancel()
    await asyncio.wait([task])
    row = bus.statistics()["s"]
    assert (row.handled, row.failed, row.cancelled) == (
        how == "normal",
        how == "error",
        how == "cancelled",
    )
    if how != "normal":
        what = "handler_failed" if how == "error" else "handler_cancelled"
        assert event.id in "".join(lines(caplog, what))
    if how == "error":
        assert isinstance(task.exception(), ReadError)


@pytest.mark.promise("7")
async def test_a_stream_ends_when_the_bus_stops() -> None:
    """What is buffered is still delivered while the bus drains."""
    bus = EventBus(drain_timeout=20)
    seen: list[int] = []
    ended: list[float] = []

    async def read() -> None:
        async with bus.stream(Ping, name="s") as events:
            async for event in events:
                await asyncio.sleep(1)
                seen.append(event.n)
            ended.append(now())

    async with bus:
        task = asyncio.ensure_future(read())
        await turns()
        await publish_all(bus, range(4))
    await task
    assert seen == [0, 1, 2, 3]
    assert ended == [4]
    assert bus.ledger["s"].handled == 4


@pytest.mark.promise("2")
async def test_a_reader_that_does_not_come_back_in_time_is_abandoned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The event in its hands is abandoned, what is buffered released; both are logged."""
    bus = EventBus(drain_timeout=2, cancel_grace=1)
    go = asyncio.Event()

    async def read() -> list[int]:
        seen: list[int] = []
        async with bus.stream(Ping, name="s") as events:
            async for event in events:
                await go.wait()
                seen.append(event.n)
        return seen

    events = [Ping(n=n) for n in range(3)]
    async with bus:
        task = asyncio.ensure_future(read())
        await turns()
        for event in events:
            await bus.publish(event)
    row = bus.ledger["s"]
    assert (row.abandoned, row.released, row.offered) == (1, 2, 3)
    assert now() <= 4
    go.set()
    assert await task == [0]
    assert bus.ledger["s"] == row
    assert events[0].id in caplog.text
    assert all(event.id in "".join(lines(caplog, "events_released")) for event in events[1:])


async def test_a_stream_follows_an_overflow_policy(bus: EventBus) -> None:
    """Streams have no workers, but all the policies."""
    async with bus.stream(Ping, name="s", capacity=2, overflow=Overflow.DROP_OLDEST) as events:
        await publish_all(bus, range(10))
        assert bus.statistics()["s"].dropped == 8
        assert [(await anext(events)).n for _ in range(2)] == [8, 9]


async def test_a_blocked_publisher_goes_on_as_the_stream_reads(bus: EventBus) -> None:
    """And when the block is left."""
    async with bus.stream(Ping, capacity=1) as events:
        task = asyncio.ensure_future(publish_all(bus, range(3)))
        await turns()
        assert not task.done()
        assert (await anext(events)).n == 0
        assert (await anext(events)).n == 1
        await task
        blocked = asyncio.ensure_future(bus.publish(Ping(n=3)))
        await turns()
        assert not blocked.done()
    await blocked


async def test_misuse_of_a_stream(bus: EventBus) -> None:
    """Typed errors: not entered, entered twice, read by two, a bus that is closed."""
    stream = bus.stream(Ping)
    with pytest.raises(BusNotEnteredError):
        await anext(stream)
    async with stream as events:
        first = asyncio.ensure_future(anext(events))
        await turns()
        with pytest.raises(BusError, match="one task at a time"):
            await anext(events)
        first.cancel()
        await asyncio.wait([first])
        await bus.publish(Ping(n=5))
        assert (await anext(events)).n == 5
    with pytest.raises(BusError, match="entered once"):
        await stream.__aenter__()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    with pytest.raises(BusNotEnteredError):
        await EventBus().stream(Ping).__aenter__()
    with pytest.raises(InvalidOptionError, match="concurrency"):
        bus.stream(Ping, concurrency=2)  # type: ignore[call-overload]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_cancelling_a_read_at_any_point_loses_nothing(count: int) -> None:
    """The event is in the reader's hands or still in the buffer."""

    async def main() -> None:
        for cancelled in cancel_rounds():
            async with EventBus() as bus, bus.stream(Ping) as events:
                task = asyncio.ensure_future(publish_all(bus, range(count)))
                got = await cancelled.run(events.__anext__())
                await task
                row = bus.statistics()["stream(Ping)"]
                assert row.offered == count
                assert row.buffered == count - (got.status == "returned")
                assert row.in_flight == (got.status == "returned")

    run_virtual(main)


# --------------------------------------------------------------------------- wait_for


async def test_wait_for_an_event(bus: EventBus) -> None:
    """The first that fits; those published before do not count."""
    await bus.publish(Ping(n=3))
    waiting = asyncio.ensure_future(
        bus.wait_for(Ping, where=lambda event: event.n >= 3, timeout=10)
    )
    await turns()
    await publish_all(bus, range(6))
    assert (await waiting).n == 3
    pattern = asyncio.ensure_future(bus.wait_for("test.*", timeout=None))
    await turns()
    await bus.publish(Pong(n=8))
    assert isinstance(await pattern, Pong)


async def test_wait_for_times_out(bus: EventBus) -> None:
    """TimeoutError, exactly then; nothing stays subscribed."""
    with pytest.raises(TimeoutError):
        await bus.wait_for(Ping, timeout=7)
    assert now() == 7
    await bus.publish(Ping())
    assert bus.statistics().total.offered == 0


async def test_wait_for_ends_with_the_bus() -> None:
    """BusClosedError when the bus stops first."""
    async with EventBus() as bus:
        waiting = asyncio.ensure_future(outcome(bus.wait_for(Ping, timeout=None)))
        await turns()
    assert isinstance(await waiting, BusClosedError)


async def test_wait_for_whose_condition_raises(bus: EventBus) -> None:
    """The error comes out; the event counts as failed there."""

    def where(event: Ping) -> bool:
        raise ReadError

    waiting = asyncio.ensure_future(outcome(bus.wait_for(Ping, where=where, timeout=5)))
    await turns()
    await bus.publish(Ping())
    assert isinstance(await waiting, ReadError)
    assert bus.statistics().total.failed == 1


async def test_many_short_lived_members_are_summed_up(bus: EventBus) -> None:
    """The ledger keeps 1,000 rows of what ended, and one for all before."""
    for n in range(1100):
        async with bus.stream(Ping) as events:
            bus.publish_nowait(Ping(n=n))
            await anext(events)
    rows = bus.statistics().subscriptions
    assert len(rows) == 1001
    assert rows[-1].name == "(ended)"
    assert rows[-1].handled == 100
    assert bus.statistics().total.handled == 1100
    assert bus.statistics().adds_up


async def test_wait_idle_waits_for_what_handlers_publish(bus: EventBus) -> None:
    """And for a reader that has an event in hand."""
    seen: list[int] = []

    async def chain(event: Ping) -> None:
        await asyncio.sleep(1)
        seen.append(event.n)
        if event.n < 5:
            await bus.publish(Ping(n=event.n + 1))

    bus.subscribe(Ping, chain)
    await bus.wait_idle()
    await bus.publish(Ping())
    await bus.wait_idle()
    assert seen == [0, 1, 2, 3, 4, 5]
    assert now() == 6


async def test_a_generator_around_a_stream_that_is_closed() -> None:
    """Closing it leaves the stream as a break does: the event it gave away is handled."""

    async def numbers(bus: EventBus) -> AsyncGenerator[int]:
        async with bus.stream(Ping) as events:
            async for event in events:
                yield event.n

    async with EventBus() as bus:
        generator = numbers(bus)
        first = asyncio.ensure_future(anext(generator))
        await turns(2)
        await bus.publish(Ping(n=7))
        assert await first == 7
        await generator.aclose()

    row = bus.ledger["stream(Ping)"]
    assert (row.handled, row.failed) == (1, 0)


async def test_default_names_of_many_streams() -> None:
    """Each finds a free one, a free default first; the numbers do not start over each time."""
    async with EventBus() as bus:
        async with bus.stream(Ping) as first, bus.stream(Ping) as second, bus.stream(Ping) as third:
            names = [stream.inbox.name for stream in (first, second, third)]
        async with bus.stream(Ping) as again:
            names.append(again.inbox.name)

    assert names == ["stream(Ping)", "stream(Ping)-2", "stream(Ping)-3", "stream(Ping)"]
