"""Between messages and Kafka's records: the format of Watermill's default marshaler.

The value is the payload. Each pair of the metadata is a header of UTF-8, and so is the id, under
a name of its own. A record that was written by somebody else may have what metadata can't hold:
a value that is no text, or a name that comes several times, of which the last one counts. These
stay native headers, and are written again as they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.errors import InvalidMessageError
from eventflow.messaging.message import received

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.messaging import Message, NativeHeaders

    RawHeaders = Sequence[tuple[str, bytes | None]]
    Headers = list[tuple[str, str | bytes | None]]

__all__ = ("ID", "headers_of", "key_bytes", "message_of", "native")

ID = "_watermill_message_uuid"
"""Header of the message's id. Watermill's."""
PER_HEADER = 8
"""Most bytes that a header takes beside its name and its value."""


def headers_of(message: Message) -> tuple[Headers, int]:
    """The headers of a message's record, and how many bytes they take.

    Raises:
        InvalidMessageError: Its metadata or headers use the name that the id goes under, or one
            with a NUL, where the client library would cut it.
    """
    metadata, texts = message.metadata, message.id
    headers: Headers = [(ID, texts)]
    for pair in metadata.items():
        headers.append(pair)
        name, text = pair
        texts += name
        texts += text
    if texts.isascii() and "\0" not in texts and not message.headers and ID not in metadata:
        # The library takes texts sooner than bytes, and cuts those off at a NUL.
        return headers, len(texts) + len(ID) + PER_HEADER * len(headers)
    headers = []
    size = 0
    has_nul = False
    if message.headers:
        has_nul = any("\0" in name for name, _ in message.headers)
        headers += message.headers
        size = sum(len(name.encode()) + len(value) + PER_HEADER for name, value in message.headers)
    value = message.id.encode()
    headers.append((ID, value))
    size += len(value) + len(ID) + PER_HEADER
    for name, text in metadata.items():
        value = text.encode()
        headers.append((name, value))
        if "\0" in name:
            has_nul = True
        size += len(value) + (len(name) if name.isascii() else len(name.encode())) + PER_HEADER
    if ID in metadata or (message.headers and any(n == ID for n, _ in message.headers)):
        raise InvalidMessageError(
            f"{ID!r} is the name that the id of a message goes under; it can't be in its metadata"
        )
    if has_nul:
        raise InvalidMessageError("the name of a header in Kafka has no NUL: it would be cut there")
    return headers, size


def key_bytes(key: str) -> bytes:
    """The key of a record."""
    return key.encode(errors="surrogateescape")


def message_of(value: bytes | None, key: bytes | None, headers: RawHeaders | None) -> Message:
    """The message that a record stands for; one without an id gets a new one."""
    message_id = ""
    metadata: dict[str, str] = {}
    rest: NativeHeaders = ()
    if headers:
        try:
            for name, raw in headers:
                metadata[name] = raw.decode()  # type: ignore[union-attr]
            if len(metadata) != len(headers):
                raise ValueError
            message_id = metadata.pop(ID, "")
        except (ValueError, AttributeError):  # no text, no value, or a name that comes twice
            message_id, metadata, rest = _sorted_out(headers)
    # A key that is no text comes with surrogates for its bytes, and is written back as it was.
    text = None if key is None else key.decode(errors="surrogateescape")
    return received(message_id, value or b"", metadata, text, rest)


def _sorted_out(headers: RawHeaders) -> tuple[str, dict[str, str], NativeHeaders]:
    """Id, metadata, and what can be neither."""
    message_id = ""
    metadata: dict[str, str] = {}
    rest: list[tuple[str, bytes]] = []
    for name, raw in headers:
        value = raw or b""
        try:
            text = value.decode()
        except UnicodeDecodeError:
            if name != ID:
                rest.append((name, value))
            continue
        if name == ID:
            message_id = text
        else:
            if name in metadata:
                rest.append((name, metadata[name].encode()))
            metadata[name] = text
    return message_id, metadata, tuple(rest)


def native(headers: RawHeaders | None) -> NativeHeaders:
    """A record's headers as they came; one without a value has an empty one."""
    return tuple((name, raw or b"") for name, raw in headers) if headers else ()
