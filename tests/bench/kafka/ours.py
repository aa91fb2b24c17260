"""The Router and the publisher over Kafka, with every default on."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

from eventflow.brokers.kafka import KafkaBroker
from eventflow.messaging import BrokerEventPublisher, Message, Router
from tests.bench.kafka.conditions import (
    IN_FLIGHT,
    PUBLISHED,
    OrderBooked,
    OrderPinged,
    OrderPlaced,
    group,
)
from tests.bench.orders import BODY, NAME, WARM_UP, FirstToLast, each_in_flight

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = (
    "consume",
    "latencies",
    "messages",
    "publish",
    "publish_events",
    "publish_together",
)


async def consume(hosts: str, number: int) -> float:
    """Seconds from the first event handled to the last; acks are committed as they are."""
    async with KafkaBroker(hosts) as broker:
        router, handle = Router(), FirstToLast(number)
        router.add_handler(
            "orders", OrderPlaced, handle, subscriber=broker.subscriber(group=group())
        )
        async with router:
            took = await handle.came
    total = router.ledger.total
    assert total.handled >= number, router.ledger
    assert not total.failed, router.ledger
    return took


def messages(number: int) -> list[Message]:
    """Messages that become records with two headers: the id, and the name."""
    return [Message(BODY, {"name": NAME}) for _ in range(number)]


async def publish(hosts: str, given: Sequence[Message]) -> float:
    """Seconds from the first message of so many to the confirmation of the last."""
    async with KafkaBroker(hosts) as broker:
        publisher = broker.publisher()
        await publisher.publish(PUBLISHED, Message(BODY))
        return await each_in_flight(
            given, lambda message: publisher.publish(PUBLISHED, message), tasks=IN_FLIGHT
        )


async def publish_together(hosts: str, given: Sequence[Message], *, size: int) -> float:
    """The same with so many messages in each call."""
    calls = [given[at : at + size] for at in range(0, len(given), size)]
    async with KafkaBroker(hosts) as broker:
        publisher = broker.publisher()
        await publisher.publish(PUBLISHED, Message(BODY))
        return await each_in_flight(
            calls, lambda call: publisher.publish(PUBLISHED, *call), tasks=IN_FLIGHT // size
        )


async def publish_events(hosts: str, number: int) -> float:
    """The same with new events, which are encoded, and get four headers."""
    given = [OrderBooked.from_json(BODY) for _ in range(number)]
    async with KafkaBroker(hosts) as broker:
        publisher = BrokerEventPublisher(broker.publisher())
        await publisher.publish(OrderBooked.from_json(BODY))
        return await each_in_flight(given, publisher.publish, tasks=IN_FLIGHT)


async def latencies(hosts: str, number: int) -> list[float]:
    """Seconds from before a publish of an event to the first line of its handler."""
    loop = asyncio.get_running_loop()
    took: list[float] = []
    began, expected = 0.0, ""
    seen: asyncio.Future[float] = loop.create_future()

    async def handle(event: OrderPinged) -> None:
        if event.id == expected:  # others were there before: a new group reads them too
            seen.set_result(perf_counter() - began)

    async with KafkaBroker(hosts) as broker:
        router = Router()
        router.add_handler(
            "pinged", OrderPinged, handle, subscriber=broker.subscriber(group=group())
        )
        async with router:
            await router.wait_running()
            publisher = BrokerEventPublisher(broker.publisher())
            for _ in range(WARM_UP + number):
                event, seen = OrderPinged.from_json(BODY), loop.create_future()
                expected = event.id
                began = perf_counter()
                await publisher.publish(event)
                took.append(await seen)
    return took[WARM_UP:]
