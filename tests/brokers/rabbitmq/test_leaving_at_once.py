"""A broker that is left while its subscriptions are still beginning."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.rabbitmq import RabbitMQBroker
from tests.brokers.rabbitmq.support import named

if TYPE_CHECKING:
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]


async def test_a_broker_is_left_wherever_its_subscriptions_are(
    rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    """What the library makes of a cancellation does not hold it up, and nobody hears of it."""
    loop = asyncio.get_running_loop()
    unheard: list[object] = []
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    for turns in range(0, 600, 2):
        broker = RabbitMQBroker(rabbitmq.address)
        await broker.__aenter__()

        async def receive(broker: RabbitMQBroker = broker) -> None:
            async with broker.subscriber(group="g").subscribe(named("left")) as deliveries:
                await deliveries.receive()

        receiving = loop.create_task(receive())
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await broker.__aexit__(None, None, None)
        receiving.cancel()
        with suppress(Exception, asyncio.CancelledError):
            await receiving
    gc.collect()
    assert not unheard
    assert not caplog.messages
