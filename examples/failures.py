"""Retries, an error that is not worth a retry, and a call when nothing helped.

Each failure is logged on stderr with the event's id, too.

Prints::

    A-1: attempt 1
    A-1: attempt 2
    A-1: attempt 3
    A-1: charged
    A-2: attempt 1
    support hears of A-2 after 1 attempt(s): the card was stolen
    A-3: attempt 1
    A-3: attempt 2
    A-3: attempt 3
    support hears of A-3 after 3 attempt(s): the bank is away
    handled 1, failed 2, retried 4
"""

import asyncio

from eventflow import (
    CallOnFailure,
    Event,
    EventBus,
    FailurePolicy,
    Permanent,
    Retry,
    current,
)


class OrderPlaced(Event, topic="orders.placed"):
    """A customer has placed an order."""

    order_id: str


async def charge(event: OrderPlaced) -> None:
    """Works at the third attempt, never, or not at all."""
    attempt = current().attempt
    print(f"{event.order_id}: attempt {attempt}")
    match event.order_id:
        case "A-1" if attempt == 3:
            print("A-1: charged")
        case "A-2":
            raise Permanent("the card was stolen")
        case _:
            raise ConnectionError("the bank is away")


async def tell_support(event: Event, error: BaseException, attempts: int) -> None:
    """What is done when the last attempt has failed."""
    assert isinstance(event, OrderPlaced)
    print(f"support hears of {event.order_id} after {attempts} attempt(s): {error}")


async def main() -> None:
    """The publisher sees none of it."""
    policy = FailurePolicy(retry=Retry(attempts=3, initial=0.001), then=CallOnFailure(tell_support))
    async with EventBus() as bus:
        bus.subscribe(OrderPlaced, charge, on_failure=policy)
        for order_id in ("A-1", "A-2", "A-3"):
            await bus.publish(OrderPlaced(order_id=order_id))
    total = bus.ledger.total
    print(f"handled {total.handled}, failed {total.failed}, retried {total.retried}")


if __name__ == "__main__":
    asyncio.run(main())
