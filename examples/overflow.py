"""What each policy does when a subscriber is too slow for what is published.

Every subscriber holds event 1 in its hands, has room for two more, and is offered 2 to 6. What
was dropped is in the counts, and with its id on stderr.

Prints::

    BLOCK        handled 1 2 3          rejected 3
    DROP_NEWEST  handled 1 2 3          dropped 3
    DROP_OLDEST  handled 1 5 6          dropped 3
    KEEP_LATEST  handled 1 6            dropped 4
    RAISE        handled 1 2 3          rejected 3
"""

import asyncio
from contextlib import suppress

from eventflow import Event, EventBus, Overflow
from eventflow.errors import BufferFullError


class Measured(Event, topic="sensors.measured"):
    """A sensor has measured something."""

    number: int


async def show(overflow: Overflow) -> None:
    """Six events for a subscriber with a buffer of two."""
    busy, go_on = asyncio.Event(), asyncio.Event()
    handled: list[int] = []

    async def slow(event: Measured) -> None:
        busy.set()
        await go_on.wait()
        handled.append(event.number)

    async with EventBus() as bus:
        if overflow is Overflow.BLOCK:
            bus.subscribe(Measured, slow, capacity=2, block_timeout=0.01)
        else:
            bus.subscribe(Measured, slow, capacity=2, overflow=overflow)
        await bus.publish(Measured(number=1))
        await busy.wait()
        for number in range(2, 7):
            # Counted as rejected; what to do about it is the publisher's decision.
            with suppress(BufferFullError):
                await bus.publish(Measured(number=number))
        go_on.set()
    total = bus.ledger.total
    lost = f"dropped {total.dropped}" if total.dropped else f"rejected {total.rejected}"
    print(f"{overflow.name:<12} handled {' '.join(map(str, handled)):<14} {lost}")


async def main() -> None:
    """Each policy in turn."""
    for overflow in (
        Overflow.BLOCK,
        Overflow.DROP_NEWEST,
        Overflow.DROP_OLDEST,
        Overflow.KEEP_LATEST,
        Overflow.RAISE,
    ):
        await show(overflow)


if __name__ == "__main__":
    asyncio.run(main())
