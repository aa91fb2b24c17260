"""Ways to bring an event from a publisher to a handler: ours, the baseline, and the others.

Each runs ``deliveries`` events, made beforehand, through one publisher, and returns the
seconds from the first publish to the end of the last handler. Setting up and taking down is
not timed. The handler is the same coroutine function for all of them.
"""

# The others are installed for measuring alone; without them what they give is of unknown type.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any, cast

import anyio

from eventflow import Event, EventBus

__all__ = (
    "CAPACITY",
    "Ping",
    "anyio_stream",
    "blinker",
    "bubus",
    "direct",
    "ours",
    "pings",
    "pyee",
    "queue",
    "run",
)

CAPACITY = 1024

Handler = Callable[[Any], Awaitable[None]]


class Ping(Event, topic="bench.ping"):
    """A small event."""

    order_id: str
    amount_cents: int


async def handle(event: object) -> None:
    """Do nothing: what is measured is the way to here."""


def pings(number: int) -> list[Ping]:
    return [Ping(order_id="A-1", amount_cents=i) for i in range(number)]


def run(main: Coroutine[Any, Any, float]) -> float:
    """Run on a loop of its own: asyncio's default one."""
    with asyncio.Runner() as runner:
        return runner.run(main)


async def direct(events: Sequence[object]) -> float:
    """``await handle(event)`` in a loop: no buffer, no second task, no isolation."""
    began = perf_counter()
    for event in events:
        await handle(event)
    return perf_counter() - began


async def queue(events: Sequence[object], subscribers: int = 1) -> float:
    """The baseline: an `asyncio.Queue` and a task for each subscriber."""
    queues = [asyncio.Queue[object](maxsize=CAPACITY) for _ in range(subscribers)]

    async def consume(queue: asyncio.Queue[object]) -> None:
        for _ in events:
            event = await queue.get()
            await handle(event)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(consume(queue)) for queue in queues]
        await asyncio.sleep(0)
        began = perf_counter()
        if subscribers == 1:
            (only,) = queues
            for event in events:
                await only.put(event)
        else:
            for event in events:
                for queue in queues:
                    await queue.put(event)
        await asyncio.wait(tasks)
        return perf_counter() - began


async def ours(
    events: Sequence[Any],
    subscribers: int = 1,
    *,
    bus_class: type[EventBus] = EventBus,
    event_class: type[Event] = Ping,
    **options: Any,
) -> float:
    """A bus with every default on; its capacity is the baseline's."""
    async with bus_class() as bus:
        for _ in range(subscribers):
            bus.subscribe(event_class, handle, **options)
        await asyncio.sleep(0)
        began = perf_counter()
        for event in events:
            await bus.publish(event)
        await bus.wait_idle()
        took = perf_counter() - began
    handled = bus.ledger.total.handled
    assert handled == len(events) * subscribers, bus.ledger
    return took


async def anyio_stream(events: Sequence[object]) -> float:
    """A memory object stream with the same capacity, and one task."""
    ended = anyio.Event()
    send, receive = anyio.create_memory_object_stream[object](CAPACITY)

    async def consume() -> None:
        async with receive:
            async for event in receive:
                await handle(event)
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await asyncio.sleep(0)
        began = perf_counter()
        async with send:
            for event in events:
                await send.send(event)
        await ended.wait()
        return perf_counter() - began
    raise AssertionError("the group swallowed an error")


async def bubus(events: Sequence[object]) -> float:
    """bubus: as many in flight as it takes (100, less one round), then waiting until it is idle.

    Its event models are its own, so they are made beforehand by `bubus_events`.
    """
    from bubus import EventBus as Bubus

    bus = Bubus(name="Bench")
    bus.on("BubusPing", handle)
    began = perf_counter()
    for start in range(0, len(events), 50):
        for event in events[start : start + 50]:
            bus.dispatch(cast("Any", event))
        await bus.wait_until_idle()
    took = perf_counter() - began
    await bus.stop(timeout=0, clear=True)
    return took


def bubus_events(number: int) -> list[Any]:
    from bubus import BaseEvent

    class BubusPing(BaseEvent[None]):  # type: ignore[misc]
        order_id: str
        amount_cents: int

    return [BubusPing(order_id="A-1", amount_cents=i) for i in range(number)]


async def pyee(events: Sequence[object]) -> float:
    """Pyee's asyncio emitter makes a task for every call of an async handler.

    It has no buffer and no backpressure: here the publisher lets the tasks run after every
    1024 events by itself.
    """
    from pyee.asyncio import AsyncIOEventEmitter

    emitter = AsyncIOEventEmitter()
    emitter.add_listener("ping", handle)
    began = perf_counter()
    for start in range(0, len(events), CAPACITY):
        for event in events[start : start + CAPACITY]:
            emitter.emit("ping", event)
        await emitter.wait_for_complete()
    return perf_counter() - began


async def blinker(events: Sequence[object]) -> float:
    """Blinker calls its receivers one after another and waits for each: no buffer, no task."""
    from blinker import Signal

    signal = Signal()
    signal.connect(handle)
    began = perf_counter()
    for event in events:
        await signal.send_async(event)
    return perf_counter() - began
