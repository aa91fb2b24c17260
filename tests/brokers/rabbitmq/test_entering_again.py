"""A broker that is entered again, however it was left."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from eventflow.errors import BrokerClosedError, BrokerError
from eventflow.messaging import Message
from tests.brokers.rabbitmq.support import broker_at, fresh, named

if TYPE_CHECKING:
    from eventflow.brokers.rabbitmq import RabbitMQBroker
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(60)]


async def use(broker: RabbitMQBroker) -> None:
    """Enter it, and see that all works."""
    topic = named("again")
    async with broker, broker.subscriber(group="g").subscribe(topic) as deliveries:
        await broker.publisher().publish(topic, message := Message(b"x"))
        await fresh(deliveries, {message.id}, within=10)


async def leave_cancelled(broker: RabbitMQBroker, turns: int) -> None:
    """Enter it, and be cancelled while it is being left."""
    await broker.__aenter__()
    leaving = asyncio.create_task(broker.__aexit__(None, None, None))
    for _ in range(turns):
        await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    with pytest.raises(BrokerClosedError):
        await broker.publisher().publish("any", Message(b"x"))


@pytest.mark.parametrize("turns", [1, 2, 5])
async def test_entering_after_leaving_was_cancelled(
    rabbitmq: RabbitMQ, turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for the end of that."""
    broker = broker_at(rabbitmq.address)
    await leave_cancelled(broker, turns)
    await use(broker)
    await use(broker)
    assert not caplog.messages


async def test_two_that_enter_while_it_is_being_closed(rabbitmq: RabbitMQ) -> None:
    """One of them does, the other one hears of it."""
    broker = broker_at(rabbitmq.address)
    await leave_cancelled(broker, 2)
    told = await asyncio.gather(broker.__aenter__(), broker.__aenter__(), return_exceptions=True)
    assert told[0] is broker
    assert isinstance(told[1], BrokerError)
    await broker.__aexit__(None, None, None)


async def test_leaving_more_than_once(rabbitmq: RabbitMQ) -> None:
    """At the same time, and after that, in another loop too."""
    broker = broker_at(rabbitmq.address)
    await broker.__aenter__()
    leaving = (broker.__aexit__(None, None, None) for _ in range(3))
    assert await asyncio.gather(*leaving) == [None, None, None]
    await broker.__aexit__(None, None, None)

    async def leave() -> None:
        await broker.__aexit__(None, None, None)

    await asyncio.to_thread(lambda: asyncio.run(leave()))
    await use(broker)


@pytest.mark.parametrize("left", ["cancelled", "not at all"])
def test_entering_in_another_loop(
    rabbitmq: RabbitMQ, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the one that it was open in has ended, it begins anew."""
    broker = broker_at(rabbitmq.address)

    async def begin() -> None:
        if left == "cancelled":
            await leave_cancelled(broker, 2)
        else:
            await broker.__aenter__()

    async def leave() -> None:
        await broker.__aexit__(None, None, None)

    asyncio.run(begin())
    asyncio.run(leave())
    for _ in range(2):
        asyncio.run(use(broker))
    gc.collect()
    assert not caplog.messages
