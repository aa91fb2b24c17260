"""In whose context code runs that belongs to no handler: key functions, and the bus's own lines."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from eventflow import EventBus, Overflow, current
from eventflow.errors import NotInHandlerError
from eventflow.logging import add_event_context
from tests.unit.bus.support import Ping, Pong, Recorder, publish_all, turns

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.virtual_clock

user: contextvars.ContextVar[object] = contextvars.ContextVar("user")


@pytest.fixture
def structured() -> Iterator[list[dict[str, Any]]]:
    """What reaches a structlog that puts context on each line."""
    lines: list[dict[str, Any]] = []

    def keep(logger: Any, name: str, event_dict: Any) -> Any:
        lines.append({**event_dict, "user": user.get(None)})
        raise structlog.DropEvent

    structlog.configure(processors=[add_event_context, keep])
    yield lines
    structlog.reset_defaults()


@pytest.mark.fault("BUS-14")
async def test_a_key_function_runs_in_no_handlers_context(
    structured: list[dict[str, Any]],
) -> None:
    """It may log; it sees no event as current, and what it binds reaches no handler."""
    seen: list[object] = []

    def key(event: Ping) -> str:
        with pytest.raises(NotInHandlerError):
            current()
        seen.append(user.get(None))
        user.set(event.n)
        structlog.get_logger().info("key")
        if event.n == 2:
            raise ValueError("no key")
        return "k"

    async def handler(event: Ping) -> None:
        seen.append(user.get(None))
        assert current().event is event
        user.set("handler")

    async with EventBus() as bus:
        sub = bus.subscribe(Ping, handler, concurrency=2, order_key=key)
        events = [Ping(n=n) for n in range(4)]
        for event in events:
            await bus.publish(event)
        await bus.wait_idle()
        assert (sub.statistics().handled, sub.statistics().failed) == (3, 1)
    assert seen == [None] * 7
    (failed,) = [line for line in structured if line["event"] == "eventflow.key_failed"]
    assert failed["event_id"] == events[2].id
    assert failed.get("correlation_id") in (None, events[2].id)
    assert all("event_id" not in line for line in structured if line["event"] == "key")


async def test_between_two_events_none_is_current() -> None:
    """A finalizer that runs as a worker goes idle belongs to no event."""
    found: list[type] = []

    def gone() -> None:
        try:
            current()
        except NotInHandlerError as exc:
            found.append(type(exc))

    async def handler(event: Ping) -> None:
        weakref.finalize(event, gone)

    async with EventBus() as bus:
        bus.subscribe(Ping, handler)
        bus.publish_nowait(Ping())
        await bus.wait_idle()
        await turns()
        assert found == [NotInHandlerError]


@pytest.mark.fault("BUS-14")
@pytest.mark.parametrize("count", [1, 100], ids=["after a second", "when many are there"])
async def test_a_line_about_dropped_events_belongs_to_no_publisher(
    structured: list[dict[str, Any]], count: int
) -> None:
    """It lists events of many; the one that happened to write it leaves nothing on it."""
    async with EventBus() as bus:

        async def drops(event: Pong) -> None:
            user.set("alice")
            for n in range(count):
                bus.publish_nowait(Ping(n=n))

        gate = asyncio.Event()
        bus.subscribe(
            Ping, Recorder(gate=gate), name="full", capacity=1, overflow=Overflow.DROP_NEWEST
        )
        await publish_all(bus, range(2))
        await turns()
        bus.subscribe(Pong, drops)
        await bus.publish(Pong())
        await asyncio.sleep(2)
        gate.set()
    (line,) = [line for line in structured if line["event"] == "eventflow.events_dropped"]
    assert line["count"] >= count
    assert line["user"] is None
    assert not {"event_id", "correlation_id"} & line.keys()


async def test_what_a_handler_bound_is_not_kept(structured: list[dict[str, Any]]) -> None:
    """Neither by the worker that takes over, nor on the line when that one ends."""

    class Big:
        pass

    kept: list[weakref.ref[Big]] = []

    async def handler(event: Ping) -> None:
        if event.n == 0:
            big = Big()
            kept.append(weakref.ref(big))
            user.set(big)
        elif event.n == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    async with EventBus() as bus:
        sub = bus.subscribe(Ping, handler)
        await bus.publish(Ping(n=0))
        await bus.wait_idle()
        await turns()
        gc.collect()
        assert kept[0]() is None
        await bus.publish(Ping(n=1))
        await turns()
        assert sub.statistics().restarts == 1
    (line,) = [line for line in structured if line["event"] == "eventflow.worker_restarted"]
    assert line["user"] is None
    assert "event_id" not in line


class Evil:
    """A key that can't be compared with another."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Evil) and 2 in (self.n, other.n):
            raise ValueError("not comparable")
        return self is other


@pytest.mark.promise("7")
@pytest.mark.option("order_key")
async def test_a_key_that_can_not_be_compared() -> None:
    """Its event fails, counted; the worker goes on."""
    gate = asyncio.Event()

    async def handler(event: Ping) -> None:
        await gate.wait()

    async with EventBus() as bus:
        sub = bus.subscribe(Ping, handler, concurrency=3, order_key=lambda event: Evil(event.n))
        for n in range(5):
            await bus.publish(Ping(n=n))
            await turns()
            assert sub.statistics().adds_up
        gate.set()
        await bus.wait_idle()
        row = sub.statistics()
        assert (row.handled, row.failed, row.restarts) == (4, 1, 0)


def number(event: Ping) -> int:
    return event.n


@pytest.mark.promise("8")
@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.KEEP_LATEST])
async def test_a_log_processor_that_publishes_about_a_drop(overflow: Overflow) -> None:
    """The buffer stays within its capacity, and the counts add up."""
    most: list[int] = []
    async with EventBus() as bus:

        def announce(logger: Any, name: str, event_dict: Any) -> Any:
            if event_dict["event"] == "eventflow.events_dropped" and len(most) < 500:
                most.append(bus.statistics()["full"].buffered)
                assert bus.statistics().adds_up
                bus.publish_nowait(Ping(n=-len(most)))
                most.append(bus.statistics()["full"].buffered)
            raise structlog.DropEvent

        structlog.configure(processors=[announce])
        try:
            options: Any = {"latest_key": number} if overflow is Overflow.KEEP_LATEST else {}
            bus.subscribe(Ping, Recorder(), name="full", capacity=2, overflow=overflow, **options)
            for n in range(250):
                bus.publish_nowait(Ping(n=n))
                assert bus.statistics().adds_up
            await bus.wait_idle()
        finally:
            structlog.reset_defaults()
    assert most
    assert max(most) <= 2
