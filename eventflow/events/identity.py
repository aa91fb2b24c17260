"""The id and the time of an event: nothing but a time stamp until someone reads them."""

from __future__ import annotations

import os
import re
import threading
from datetime import UTC, datetime, timedelta

__all__ = ("FirstRead", "Identity", "Randomness", "Unread", "given", "made", "new_id", "read_time")

Identity = tuple[str, datetime]
"""An id and a time, as `Event.id` and `Event.occurred_at` give them."""

Unread = tuple[str, str]
"""An id, and the text of a time as it came; read when somebody asks for it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_LONGEST = 40


def read_time(text: str) -> datetime | None:
    """A time in UTC from RFC 3339 with an offset; ``None`` for any other text."""
    if len(text) > _LONGEST or not _RFC_3339.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class FirstRead:
    """Holds the lock under which an event's stamp becomes its identity, once.

    The alternative, a list per event whose first append wins, needs no lock and makes
    creating an event 6 % slower, for a container that most events never need.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            # A thread that holds it does not exist in the child, which would wait for ever.
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.lock = threading.Lock()


class Randomness:
    """Random numbers of 64 bits from the operating system, fetched 512 at a time.

    Each fetch lets go of the interpreter's lock: beside a busy thread that costs microseconds.
    """

    def __init__(self) -> None:
        self._numbers: list[int] = []
        if hasattr(os, "register_at_fork"):
            # The child's would be the parent's again.
            os.register_at_fork(after_in_child=self._numbers.clear)

    def draw(self) -> int:
        """Return the next one; each is drawn once, by whichever thread."""
        try:
            return self._numbers.pop()
        except IndexError:
            pool = os.urandom(8 * 512)
            numbers = [int.from_bytes(pool[at : at + 8]) for at in range(0, len(pool), 8)]
            drawn = numbers.pop()
            self._numbers += numbers
            return drawn


_randomness = Randomness()


def made(stamp_ns: int) -> Identity:
    """Return a new id whose time is the stamp's, and that time, to the millisecond.

    Source: RFC 9562, 5.7 and 6.2 method 3: the 12 bits after the milliseconds hold the
    fraction of the millisecond, so ids of one process sort as the events were created, down
    to 244 ns.
    """
    milliseconds = stamp_ns // 1_000_000
    return new_id(stamp_ns), _EPOCH + timedelta(milliseconds=milliseconds)


def new_id(stamp_ns: int) -> str:
    """Return a UUIDv7 for a time in nanoseconds since 1970; see `made`."""
    milliseconds, rest_ns = divmod(stamp_ns, 1_000_000)
    fraction = (rest_ns << 12) // 1_000_000
    random = _randomness.draw() & 0x3FFF_FFFF_FFFF_FFFF
    value = (
        (milliseconds & 0xFFFF_FFFF_FFFF) << 80
        | (0x7000 | fraction) << 64
        | 0x8000_0000_0000_0000
        | random
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def given(event_id: str | None, occurred_at: datetime | None, stamp_ns: int) -> Identity:
    """Return the identity that came with an event; what did not come is made.

    Args:
        event_id: The id; ``None`` or empty if there was none.
        occurred_at: The time; ``None`` if there was none.
        stamp_ns: Now, for a time that did not come.

    Raises:
        ValueError: The time is naive.
    """
    if occurred_at is not None:
        if occurred_at.utcoffset() is None:
            raise ValueError(f"occurred_at is naive: {occurred_at!r}; give it a time zone")
        occurred_at = occurred_at.astimezone(UTC)
        stamp_ns = max(0, (occurred_at - _EPOCH) // timedelta(microseconds=1) * 1000)
    if occurred_at is None:
        occurred_at = _EPOCH + timedelta(milliseconds=stamp_ns // 1_000_000)
    return event_id or new_id(stamp_ns), occurred_at
