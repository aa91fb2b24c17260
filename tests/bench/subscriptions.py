"""Idle subscriptions: how much memory each takes, and how long entering and stopping takes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from time import perf_counter

from eventflow import EventBus
from tests.bench import contenders
from tests.bench.harness import Figure, Settings, Spread, clean

__all__ = ("memory", "start_and_stop")


def _bus(number: int) -> EventBus:
    bus = EventBus()
    for i in range(number):
        bus.subscribe(contenders.Ping, contenders.handle, name=f"listener-{i}")
    return bus


async def _resident(number: int) -> float:
    """KiB of resident memory for each subscription, from making the bus to all of them waiting."""
    statm, page = Path("/proc/self/statm"), os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * page

    async with _bus(100) as bus:  # whatever is made only once
        await asyncio.sleep(0)
        await bus.publish(contenders.pings(1)[0])
        await bus.wait_idle()
    clean()
    before = resident()
    async with _bus(number):
        for _ in range(3):
            await asyncio.sleep(0)
        return (resident() - before) / number / 1024


async def _traced(number: int) -> float:
    """KiB of Python's own allocations for each subscription."""
    async with _bus(100):
        await asyncio.sleep(0)
    clean()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    async with _bus(number):
        for _ in range(3):
            await asyncio.sleep(0)
        took = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return took / number / 1024


def _in_fresh_process(what: str, number: int) -> float:
    command = [sys.executable, "-m", "tests.bench.subscriptions", what, str(number)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def memory(settings: Settings) -> list[Figure]:
    """Each run in a process of its own."""
    number = 10_000
    runs = 3 if settings.quick else settings.rounds
    resident = Spread.of([_in_fresh_process("resident", number) for _ in range(runs)])
    traced = _in_fresh_process("traced", number)
    return [
        Figure(
            "memory per idle subscription, task included",
            "KiB",
            ours=resident,
            at_most=8.0,
            aim=4.0,
            note=f"resident, {number:,} subscriptions; Python's own allocations: {traced:.2f} KiB",
        )
    ]


async def _start_and_stop(number: int) -> tuple[float, float]:
    bus = _bus(number)
    clean()
    began = perf_counter()
    await bus.__aenter__()
    await asyncio.sleep(0)  # every worker has run up to where it waits
    entered = perf_counter()
    await bus.__aexit__(None, None, None)
    return entered - began, perf_counter() - entered


def start_and_stop(settings: Settings) -> list[Figure]:
    """The figures are seconds, so there is nothing to pair them with."""
    number = 10_000
    runs: list[tuple[float, float]] = []
    for _ in range(1 + (5 if settings.quick else settings.rounds)):
        with asyncio.Runner() as runner:
            runs.append(runner.run(_start_and_stop(number)))
    return [
        Figure(
            f"{what} {number:,} idle subscriptions",
            "s",
            ours=Spread.of([run[which] for run in runs[1:]]),
            at_most=1.0,
            aim=0.3,
        )
        for which, what in ((0, "entering"), (1, "stopping"))
    ]


if __name__ == "__main__":
    measured = {"resident": _resident, "traced": _traced}[sys.argv[1]]
    print(json.dumps(asyncio.run(measured(int(sys.argv[2])))))
