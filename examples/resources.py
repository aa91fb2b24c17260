"""A connection that is opened and closed with the subscription that uses it.

Entering the bus waits until it is open, and fails if it can't be opened.

Prints::

    open the database
    the bus is open
    stored A-1
    stored A-2
    close the database with 2 order(s)
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from eventflow import Event, EventBus


class OrderPlaced(Event, topic="orders.placed"):
    """A customer has placed an order."""

    order_id: str


@asynccontextmanager
async def open_database() -> AsyncGenerator[list[str], None]:
    """In place of a connection: a list."""
    print("open the database")
    rows: list[str] = []
    yield rows
    print(f"close the database with {len(rows)} order(s)")


async def store(event: OrderPlaced, database: list[str]) -> None:
    """What the context manager yields is the second argument."""
    database.append(event.order_id)
    print("stored", event.order_id)


async def main() -> None:
    """Subscribed before the bus is entered, so that entering waits for the database."""
    bus = EventBus()
    bus.subscribe(OrderPlaced, store, resources=open_database)
    async with bus:
        print("the bus is open")
        await bus.publish(OrderPlaced(order_id="A-1"))
        await bus.publish(OrderPlaced(order_id="A-2"))


if __name__ == "__main__":
    asyncio.run(main())
