"""What bridges need of a bus: to offer what came from a broker, and to know it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventflow._cause import Envelope
    from eventflow.bus._inbox import Inbox
    from eventflow.bus.bus import EventBus

__all__ = ("bring", "is_open", "origin_of")


def is_open(bus: EventBus) -> bool:
    """Whether the bus takes events in."""
    scope: Any = bus._scope  # pyright: ignore[reportPrivateUsage]
    return bus._is_entered() and scope.state == "open"  # pyright: ignore[reportPrivateUsage]


def origin_of(bus: EventBus) -> str:
    """What messages carry that were sent from the bus since it was entered."""
    return bus._entered().origin  # pyright: ignore[reportPrivateUsage]


async def bring(bus: EventBus, item: Envelope) -> None:
    """Offer an event to everybody subscribed to it, in the order of the calls.

    Every subscription it was offered to tells the receipt once what became of it, also where
    this raises or is cancelled.

    Raises:
        BufferFullError: A ``BLOCK`` subscriber had no room in time; or a ``RAISE`` subscriber
            had none, then nobody has it and the receipt waits for nobody.
        BusError: The bus is not open, and nobody has it.
    """
    event, receipt = item.event, item.receipt
    inboxes: tuple[Inbox, ...] = bus._admit(event)  # pyright: ignore[reportPrivateUsage]
    assert receipt is not None
    receipt.expect(len(inboxes))
    full: list[Inbox] = []
    for inbox in inboxes:
        if len(inbox.queue) < inbox.limit:
            inbox.append(item)
        else:
            full.append(inbox)
    if full:
        await bus._wait_for_room(full, event, item)  # pyright: ignore[reportPrivateUsage]
