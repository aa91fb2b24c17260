"""Events as an async iterator, and waiting for one of them.

The stream is subscribed when its block is entered, so nothing published inside is missed.

Prints::

    the first large order: A-3
    saw A-1
    saw A-2
    saw A-3
    the stream ended with the bus
"""

import asyncio

from eventflow import Event, EventBus


class OrderPlaced(Event, topic="orders.placed"):
    """A customer has placed an order."""

    order_id: str
    amount_cents: int


async def watch(bus: EventBus, entered: asyncio.Event, go_on: asyncio.Event) -> None:
    """Reads until the bus stops."""
    async with bus.stream(OrderPlaced) as events:
        entered.set()
        await go_on.wait()
        async for event in events:
            print("saw", event.order_id)
    print("the stream ended with the bus")


async def main() -> None:
    """One reader, and one who waits for a single event."""
    entered, go_on = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks, EventBus() as bus:
        tasks.create_task(watch(bus, entered, go_on))
        large = tasks.create_task(
            bus.wait_for(OrderPlaced, where=lambda event: event.amount_cents > 1000, timeout=5)
        )
        await entered.wait()
        for number, amount in enumerate((100, 200, 5000), start=1):
            await bus.publish(OrderPlaced(order_id=f"A-{number}", amount_cents=amount))
        print("the first large order:", (await large).order_id)
        go_on.set()


if __name__ == "__main__":
    asyncio.run(main())
