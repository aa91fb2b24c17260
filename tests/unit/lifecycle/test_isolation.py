"""Whatever a handler leaves behind keeps seeing the event it was started for."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Event, EventBus, current, publishing
from eventflow._cause import Attempt, current_cause
from eventflow.brokers.memory import MemoryBroker
from eventflow.lifecycle.isolation import tree_of
from eventflow.messaging import BrokerEventPublisher, Router

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from eventflow import EventPublisher
    from eventflow.context import EventContext

    Home = Callable[
        [Callable[["Step"], Awaitable[None]]], AbstractAsyncContextManager[EventPublisher]
    ]

EVENTS = 60

bound: contextvars.ContextVar[int] = contextvars.ContextVar("bound")


class Step(Event, topic="isolation.step"):
    """An event with a number."""

    number: int


Seen = list[tuple[int, int]]


class Somewhere:
    """Where an attempt runs."""

    bus = ""
    name = "somewhere"
    timeout = None


def cell_of(number: int) -> Attempt:
    return Attempt(Step(number=number), Somewhere(), 1, 0.0)


async def leaves_task(number: int, seen: Seen, gate: asyncio.Event) -> Any:
    async def child() -> None:
        await gate.wait()
        seen.append((number, _number(current())))

    return asyncio.ensure_future(child())


async def leaves_binding_task(number: int, seen: Seen, gate: asyncio.Event) -> Any:
    async def child() -> None:
        bound.set(number)  # the child's tree of values is now its own
        await gate.wait()
        seen.append((number, _number(current())))

    task = asyncio.ensure_future(child())
    await asyncio.sleep(0)
    return task


async def leaves_publishing_task(number: int, seen: Seen, gate: asyncio.Event) -> Any:
    async def child() -> None:
        with publishing(correlation_id=f"c-{number}"):
            await gate.wait()
            seen.append((number, _number(current())))
        seen.append((number, _number(current())))

    return asyncio.ensure_future(child())


async def leaves_callback(number: int, seen: Seen, gate: asyncio.Event) -> Any:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def callback(waited: asyncio.Task[Any]) -> None:
        seen.append((number, _number(current())))
        done.set_result(None)

    waiting = asyncio.ensure_future(gate.wait())
    waiting.add_done_callback(callback)
    return done


async def leaves_thread(number: int, seen: Seen, gate: asyncio.Event) -> Any:
    loop = asyncio.get_running_loop()
    done, started = loop.create_future(), threading.Event()
    context = contextvars.copy_context()

    def work() -> None:
        started.wait(10)
        seen.append((number, _number(context.run(current))))
        loop.call_soon_threadsafe(done.set_result, None)

    threading.Thread(target=work).start()

    async def release() -> None:
        await gate.wait()
        started.set()
        await done

    return asyncio.ensure_future(release())


async def leaves_copy_of_a_copy(number: int, seen: Seen, gate: asyncio.Event) -> Any:
    first = contextvars.copy_context()
    first.run(bound.set, number)
    second = first.copy()
    del first
    second.run(bound.set, -number)

    async def look() -> None:
        await gate.wait()
        seen.append((number, _number(second.run(current))))

    return asyncio.get_running_loop().create_task(look(), context=contextvars.Context())


@asynccontextmanager
async def on_bus(handler: Callable[[Step], Awaitable[None]]) -> AsyncGenerator[EventPublisher]:
    async with EventBus() as bus:
        bus.subscribe(Step, handler)
        yield bus


@asynccontextmanager
async def on_router(handler: Callable[[Step], Awaitable[None]]) -> AsyncGenerator[EventPublisher]:
    async with MemoryBroker() as broker:
        router = Router()
        router.add_handler("steps", Step, handler, subscriber=broker.subscriber(group="g"))
        async with router:
            yield BrokerEventPublisher(broker.publisher())


def _number(context: EventContext) -> int:
    assert isinstance(context.event, Step)
    return context.event.number


@pytest.mark.fault("BUS-13")
@pytest.mark.fault("BUS-14")
@pytest.mark.parametrize("home", [on_bus, on_router])
@pytest.mark.parametrize("variables", [0, 40], ids=["small context", "large context"])
@pytest.mark.parametrize(
    "leave",
    [
        leaves_task,
        leaves_binding_task,
        leaves_publishing_task,
        leaves_callback,
        leaves_thread,
        leaves_copy_of_a_copy,
    ],
)
@pytest.mark.parametrize("every", [1, 3, 20])
async def test_left_behind(
    leave: Callable[[int, Seen, asyncio.Event], Awaitable[Any]],
    every: int,
    variables: int,
    home: Home,
) -> None:
    """It sees its own event, however many came after; the handlers between see theirs."""
    others = [contextvars.ContextVar[int](f"other-{n}") for n in range(variables)]
    for other in others:
        other.set(1)
    seen: Seen = []
    own: Seen = []
    left: list[Any] = []
    gate, last = asyncio.Event(), asyncio.Event()

    async def handler(event: Step) -> None:
        own.append((event.number, _number(current())))
        if event.number % every == 0:
            left.append(await leave(event.number, seen, gate))
        own.append((event.number, _number(current())))
        if event.number == EVENTS - 1:
            last.set()

    async with home(handler) as publisher:
        for number in range(EVENTS):
            await publisher.publish(Step(number=number))
        await last.wait()
        gate.set()
        await asyncio.gather(*left)

    assert seen
    assert all(number == found for number, found in seen)
    assert {number for number, _ in seen} == set(range(0, EVENTS, every))
    assert own == [(n, n) for n in range(EVENTS) for _ in range(2)]


@pytest.mark.parametrize("home", [on_bus, on_router])
async def test_handlers_that_leave_nothing_share_a_cell(home: Home) -> None:
    """The point of it: plain handlers cost no new value of the variable."""
    cells: set[int] = set()
    kept: list[object] = []

    async def handler(event: Step) -> None:
        cells.add(id(current_cause.get()))

    async def watched(event: Step) -> None:
        kept.append(current_cause.get())

    async def main() -> None:
        for one in (handler, watched):
            async with home(one) as publisher:
                for number in range(EVENTS):
                    await publisher.publish(Step(number=number))

    # In a context with nothing else: another variable may share the cell's branch of the tree,
    # by chance of its hash, and then each event takes a new cell.
    await asyncio.get_running_loop().create_task(main(), context=contextvars.Context())

    assert len(cells) == 1
    assert len({id(cell) for cell in kept}) == EVENTS  # somebody held on to each of these


def test_tree() -> None:
    """Found where the cell hangs from the root; it and the cell count the copies."""
    cell = cell_of(0)
    context = contextvars.Context()
    context.run(current_cause.set, cell)

    tree = tree_of(context, cell)

    assert tree is not None
    referrers = len(gc.get_referrers(tree))
    copy = context.copy()
    assert len(gc.get_referrers(tree)) == referrers + 1
    assert tree_of(copy, cell) is tree
    copy.run(bound.set, 1)
    assert tree_of(copy, cell) is not tree
    assert tree_of(context, cell_of(0)) is None


def test_tree_of_a_large_context() -> None:
    """Not looked for below the root: there is no telling who shares a branch."""
    cell = cell_of(0)
    context = contextvars.Context()
    context.run(current_cause.set, cell)
    for number in range(40):
        context.run(contextvars.ContextVar[int](f"large-{number}").set, number)

    assert tree_of(context, cell) is None


def test_without_exact_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free-threaded builds and other interpreters take a new cell for each event."""
    cell = cell_of(0)
    context = contextvars.Context()
    context.run(current_cause.set, cell)
    monkeypatch.setattr("sys._is_gil_enabled", lambda: False, raising=False)

    assert tree_of(context, cell) is None


@pytest.mark.fault("BUS-14")
async def test_without_exact_counts_on_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower way isolates as well."""
    monkeypatch.setattr("sys._is_gil_enabled", lambda: False, raising=False)
    await test_left_behind(leaves_task, 1, 0, on_bus)
    await test_left_behind(leaves_binding_task, 3, 0, on_bus)
    await test_left_behind(leaves_binding_task, 3, 0, on_router)
