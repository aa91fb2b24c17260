"""A listener and its tests, for ``python -m pytest examples/testing_a_listener.py``.

Prints::

    2 passed
"""

import asyncio

from eventflow import Event, EventBus, EventPublisher, FailurePolicy, Listeners, Retry
from eventflow.testing import EventCapture, run_virtual


class OrderPlaced(Event, topic="orders.placed"):
    """A customer has placed an order."""

    order_id: str
    amount_cents: int


class ReviewAsked(Event, topic="orders.review_asked"):
    """A person has to look at an order."""

    order_id: str


def listeners_for(publisher: EventPublisher, *, limit_cents: int = 100_000) -> Listeners:
    """What this module offers; it is handed what it depends on, and starts nothing."""
    listeners = Listeners()

    @listeners.on(
        OrderPlaced, on_failure=FailurePolicy(retry=Retry(attempts=3, initial=20, jitter=0))
    )
    async def ask_for_review(event: OrderPlaced) -> None:
        if event.amount_cents > limit_cents:
            await publisher.publish(ReviewAsked(order_id=event.order_id))

    return listeners


def test_a_large_order_is_reviewed() -> None:
    """Behind a bus, as in the program; what it publishes is recorded."""

    async def scenario() -> None:
        capture = EventCapture()
        async with EventBus() as bus:
            bus.include(listeners_for(capture))
            await bus.publish(OrderPlaced(order_id="A-1", amount_cents=99))
            await bus.publish(OrderPlaced(order_id="A-2", amount_cents=100_001))
        capture.assert_published(ReviewAsked, times=1)
        capture.assert_published(ReviewAsked, where=lambda event: event.order_id == "A-2")
        assert bus.ledger["ask_for_review"].handled == 2

    asyncio.run(scenario())


def test_it_is_tried_again_after_twenty_seconds() -> None:
    """On the virtual clock they take no time."""

    class Away:
        calls = 0

        async def publish(self, event: Event) -> None:
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError("away")

    async def scenario() -> None:
        away = Away()
        loop = asyncio.get_running_loop()
        async with EventBus() as bus:
            bus.include(listeners_for(away))
            await bus.publish(OrderPlaced(order_id="A-1", amount_cents=100_001))
            await bus.wait_idle()
            assert away.calls == 2
            assert loop.time() == 20

    run_virtual(scenario)
