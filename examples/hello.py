"""One event, two listeners, and a publisher that knows of neither.

Prints::

    receipt for A-1: 12.50
    pack A-1
    ledger of bus 'shop' (closed)
    subscription  offered  handled  failed
    send_receipt        1        1       0
    pack                1        1       0
    total               2        2       0
"""

import asyncio

from eventflow import Event, EventBus


class OrderPlaced(Event, topic="orders.placed"):
    """A customer has placed an order."""

    order_id: str
    amount_cents: int


async def send_receipt(event: OrderPlaced) -> None:
    """The first listener."""
    print(f"receipt for {event.order_id}: {event.amount_cents / 100:.2f}")


async def pack(event: OrderPlaced) -> None:
    """The second listener."""
    print(f"pack {event.order_id}")


async def main() -> None:
    """Listeners live as long as the bus; leaving its block waits for them."""
    async with EventBus(name="shop") as bus:
        bus.subscribe(OrderPlaced, send_receipt)
        bus.subscribe(OrderPlaced, pack)
        await bus.publish(OrderPlaced(order_id="A-1", amount_cents=1250))
    print(bus.ledger)


if __name__ == "__main__":
    asyncio.run(main())
