"""A paused subscription of a memory broker waits, whatever has fallen due meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.messaging import Message

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.mark.parametrize("why", ["paused", "no room"])
async def test_a_message_that_is_due_is_not_waited_for_in_a_circle(why: str) -> None:
    """It would keep the loop busy, and time from passing."""
    async with MemoryBroker() as broker:
        subscriber = broker.subscriber(group="g")
        async with subscriber.subscribe("orders", max_in_flight=1) as deliveries:
            await broker.publisher().publish("orders", Message(b"1"), Message(b"2"))
            (first,) = await deliveries.receive()
            first.nack(delay=1)
            (second,) = await deliveries.receive()
            if why == "paused":
                deliveries.pause()
                second.ack()
            receiving = asyncio.ensure_future(deliveries.receive())
            await asyncio.sleep(10)
            assert not receiving.done()
            if why == "paused":
                deliveries.resume()
            else:
                second.ack()
            assert [delivery.message.payload for delivery in await receiving] == [b"1"]
