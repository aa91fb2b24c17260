"""How many messages a member fetches ahead: as many as what it does at once gives reason for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.messaging import Batch, Message, Router
from tests.brokers.rabbitmq.support import broker_at, named, until

if TYPE_CHECKING:
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbitmq

WAITING = 500


@pytest.mark.parametrize(
    ("options", "fetched"),
    [
        ({}, 20),
        ({"concurrency": 5}, 100),
        ({"concurrency": 64, "order": "relaxed"}, 200),
        ({"concurrency": 150, "order": "relaxed"}, 300),
        ({"max_in_flight": 7}, 7),
    ],
)
async def test_what_follows_from_concurrency(
    rabbitmq: RabbitMQ, options: dict[str, Any], fetched: int
) -> None:
    """The rest is there for others, while none is done."""
    topic, go_on = named("prefetch"), asyncio.Event()

    async def hang(message: Message) -> None:
        await go_on.wait()

    await _fetched(rabbitmq, topic, hang, options, go_on, fetched)


async def test_a_batch_can_be_filled(rabbitmq: RabbitMQ) -> None:
    topic, go_on = named("prefetch"), asyncio.Event()
    sizes: list[int] = []

    async def hang(batch: Batch[Message]) -> None:
        sizes.append(len(batch))
        await go_on.wait()

    await _fetched(rabbitmq, topic, hang, {"batch": 150, "max_wait": 5}, go_on, 300)
    assert sizes[0] == 150


async def _fetched(
    server: RabbitMQ,
    topic: str,
    handler: Any,
    options: dict[str, Any],
    go_on: asyncio.Event,
    count: int,
) -> None:
    async with broker_at(server.address) as broker:
        subscriber = broker.subscriber(group="g")
        await subscriber.prepare(topic)
        await broker.publisher().publish(topic, *(Message(b"1") for _ in range(WAITING)))
        router = Router()
        router.add_handler("hang", topic, handler, subscriber=subscriber, **options)
        async with router:
            left = WAITING - count

            async def is_so() -> bool:
                return await subscriber.messages_ready(topic) == left

            await until(is_so, f"{left} are left")
            go_on.set()
