"""A stop: what is in hand is finished, or cut, and each event is accounted for.

The drain gets 50 ms here, so that the example is quick; the default is 20 s.

Prints::

    A-1: shipped
    A-2: cut by the stop, cleaning up
    ledger of bus 'shop' (closed)
    subscription  offered  handled  failed  cancelled  released
    ship                3        1       0          1         1
    total               3        1       0          1         1
"""

import asyncio

from eventflow import Event, EventBus


class OrderPlaced(Event, topic="orders.placed"):
    """A customer has placed an order."""

    order_id: str


async def ship(event: OrderPlaced) -> None:
    """Quick for the first order, and far too slow for the second."""
    if event.order_id == "A-1":
        print("A-1: shipped")
        return
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0)  # a clean-up may await: the cancellation comes once
        print(f"{event.order_id}: cut by the stop, cleaning up")


async def main() -> None:
    """Three orders, of which the stop lets one through."""
    async with EventBus(name="shop", drain_timeout=0.05) as bus:
        bus.subscribe(OrderPlaced, ship)
        for order_id in ("A-1", "A-2", "A-3"):
            await bus.publish(OrderPlaced(order_id=order_id))
    print(bus.ledger)


if __name__ == "__main__":
    asyncio.run(main())
