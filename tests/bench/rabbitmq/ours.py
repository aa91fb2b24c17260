"""The Router and the publisher over RabbitMQ, with every default on."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

from eventflow.brokers.rabbitmq import RabbitMQBroker
from eventflow.messaging import BrokerEventPublisher, Message, Router
from tests.bench.orders import BODY, WARM_UP, FirstToLast, Order, each_in_flight
from tests.bench.rabbitmq.conditions import IN_FLIGHT, OrderBooked, OrderPinged, OrderPlaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.rabbitmq.conditions import Place

__all__ = ("consume", "latencies", "publish", "publish_events", "publish_together")

COMES_WITHIN_S = 120.0


async def consume(
    address: str, place: Place, number: int, event: type[Order] = OrderPlaced
) -> float:
    """Seconds from the first event handled to the last; acks are told as they are."""
    async with RabbitMQBroker(address, topology=place.topology) as broker:
        router, handle = Router(), FirstToLast(number)
        subscriber = broker.subscriber(group=place.group)
        router.add_handler("orders", event, handle, subscriber=subscriber, max_in_flight=IN_FLIGHT)
        async with router, asyncio.timeout(COMES_WITHIN_S):
            took = await handle.came
    total = router.ledger.total
    assert total.handled >= number, router.ledger
    assert not total.failed, router.ledger
    return took


async def publish(address: str, place: Place, given: Sequence[Message]) -> float:
    """Seconds from the first message of so many to the confirmation of the last."""
    async with RabbitMQBroker(address) as broker:
        publisher, topic = broker.publisher(), place.topic
        await publisher.publish(topic, Message(BODY))
        return await each_in_flight(
            given, lambda message: publisher.publish(topic, message), tasks=IN_FLIGHT
        )


async def publish_together(
    address: str, place: Place, given: Sequence[Message], *, size: int
) -> float:
    """The same with so many messages in each call, and no more in flight."""
    calls = [given[at : at + size] for at in range(0, len(given), size)]
    async with RabbitMQBroker(address) as broker:
        publisher, topic = broker.publisher(), place.topic
        await publisher.publish(topic, Message(BODY))
        return await each_in_flight(
            calls, lambda call: publisher.publish(topic, *call), tasks=IN_FLIGHT // size
        )


async def publish_events(address: str, number: int) -> float:
    """The same with new events, which are encoded, and get four headers."""
    given = [OrderBooked.from_json(BODY) for _ in range(number)]
    async with RabbitMQBroker(address) as broker:
        publisher = BrokerEventPublisher(broker.publisher())
        await publisher.publish(OrderBooked.from_json(BODY))
        return await each_in_flight(given, publisher.publish, tasks=IN_FLIGHT)


async def latencies(address: str, place: Place, number: int) -> list[float]:
    """Seconds from before a publish of an event to the first line of its handler."""
    loop = asyncio.get_running_loop()
    took: list[float] = []
    began = 0.0
    seen: asyncio.Future[float] = loop.create_future()

    async def handle(event: OrderPinged) -> None:
        seen.set_result(perf_counter() - began)

    async with RabbitMQBroker(address, topology=place.topology) as broker:
        router = Router()
        subscriber = broker.subscriber(group=place.group)
        router.add_handler("pinged", OrderPinged, handle, subscriber=subscriber)
        async with router:
            await router.wait_running()
            publisher = BrokerEventPublisher(broker.publisher())
            for _ in range(WARM_UP + number):
                event, seen = OrderPinged.from_json(BODY), loop.create_future()
                began = perf_counter()
                await publisher.publish(event)
                took.append(await seen)
    return took[WARM_UP:]
