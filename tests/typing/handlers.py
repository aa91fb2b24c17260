"""Handlers of a router are checked against what they are bound to."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from eventflow import Event
from eventflow.messaging import Batch, BrokerEventPublisher, Message, Router, forward

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow import EventBus
    from eventflow.messaging import Publisher, Subscriber


class Placed(Event, topic="orders"):
    customer: str


class Paid(Event, topic="orders"):
    amount: int


async def placed(event: Placed) -> None: ...
def placed_in_thread(event: Placed) -> None: ...
async def placed_with(event: Placed, database: int) -> None: ...
async def many_placed(batch: Batch[Placed]) -> None: ...
async def message(given: Message) -> list[Message]: ...  # type: ignore[empty-body]
async def enrich(event: Placed) -> Paid: ...  # type: ignore[empty-body]


@asynccontextmanager
async def database() -> AsyncGenerator[int]:
    yield 1


def accepted(router: Router, bus: EventBus, subscriber: Subscriber, publisher: Publisher) -> None:
    router.add_handler("a", Placed, placed, subscriber=subscriber)
    router.add_handler("b", Placed, placed_in_thread, subscriber=subscriber, concurrency=4)
    router.add_handler("c", Placed, placed_with, subscriber=subscriber, resources=database)
    router.add_handler("d", Placed, many_placed, subscriber=subscriber, batch=10, max_wait=1)
    router.add_handler("e", "raw", message, subscriber=subscriber, publisher=publisher)
    router.add_handler("f", Placed, enrich, subscriber=subscriber, publisher=publisher)
    router.add_handler(
        "g", Placed, placed, subscriber=subscriber, order_key=lambda event: event.customer
    )
    router.on("h", Placed, subscriber=subscriber, timeout=5)(placed)
    BrokerEventPublisher(publisher, key=lambda event: event.customer)
    forward(bus, publisher, events=[Placed], key=lambda event: event.customer)


def refused(router: Router, subscriber: Subscriber) -> None:
    router.add_handler("a", Paid, placed, subscriber=subscriber)  # type: ignore[arg-type]
    router.add_handler("b", Placed, message, subscriber=subscriber)  # type: ignore[arg-type]
    router.add_handler("c", "raw", placed, subscriber=subscriber)  # type: ignore[arg-type]
    router.add_handler("d", Placed, placed_with, subscriber=subscriber)  # type: ignore[arg-type]
    router.add_handler("e", Placed, many_placed, subscriber=subscriber)  # type: ignore[arg-type]
    router.add_handler(
        "f",
        Placed,
        placed,
        subscriber=subscriber,
        order_key=lambda event: event.custmer,  # type: ignore[attr-defined]
    )
    router.on("g", Placed, subscriber=subscriber, retries=3)  # type: ignore[call-arg]
