"""How many messages a router asks for: at least as many as its handlers can have in hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.messaging import Batch, Message, Router, SubscriberDecorator
from tests.unit.messaging.support import Paid, Placed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


class Asked(SubscriberDecorator):
    """Remembers what it was asked for."""

    def subscribe(self, topic: str, **options: Any) -> Any:
        self.options = options
        return super().subscribe(topic, **options)


async def nothing(event: Placed) -> None: ...
async def nothing_of_many(batch: Batch[Paid]) -> None: ...
async def nothing_either(event: Paid) -> None: ...


async def test_a_backend_is_told_what_is_handled_at_once(broker: MemoryBroker) -> None:
    """Of all handlers that share a subscription, whole batches included."""
    subscriber, router = Asked(broker.subscriber(group="g")), Router()
    router.add_handler("one", Placed, nothing, subscriber=subscriber, concurrency=3)
    router.add_handler(
        "many",
        Paid,
        nothing_of_many,
        subscriber=subscriber,
        batch=10,
        concurrency=2,
        order="relaxed",
    )
    async with router:
        assert subscriber.options == {"max_in_flight": None, "concurrency": 23}


async def test_what_is_said_counts(broker: MemoryBroker) -> None:
    subscriber, router = Asked(broker.subscriber(group="g")), Router()
    router.add_handler("one", Placed, nothing, subscriber=subscriber, max_in_flight=5)
    router.add_handler("two", Paid, nothing_either, subscriber=subscriber, max_in_flight=7)
    async with router:
        assert subscriber.options == {"max_in_flight": 12, "concurrency": 2}


async def test_more_at_once_than_a_backend_fetches_by_default(broker: MemoryBroker) -> None:
    begun, go_on = 0, asyncio.Event()

    async def hang(message: Message) -> None:
        nonlocal begun
        begun += 1
        await go_on.wait()

    router = Router()
    subscriber = broker.subscriber(group="g")
    router.add_handler("hang", "jobs", hang, subscriber=subscriber, concurrency=1_500)
    async with router:
        await broker.publisher().publish("jobs", *(Message(b"1") for _ in range(2_000)))
        await asyncio.sleep(1)
        assert begun == 1_500
        go_on.set()
