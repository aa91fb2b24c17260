"""Who waits in a memory broker sleeps until something can have changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.messaging import Message

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.mark.parametrize("way", ["paused", "full"])
async def test_a_due_message_that_can_not_be_delivered_wakes_nobody(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscription that is paused, or has all in flight that it may have, does not spin."""
    loop = asyncio.get_running_loop()
    turns = 0
    original: Callable[[], None] = loop._run_once  # type: ignore[attr-defined]

    def run_once() -> None:
        nonlocal turns
        turns += 1
        assert turns < 1_000, "it spins"
        original()

    async with MemoryBroker() as broker:
        subscriber = broker.subscriber(group="g")
        await broker.publisher().publish("t", Message(b"1"), Message(b"2"))
        async with subscriber.subscribe("t", max_in_flight=1) as deliveries:
            (first,) = await deliveries.receive()
            first.nack(delay=5)
            if way == "paused":
                deliveries.pause()
            else:
                await deliveries.receive()
            receiving = asyncio.create_task(deliveries.receive())
            monkeypatch.setattr(loop, "_run_once", run_once)
            await asyncio.sleep(60)
            assert not receiving.done()
            receiving.cancel()
            await asyncio.wait([receiving])
