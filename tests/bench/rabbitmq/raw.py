"""The loops on aio-pika: what one writes without eventflow, and nothing to spare.

Fixed, so that figures of different times are of the same loops. Queues, persistence, confirms and
prefetch are those of eventflow, so that what differs is eventflow. It is the plain connection:
the one that comes back by itself does more.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

import aio_pika
from aio_pika import DeliveryMode

from tests.bench.orders import BODY, WARM_UP, Bare, FirstToLast, each_in_flight
from tests.bench.rabbitmq.conditions import IN_FLIGHT, OrderPinged, headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aio_pika.abc import AbstractIncomingMessage

    from tests.bench.rabbitmq.conditions import Place

__all__ = ("consume", "latencies", "messages", "publish")


def messages(number: int) -> list[aio_pika.Message]:
    """Persistent messages with two headers."""
    return [_message() for _ in range(number)]


def _message(name: str = "OrderPlaced") -> aio_pika.Message:
    return aio_pika.Message(BODY, headers=headers(name), delivery_mode=DeliveryMode.PERSISTENT)


async def consume(address: str, place: Place, number: int) -> float:
    """Seconds from the first message decoded to the last; an ack for each."""
    handle = FirstToLast(number)

    async def handle_and_ack(message: AbstractIncomingMessage) -> None:
        await handle(Bare.model_validate_json(message.body))
        await message.ack()

    async with await aio_pika.connect(address) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=IN_FLIGHT)
        queue = await channel.get_queue(place.queue)
        await queue.consume(handle_and_ack)
        return await handle.came


async def publish(address: str, place: Place, given: Sequence[aio_pika.Message]) -> float:
    """Seconds from the first message of so many to the confirmation of the last."""
    async with await aio_pika.connect(address) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(place.topic)
        await exchange.publish(_message(), "")
        return await each_in_flight(
            given, lambda message: exchange.publish(message, ""), tasks=IN_FLIGHT
        )


async def latencies(address: str, place: Place, number: int) -> list[float]:
    """Seconds from before a publish to its message decoded, one message at a time."""
    loop = asyncio.get_running_loop()
    took: list[float] = []
    began = 0.0
    seen: asyncio.Future[float] = loop.create_future()

    async def handle_and_ack(message: AbstractIncomingMessage) -> None:
        Bare.model_validate_json(message.body)
        seen.set_result(perf_counter() - began)
        await message.ack()

    async with await aio_pika.connect(address) as connection:
        channel, other = await connection.channel(), await connection.channel()
        await channel.set_qos(prefetch_count=IN_FLIGHT)
        exchange = await other.get_exchange(place.topic)
        await (await channel.get_queue(place.queue)).consume(handle_and_ack)
        for _ in range(WARM_UP + number):
            seen = loop.create_future()
            message = _message(OrderPinged.__name__)
            began = perf_counter()
            await exchange.publish(message, "")
            took.append(await seen)
    return took[WARM_UP:]
