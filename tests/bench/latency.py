"""From publish to the first line of the handler, when nothing else is going on."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from time import perf_counter_ns

from eventflow import EventBus
from tests.bench import contenders
from tests.bench.harness import Figure, Settings, Spread, ratios, rounds

__all__ = ("idle",)

Publish = Callable[[contenders.Ping], Awaitable[None]]


class _Probe:
    """A handler that notes when it starts."""

    def __init__(self) -> None:
        self.took: list[int] = []
        self.began = 0
        self.seen: asyncio.Future[None] | None = None

    async def handle(self, event: object) -> None:
        self.took.append(perf_counter_ns() - self.began)
        assert self.seen is not None
        self.seen.set_result(None)

    async def sample(self, publish: Publish, number: int) -> None:
        loop = asyncio.get_running_loop()
        for event in contenders.pings(number):
            self.seen = loop.create_future()
            self.began = perf_counter_ns()
            await publish(event)
            await self.seen
            for _ in range(3):  # the consumer has gone back to waiting
                await asyncio.sleep(0)


async def _ours(probe: _Probe, number: int) -> float:
    async with EventBus() as bus:
        bus.subscribe(contenders.Ping, probe.handle)
        await asyncio.sleep(0)
        await probe.sample(bus.publish, number)
    return 0.0


async def _queue(probe: _Probe, number: int) -> float:
    queue = asyncio.Queue[contenders.Ping](maxsize=contenders.CAPACITY)

    async def consume() -> None:
        while True:
            event = await queue.get()
            await probe.handle(event)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(consume())
        await asyncio.sleep(0)
        await probe.sample(queue.put, number)
        task.cancel()
    return 0.0


def _percentiles(
    run: Callable[[_Probe, int], Awaitable[float]], number: int, tails: list[float]
) -> float:
    probe = _Probe()
    contenders.run(run(probe, number))  # type: ignore[arg-type]
    cuts = statistics.quantiles(probe.took, n=100)
    tails.append(cuts[98] / 1e3)
    return cuts[49] / 1e3


def idle(settings: Settings) -> list[Figure]:
    """The median of each run in pairs; the 99th percentile beside the baseline's own spread."""
    number = settings.amount(20_000)
    tails: dict[str, list[float]] = {"ours": [], "queue": []}
    medians = rounds(
        {
            "ours": lambda: _percentiles(_ours, number, tails["ours"]),
            "queue": lambda: _percentiles(_queue, number, tails["queue"]),
        },
        settings.rounds,
    )
    ours, queue = (Spread.of(tails[name][1:]) for name in ("ours", "queue"))  # without the warm-up
    return [
        Figure(
            "idle latency, p50",
            "µs",
            ratios(medians["ours"], medians["queue"]),
            Spread.of(medians["ours"]),
            Spread.of(medians["queue"]),
            at_most=1.2,
            aim=1.0,
            note=f"{number:,} events a run",
        ),
        Figure(
            "idle latency, p99",
            "µs",
            None,
            ours,
            queue,
            note=f"baseline's own p99 from run to run: {queue.low:.1f} to {queue.high:.1f} µs",
        ),
    ]
