"""One process of a group: it says when it is ready, handles for some seconds, says when it did.

Its output is lines of JSON: ``"ready"``, then the times, by the machine's monotonic clock, of
every hundredth event handled. It begins when it gets a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from time import monotonic

from eventflow.brokers.kafka import KafkaBroker
from eventflow.messaging import Router
from tests.bench.kafka.conditions import OrderShared

__all__ = ("CONCURRENCY", "EVERY", "WAIT_S")

EVERY = 100
LASTS_S = 4.0
"""Seconds from the first event until it leaves."""
COMES_WITHIN_S = 20.0
CONCURRENCY = 64
WAIT_S = 0.002


async def work(hosts: str, group: str, *, waits: bool) -> list[float]:
    """The times of every hundredth event handled."""
    times: list[float] = []
    handled = 0
    came = asyncio.Event()

    async def handle(event: OrderShared) -> None:
        nonlocal handled
        if waits:
            await asyncio.sleep(WAIT_S)
        handled += 1
        if not handled % EVERY:
            times.append(monotonic())
            came.set()

    async with KafkaBroker(hosts) as broker:
        router = Router()
        router.add_handler(
            "shared",
            OrderShared,
            handle,
            subscriber=broker.subscriber(group=group),
            concurrency=CONCURRENCY,
        )
        async with router:
            async with asyncio.timeout(COMES_WITHIN_S):
                await came.wait()
            await asyncio.sleep(LASTS_S)
            return times[:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kafka.worker")
    parser.add_argument("--hosts", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--waits", action="store_true")
    given = parser.parse_args()
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(work(given.hosts, given.group, waits=given.waits))), flush=True)


if __name__ == "__main__":
    main()
