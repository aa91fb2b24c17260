"""The names of metadata that mean something, and how their values are read.

Watermill's names, so that a service in Go and one in Python share topics, and ours beside them.
What comes from the wire is checked and bounded, never trusted: a value that makes no sense is
as good as none.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from eventflow._texts import is_reserved
from eventflow.events.identity import read_time as parsed_time

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = (
    "CAUSATION_ID",
    "CORRELATION_ID",
    "DEADLINE",
    "DELAYED_FOR",
    "DELAYED_UNTIL",
    "FAILURES",
    "FROM_BUS",
    "NAME",
    "OCCURRED_AT",
    "custom",
    "delay_metadata",
    "delayed_until",
    "failures",
    "format_time",
    "read_id",
    "read_time",
)

NAME = "name"
"""The event's name. Watermill's."""
CORRELATION_ID = "correlation_id"
"""Id of the first cause. Watermill's."""
CAUSATION_ID = "causation_id"
"""Id of the event, or message, whose handler published this one."""
OCCURRED_AT = "eventflow_occurred_at"
"""When the event was created, RFC 3339."""
FAILURES = "eventflow_failures"
"""Failures recorded so far, a whole number."""
FROM_BUS = "eventflow_from_bus"
"""Which bus it was forwarded from, so that it is not brought back there."""
DEADLINE = "eventflow_deadline"
"""After which it is no longer worth handling, RFC 3339."""
DELAYED_UNTIL = "_watermill_delayed_until"
"""When it may be delivered, RFC 3339 in whole seconds. Watermill's."""
DELAYED_FOR = "_watermill_delayed_for"
"""The same as a Go duration, from when it was published; for people. Watermill's."""

MAX_ID_LENGTH = 255
MAX_FAILURES = 1_000_000


def read_id(metadata: Mapping[str, str], name: str) -> str | None:
    """An id; ``None`` if there is none, or it is too long or unprintable."""
    value = metadata.get(name)
    if value and len(value) <= MAX_ID_LENGTH and value.isprintable():
        return value
    return None


def read_time(metadata: Mapping[str, str], name: str) -> datetime | None:
    """A time in UTC; ``None`` if there is none, or it is no RFC 3339."""
    value = metadata.get(name)
    return None if value is None else parsed_time(value)


def failures(metadata: Mapping[str, str]) -> int:
    """Recorded failures, 0 to a million; 0 for what is no such number."""
    value = metadata.get(FAILURES)
    if value is None or not (0 < len(value) <= 7 and value.isascii() and value.isdigit()):
        return 0
    return min(int(value), MAX_FAILURES)


def format_time(time: datetime) -> str:
    """RFC 3339 in UTC with ``Z``, to the microsecond where there are any."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.isoformat()[: -len("+00:00")] + "Z"


def delay_metadata(delay: float, *, now: datetime) -> dict[str, str]:
    """Metadata that has a message delivered ``delay`` seconds after ``now``.

    The time is rounded up to a whole second, as Watermill writes it, so that it is never early.
    """
    until = now + timedelta(seconds=delay)
    if until.microsecond:
        until = until.replace(microsecond=0) + timedelta(seconds=1)
    return {
        DELAYED_UNTIL: format_time(until),
        DELAYED_FOR: _go_duration(delay),
    }


def delayed_until(metadata: Mapping[str, str]) -> datetime | None:
    """When a message may be delivered; ``None``: at once."""
    return read_time(metadata, DELAYED_UNTIL)


def custom(metadata: Mapping[str, str]) -> dict[str, str]:
    """What the publisher added: all but the names that mean something to us or to Watermill."""
    return {name: value for name, value in metadata.items() if not is_reserved(name)}


def _go_duration(seconds: float) -> str:
    """As Go prints a duration: ``1m30s``, ``1.5s``, ``24h0m0s``, ``150ms``."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1_000), ("µs", 1_000_000), ("ms", 1_000_000_000)):
        if nanoseconds < size:
            return _decimal(nanoseconds, size // 1_000) + unit
    minutes, rest = divmod(nanoseconds, 60 * 1_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(rest, 1_000_000_000) + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = len(str(unit)) - 1
    fraction = f"{rest:0{digits}}".rstrip("0") if digits else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
