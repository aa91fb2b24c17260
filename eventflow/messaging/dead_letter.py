"""What a dead letter is made of: the original as it came, and why it is here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from eventflow.messaging import metadata as meta
from eventflow.messaging.message import Message

if TYPE_CHECKING:
    from eventflow.messaging.delivery import Delivery

__all__ = (
    "ATTEMPTS",
    "DEAD_LETTERED_AT",
    "DELIVERIES",
    "EXCEPTION",
    "FIRST_FAILED_AT",
    "HANDLER",
    "LEFT_OUT",
    "ORIGIN",
    "REASON",
    "SUBSCRIBER",
    "TOPIC",
    "dead_letter",
)

REASON = "reason_poisoned"
"""What the error says. Watermill's."""
TOPIC = "topic_poisoned"
"""Topic the message came from. Watermill's."""
HANDLER = "handler_poisoned"
"""Handler that gave it up. Watermill's."""
SUBSCRIBER = "subscriber_poisoned"
"""Group it was received for. Watermill's."""
EXCEPTION = "eventflow_exception"
"""Class of the error."""
ATTEMPTS = "eventflow_attempts"
"""Attempts that were made, those of earlier deliveries included."""
DELIVERIES = "eventflow_deliveries"
"""How often the broker had delivered it, where it tells."""
FIRST_FAILED_AT = "eventflow_first_failed_at"
"""When its first attempt failed in the process that gave it up, RFC 3339."""
DEAD_LETTERED_AT = "eventflow_dead_lettered_at"
"""When it was given up, RFC 3339."""
LEFT_OUT = "eventflow_left_out"
"""How many pairs of its metadata and native headers had no room."""
ORIGIN = "eventflow_origin"
"""Where the broker keeps the original: its partition and offset, for example."""

MAX_TEXT = 1_000
"""Longest text of ours in a dead letter, in characters."""


def dead_letter(
    delivery: Delivery,
    error: BaseException,
    *,
    handler: str,
    group: str,
    attempts: int,
    first_failed_at: datetime | None = None,
    longest: int = MAX_TEXT,
    is_bare: bool = False,
) -> Message:
    """Return the dead letter of a delivery.

    It has the original's id, key, bytes, native headers and metadata. Beside them stand
    Watermill's four poison keys and ours, cut to ``longest`` characters each.

    Args:
        delivery: What failed.
        error: Why.
        handler: Name of the handler.
        group: Consumer group that received it.
        attempts: Attempts that were made, those of earlier deliveries included.
        first_failed_at: When the first of them failed, as far as it is known.
        longest: Most characters of each text of ours.
        is_bare: Whether to leave out its metadata, but for its event's name, and its native
            headers, as there is no room for them; `LEFT_OUT` says how many there were.
    """
    original = delivery.original
    kept, headers = original.metadata, original.headers
    if is_bare:
        name = kept.get(meta.NAME)
        kept, headers = {} if name is None else {meta.NAME: _cut(name, MAX_TEXT)}, ()
    texts = {
        **kept,
        REASON: _said(error, longest),
        TOPIC: delivery.topic,
        HANDLER: _cut(handler, longest),
        SUBSCRIBER: _cut(group, longest),
        EXCEPTION: _cut(f"{type(error).__module__}.{type(error).__qualname__}", longest),
        ATTEMPTS: str(attempts),
        DEAD_LETTERED_AT: meta.format_time(datetime.now(UTC)),
    }
    # Whoever reads the dead letter begins anew, and at once.
    stale = (meta.FAILURES, meta.DELAYED_UNTIL, meta.DELAYED_FOR)
    # And what the original brought under these names is not what became of it here.
    for name in (*stale, DELIVERIES, FIRST_FAILED_AT, LEFT_OUT, ORIGIN):
        texts.pop(name, None)
    if is_bare:
        texts[LEFT_OUT] = str(len(original.metadata) - len(kept) + len(original.headers))
    if delivery.deliveries is not None:
        texts[DELIVERIES] = str(delivery.deliveries)
    if first_failed_at is not None:
        texts[FIRST_FAILED_AT] = meta.format_time(first_failed_at)
    if delivery.coordinates:
        where = " ".join(f"{name}={value}" for name, value in delivery.coordinates.items())
        texts[ORIGIN] = _cut(where, longest)
    return Message.received(original.id, original.payload, texts, key=original.key, headers=headers)


def _said(error: BaseException, longest: int) -> str:
    """What an error says, as text that UTF-8 can hold; its class where it says nothing."""
    try:
        text = str(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - the error's own
        text = ""
    return _cut((text or type(error).__name__).encode(errors="backslashreplace").decode(), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
