"""The id and the time of an event: nothing but a time stamp until someone reads them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from time import time_ns

__all__ = ("Cell", "Identity", "identify", "now", "restored")

Identity = tuple[str, datetime]
"""An id and a time, as `Event.id` and `Event.occurred_at` give them."""

Cell = list["int | Identity"]
"""``[nanoseconds]`` at creation; whatever was appended first afterwards is the identity.

``list.append`` is atomic, so when threads race for the first read all but one append in
vain, and everyone reads the same element. No lock is held, so a fork can't leave one locked.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> Cell:
    """Return the cell of an event that is being created."""
    return [time_ns()]


def restored(event_id: str | None, occurred_at: datetime | None) -> Cell:
    """Return a cell for an event read from elsewhere; what is ``None`` is made here."""
    cell = now()
    if event_id is None and occurred_at is None:
        return cell
    if occurred_at is not None:
        occurred_at = occurred_at.astimezone(UTC)
        if event_id is None:
            elapsed = occurred_at - _EPOCH
            cell[0] = max(0, elapsed // timedelta(microseconds=1) * 1000)
    made_id, made_at = identify(cell)
    cell[1:] = [(event_id or made_id, occurred_at or made_at)]
    return cell


def identify(cell: Cell) -> Identity:
    """Return the identity in the cell, made now if this is the first read."""
    if len(cell) == 1:
        stamp = cell[0]
        assert isinstance(stamp, int)
        cell.append(_make(stamp))
    identity = cell[1]
    assert isinstance(identity, tuple)
    return identity


def _make(stamp_ns: int) -> Identity:
    milliseconds, rest_ns = divmod(stamp_ns, 1_000_000)
    # The 12 bits after the milliseconds hold the fraction of the millisecond (RFC 9562,
    # 6.2, method 3), so ids of one process sort as the events were created, down to 244 ns.
    fraction = (rest_ns << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8)) & 0x3FFF_FFFF_FFFF_FFFF
    value = (
        (milliseconds & 0xFFFF_FFFF_FFFF) << 80
        | 0x7000 << 64
        | fraction << 64
        | 0x8000_0000_0000_0000
        | random
    )
    text = f"{value:032x}"
    event_id = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return event_id, _EPOCH + timedelta(milliseconds=milliseconds)
