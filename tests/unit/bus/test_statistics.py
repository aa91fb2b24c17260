"""Counts that add up: snapshots while a bus runs, and the ledger it leaves."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest

from eventflow.bus import BusStatistics, EventBus, Overflow, SubscriptionStatistics
from eventflow.errors import BufferFullError
from eventflow.failure import FailurePolicy, Retry
from tests.unit.bus.support import Ping, Recorder, Stubborn, lines, outcome, publish_all, turns

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.mark.promise("7")
async def test_the_equation_holds_at_every_tick() -> None:
    """While handlers run, fail, retry, time out, are blocked, dropped and cut."""
    bus = EventBus(drain_timeout=5, cancel_grace=1)
    checked = 0

    async def handler(event: Ping) -> None:
        await asyncio.sleep(event.n % 4)
        if event.n % 5 == 0:
            raise ValueError

    async def check() -> None:
        nonlocal checked
        while True:
            statistics = bus.statistics()
            assert statistics.adds_up, str(statistics)
            assert statistics.total.adds_up
            for row in statistics.subscriptions:
                assert row.buffered <= 3
            checked += 1
            await asyncio.sleep(0.125)

    retry = FailurePolicy(retry=Retry(attempts=2, initial=0.5))
    async with bus:
        bus.subscribe(Ping, handler, name="block", capacity=3, timeout=2, on_failure=retry)
        for policy in (Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.KEEP_LATEST):
            bus.subscribe(Ping, handler, name=policy.value, capacity=3, overflow=policy)
        checker = asyncio.ensure_future(check())
        await publish_all(bus, range(60))
    checker.cancel()
    assert checked > 100
    assert bus.ledger.adds_up
    total = bus.ledger.total
    assert total.offered == 240
    for count in ("handled", "failed", "dropped", "timed_out", "retried"):
        assert getattr(total, count) > 0
    assert (total.buffered, total.in_flight, total.waiting) == (0, 0, 0)


@pytest.mark.promise("7")
@pytest.mark.promise("2")
async def test_every_end_of_an_event_is_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One subscription in which each kind of end happens once."""
    bus = EventBus(drain_timeout=0, cancel_grace=1)
    stubborn = Stubborn()
    ids: dict[str, str] = {}

    async def handler(event: Ping) -> None:
        if event.key == "failed":
            raise ValueError
        if event.key == "cancelled":
            await asyncio.sleep(1000)
        if event.key == "abandoned":
            await stubborn(event)

    async def publish(key: str) -> None:
        event = Ping(key=key)
        ids[key] = event.id
        if isinstance(await outcome(bus.publish(event)), BufferFullError):
            assert key == "rejected"

    async with bus:
        bus.subscribe(
            Ping,
            handler,
            name="all",
            capacity=1,
            concurrency=2,
            timeout=None,
            block_timeout=1,
        )
        for key in ("handled", "failed", "cancelled", "abandoned", "released", "rejected"):
            await publish(key)
            await turns()
    row = bus.ledger["all"]
    ends = ("handled", "failed", "cancelled", "abandoned", "released", "rejected")
    assert [getattr(row, end) for end in ends] == [1] * 6
    assert row.offered == 6
    what = {
        "failed": "handler_failed",
        "cancelled": "handler_cancelled",
        "abandoned": "task_abandoned",
        "released": "events_released",
        "rejected": "events_rejected",
    }
    for end, line in what.items():
        assert ids[end] in "".join(lines(caplog, line))
    assert ids["handled"] not in caplog.text
    await stubborn.let_go()
    assert bus.ledger["all"] == row


async def test_the_ledger_reads_well_and_stays() -> None:
    """A table with the columns that matter; plain values for JSON; frozen."""
    async with EventBus(name="shop") as bus:
        bus.subscribe(Ping, Recorder(), name="receipts")
        bus.subscribe("test.>", Recorder(), name="audit")
        await publish_all(bus, range(1200))
    text = str(bus.ledger)
    assert text.splitlines() == [
        "ledger of bus 'shop' (closed)",
        "subscription  offered  handled  failed",
        "receipts        1,200    1,200       0",
        "audit           1,200    1,200       0",
        "total           2,400    2,400       0",
    ]
    values = json.loads(json.dumps(bus.ledger.as_dict()))
    assert values["total"]["handled"] == 2400
    assert values["adds_up"] is True
    assert values["subscriptions"][0]["name"] == "receipts"
    with pytest.raises(dataclasses.FrozenInstanceError):
        bus.ledger.name = "x"  # type: ignore[misc]
    with pytest.raises(KeyError):
        bus.ledger["nobody"]
    assert bus.ledger["audit"].handled == 1200


def test_counts_that_do_not_add_up_say_so() -> None:
    """The table shouts, the property is false."""
    row = SubscriptionStatistics(name="r", offered=2, handled=1)
    statistics = BusStatistics(
        name="b", state="closed", subscriptions=(row,), abandoned=("thread x in y",)
    )
    assert not row.adds_up
    assert not statistics.adds_up
    assert "THE COUNTS DO NOT ADD UP" in str(statistics)
    assert "abandoned: thread x in y" in str(statistics)


async def test_a_subscription_tells_its_own_counts() -> None:
    """New before entering, and of the last stay after leaving."""
    bus = EventBus()
    sub = bus.subscribe(Ping, Recorder(), name="r")
    assert sub.statistics() == SubscriptionStatistics(name="r")
    assert sub.closed
    for n in range(2):
        async with bus:
            assert not sub.closed
            assert sub.statistics().offered == 0
            await publish_all(bus, range(n + 1))
        assert sub.statistics().handled == n + 1
    assert "closed" in repr(sub)
    assert "closed" in repr(bus)
