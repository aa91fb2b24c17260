"""A broker that is used from another event loop than the one that it was entered in."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from eventflow.errors import BrokerError, WrongLoopError
from eventflow.messaging import Message
from tests.brokers.rabbitmq.support import broker_at, named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(60)]


async def test_each_call_from_another_loop(rabbitmq: RabbitMQ) -> None:
    """It is an error at once, and nothing is sent; who uses it rightly is not bothered."""
    topic = named("loops")
    async with broker_at(rabbitmq.address, publish_timeout=3, connect_timeout=3) as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group="g")
        await subscriber.prepare(topic)
        await publisher.publish(topic, Message(b"x"))

        async def subscribe() -> None:
            async with subscriber.subscribe(topic):
                raise AssertionError("it was entered")

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "publish": lambda: publisher.publish(topic, Message(b"x")),
            "publish to a new topic": lambda: publisher.publish(named("new"), Message(b"x")),
            "publisher.prepare": lambda: publisher.prepare(topic),
            "subscriber.prepare": lambda: subscriber.prepare(topic),
            "messages_ready": lambda: subscriber.messages_ready(topic),
            "subscribe": subscribe,
            "ensure_topics": lambda: broker.ensure_topics(topic),
            "leave": lambda: broker.__aexit__(None, None, None),
        }

        async def from_another() -> None:
            for name, call in calls.items():
                began = time.monotonic()
                with pytest.raises(WrongLoopError, match="event loop"):
                    await call()
                assert time.monotonic() - began < 0.5, name
            with pytest.raises(BrokerError, match="open already"):
                await broker.__aenter__()

        await asyncio.to_thread(lambda: asyncio.run(from_another()))
        assert await subscriber.messages_ready(topic) == 1
        await publisher.publish(topic, Message(b"x"))
        assert await subscriber.messages_ready(topic) == 2
