"""That the build which is measured keeps BUS-13 and BUS-14: nothing was left out to be fast."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from eventflow import EventBus, current
from tests.bench.contenders import Ping, pings
from tests.bench.harness import Figure, Settings

__all__ = ("isolation",)

_bound: ContextVar[int | None] = ContextVar("bound", default=None)


async def _binding(number: int) -> int:
    """BUS-13: what a handler binds never reaches the next event. Returns how often it did."""
    foreign = 0

    async def handle(event: Ping) -> None:
        nonlocal foreign
        foreign += _bound.get() is not None
        _bound.set(event.amount_cents)
        if event.amount_cents % 7 == 0:
            await asyncio.sleep(0)
        foreign += _bound.get() != event.amount_cents

    async with EventBus() as bus:
        bus.subscribe(Ping, handle, concurrency=50)
        for event in pings(number):
            await bus.publish(event)
    return foreign + (bus.ledger.total.handled != number)


async def _own_event(number: int) -> int:
    """BUS-14, in sync and async handlers and in tasks that outlive theirs. Returns the misses."""
    foreign = 0
    seen = 0
    tasks: set[asyncio.Task[None]] = set()
    gate = asyncio.Event()

    def check(event: Ping) -> None:
        nonlocal foreign, seen
        seen += 1
        foreign += current().event is not event

    async def late(event: Ping) -> None:
        await gate.wait()
        check(event)

    async def handle(event: Ping) -> None:
        check(event)
        task = asyncio.create_task(late(event))
        tasks.add(task)
        if event.amount_cents % 5 == 0:
            await asyncio.sleep(0)
            check(event)

    def in_thread(event: Ping) -> None:
        nonlocal foreign
        foreign += current().event is not event

    async with EventBus() as bus:
        bus.subscribe(Ping, handle)
        bus.subscribe(Ping, in_thread)
        for event in pings(number):
            await bus.publish(event)
        await bus.wait_idle()
        gate.set()
        await asyncio.gather(*tasks)
    return foreign + (seen < 2 * number)


def isolation(settings: Settings) -> list[Figure]:
    """Stops the run where one of them does not hold."""
    number = settings.amount(10_000)
    with asyncio.Runner() as runner:
        for fault, check in (("BUS-13", _binding), ("BUS-14", _own_event)):
            misses = runner.run(check(number))
            if misses:
                raise SystemExit(
                    f"bench: {fault} does not hold in this build: {misses} of {number}"
                )
    return [
        Figure(
            "BUS-13 and BUS-14 hold in the build that was measured",
            "",
            note=f"{number:,} events each, also for child tasks that outlived their handler",
            table="checks",
        )
    ]
