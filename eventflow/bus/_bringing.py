"""Offering what came from a broker: as `publish`, and the envelope's receipt tells the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow.events.identity import new_id

if TYPE_CHECKING:
    from eventflow._cause import Envelope
    from eventflow.bus._inbox import Inbox
    from eventflow.bus.bus import EventBus

__all__ = ("bring",)


async def bring(bus: EventBus, item: Envelope) -> None:
    """Offer an event to everybody subscribed to it, in the order of the calls.

    Every subscription it was offered to tells the receipt once what became of it, also where
    this raises or is cancelled.

    Raises:
        BufferFullError: A ``BLOCK`` subscriber had no room in time; or a ``RAISE`` subscriber
            had none, then nobody has it and the receipt waits for nobody.
        BusError: The bus is not open, and nobody has it.
    """
    dispatch: Any = bus
    event, receipt = item.event, item.receipt
    inboxes: tuple[Inbox, ...] = dispatch._admit(event)
    assert receipt is not None
    receipt.expect(len(inboxes))
    full: list[Inbox] = []
    for inbox in inboxes:
        if len(inbox.queue) < inbox.limit:
            inbox.append(item)
        else:
            full.append(inbox)
    if full:
        await dispatch._wait_for_room(full, event, item)
