"""In order for each customer, in parallel across customers.

Ann's first order waits for Bob's, so Bob overtakes her. Her own second order does not.

Prints::

    ann 1 begins
    bob 1 begins
    bob 1 ends
    ann 1 ends
    ann 2 begins
    ann 2 ends
"""

import asyncio

from eventflow import Event, EventBus


class OrderPlaced(Event, topic="orders.placed"):
    """A customer has placed an order."""

    customer: str
    number: int


async def main() -> None:
    """Two customers, two handlers at once."""
    bob_was_here = asyncio.Event()

    async def pack(event: OrderPlaced) -> None:
        print(event.customer, event.number, "begins")
        if event.customer == "bob":
            bob_was_here.set()
        await bob_was_here.wait()
        print(event.customer, event.number, "ends")

    async with EventBus() as bus:
        bus.subscribe(OrderPlaced, pack, concurrency=2, order_key=lambda event: event.customer)
        await bus.publish(OrderPlaced(customer="ann", number=1))
        await bus.publish(OrderPlaced(customer="ann", number=2))
        await bus.publish(OrderPlaced(customer="bob", number=1))


if __name__ == "__main__":
    asyncio.run(main())
