"""Between messages and RabbitMQ's: the format of Watermill's default marshaler.

The body is the payload. Each pair of the metadata is a header of type text, and so is the id,
under a name of its own. What others have written may have headers of other types, or texts that
are no UTF-8: these stay native headers, and are written again as they came.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from eventflow.brokers.rabbitmq._frames import Field, as_text, write_table
from eventflow.errors import InvalidMessageError
from eventflow.messaging.message import received

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventflow.brokers.rabbitmq._frames import Properties
    from eventflow.messaging import Message

__all__ = ("ID", "message_of", "table_of")

ID = "_watermill_message_uuid"
"""Header of the message's id. Watermill's."""

NOTES = frozenset({"x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC"})
"""Headers that the server adds, or routes copies by: no part of a message."""
NOTES_BEGIN = ("x-first-death-", "x-last-death-", "x-eventflow-")
"""What others of them begin with, and those that we add on a message's way."""


def table_of(
    message: Message, notes: Iterable[tuple[str, bytes]] = (), *, texts_only: bool = False
) -> bytes:
    """The headers of a message, as they go over the wire.

    Args:
        message: The message.
        notes: Others of ours, that are no part of it.
        texts_only: Whether values of other types go as texts.

    Raises:
        InvalidMessageError: Its metadata or headers use the name that the id goes under, one that
            means something to the server or to us, or one that is longer than 255 bytes; or a
            `Field` is none.
    """
    metadata = message.metadata
    pairs = [(ID, message.id.encode())]
    if texts_only:
        pairs += (
            (name, as_text(value) if type(value) is Field else value)
            for name, value in message.headers
        )
    else:
        pairs += message.headers
    pairs += [(name, text.encode()) for name, text in metadata.items()]
    pairs += notes
    for name in metadata:
        if _kind(name) != "pair":
            _check_name(name)
    for name, _ in message.headers:
        _check_name(name)
    try:
        return write_table(pairs)
    except ValueError as exc:
        raise InvalidMessageError(
            "the name of a header in RabbitMQ has at most 255 bytes, and a Field is one value with "
            f"its type: {str(exc)[:32]!r}… is not so"
        ) from None


def message_of(properties: Properties, body: bytes) -> Message:
    """The message that somebody has published; one without an id gets a new one."""
    message_id = ""
    metadata: dict[str, str] = {}
    rest: list[tuple[str, bytes]] = []
    for name, value in properties.headers:
        kind = _kind(name)
        if kind == "note":
            continue
        text = _text(value) if kind else None
        if text is None:
            if name != ID:
                rest.append((name, value))
        elif kind == "id":
            message_id = text
        else:
            if name in metadata:
                rest.append((name, metadata[name].encode()))
            metadata[name] = text
    if not message_id and properties.message_id.isprintable():
        message_id = properties.message_id
    return received(message_id, body, metadata, None, tuple(rest))


def _check_name(name: str) -> None:
    kind = _kind(name)
    if kind == "id":
        raise InvalidMessageError(
            f"{ID!r} is the name that the id of a message goes under; it can't be in its metadata"
        )
    if kind == "note":
        raise InvalidMessageError(
            f"{name!r} in the metadata of a message means something to RabbitMQ, or to eventflow: "
            "no message can have it, give it another name"
        )


@lru_cache(1_024)
def _kind(name: str) -> str:
    """What a header is, by its name; empty for one that can be no metadata."""
    if name == ID:
        return "id"
    if name in NOTES or name.startswith(NOTES_BEGIN):
        return "note"
    try:
        name.encode()  # bytes that were no UTF-8 stand in it as halves of surrogates
    except UnicodeError:
        return ""
    return "pair" if name else ""


def _text(value: bytes) -> str | None:
    """The text of a value that can be metadata; ``None`` for others."""
    if type(value) is Field:
        return None
    try:
        return value.decode()
    except UnicodeError:
        return None
