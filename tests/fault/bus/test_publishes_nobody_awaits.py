"""Thousands of publishes in tasks that nobody awaits, and then a stop."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from eventflow import Event
from eventflow.bus import EventBus
from eventflow.errors import BufferFullError, BusClosedError
from eventflow.testing import run_virtual

PUBLISHES = 10_000


class Ping(Event, topic="test.ping"):
    n: int = 0


@pytest.mark.fault("SHD-10")
@pytest.mark.promise("2", "8")
@pytest.mark.parametrize("turns", [0, 1, 50], ids=lambda turns: f"{turns} turns")
@pytest.mark.parametrize("capacity", [8, PUBLISHES], ids=["blocked", "room for all"])
def test_each_resolves_and_none_is_pending(turns: int, capacity: int) -> None:
    """One that returned was handled; any other raised a typed error, and was not."""
    handled: list[int] = []
    outcomes: list[BaseException | None] = []

    async def handler(event: Ping) -> None:
        await asyncio.sleep(0.001)
        handled.append(event.n)

    async def main() -> None:
        async with bus:
            tasks = [asyncio.ensure_future(bus.publish(Ping(n=n))) for n in range(PUBLISHES)]
            for _ in range(turns):
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not [task for task in tasks if not task.done()]
        outcomes.extend(task.exception() for task in tasks)

    bus = EventBus()
    bus.subscribe(Ping, handler, capacity=capacity, concurrency=4, name="h")
    run_virtual(main)
    accepted = [n for n, error in enumerate(outcomes) if error is None]
    assert sorted(handled) == accepted
    errors = Counter(type(error) for error in outcomes if error is not None)
    assert set(errors) <= {BusClosedError, BufferFullError}
    # Without a turn the stop is there first, and 50 turns are enough for all that find room.
    if turns == 0:
        assert accepted == []
    elif turns == 50 and capacity == PUBLISHES:
        assert len(accepted) == PUBLISHES
    else:
        assert len(accepted) >= capacity
    assert bus.ledger["h"].handled == len(accepted)
    assert bus.ledger.adds_up
