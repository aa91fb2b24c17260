"""AMQP 0-9-1's frames and fields, as far as messages need them.

Those that carry messages and acks are read and written here, since one of somebody else's that
can't be read must not end a connection, and each costs time. All others are the client library's.
Formats: AMQP 0-9-1, sections 2.3.5, 4.2 and the errata on field types that RabbitMQ follows.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "ACK",
    "BESIDE",
    "BLOCKED",
    "BODY",
    "CHANNEL_CLOSE",
    "CLOSE",
    "DELIVER",
    "FRAME_END",
    "HEAD",
    "HEADER",
    "HEARTBEAT",
    "METHOD",
    "NACK",
    "RETURN",
    "UNBLOCKED",
    "BadFrameError",
    "Field",
    "Properties",
    "ack_frame",
    "as_text",
    "content_frames",
    "method_of",
    "nack_frame",
    "publish_frame",
    "read_close",
    "read_properties",
    "read_source",
    "read_text",
    "write_table",
)

METHOD, HEADER, BODY = 1, 2, 3
FRAME_END = 0xCE
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

DELIVER = 60 << 16 | 60
RETURN = 60 << 16 | 50
PUBLISH = 60 << 16 | 40
ACK = 60 << 16 | 80
NACK = 60 << 16 | 120
CLOSE = 10 << 16 | 50
CHANNEL_CLOSE = 20 << 16 | 40
BLOCKED = 10 << 16 | 60
UNBLOCKED = 10 << 16 | 61

HEAD = Struct(">BHI")
"""Kind, channel and size of a frame."""
_method = Struct(">I").unpack_from
_long = Struct(">I")
_content = Struct(">BHIHHQH").pack
_text = Struct(">cI").pack
_settling = Struct(">BHIIQBB")
_publish = Struct(">IH")
_FLOATS = {"f": Struct(">f"), "d": Struct(">d")}

LONGEST_SHORT = 255
"""Most bytes of a short text: of names, and of keys in tables."""
_PERSISTENT_END = b"\x02\xce"
"""A message's mode, which is the last of its properties, and the end of their frame."""
HAS_HEADERS, HAS_MODE = 0x2000, 0x1000
_MESSAGE_ID = 0x0080

_SIZES = {
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"sUu", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"lLdT", 8),
    ord("D"): 5,
    ord("V"): 0,
}
"""Bytes of a field's value, by its type; others have their length in front."""
_LONG_TYPES = b"SxAF"
_TABLE, _UNKNOWN = b"FU"
"""Tables; and what RabbitMQ does not know, though the specification does."""
_EXPONENTS = {ord("f"): 0x7F80, ord("d"): 0x7FF0}


class BadFrameError(Exception):
    """Something in a frame is longer than the frame, or of a type that there is not."""


class Field(bytes):
    """A header's value that is no text, as it stands in the table; it is written as it came.

    Its type, which is one letter, then its bytes: ``I`` and four bytes for a number, for example.
    """


def as_text(field: Field) -> bytes:
    """A text that says what a field does, for readers that take nothing else.

    Numbers are in decimal, a time is in seconds since 1970, bytes are as they are, and nothing is
    an empty text. Tables, lists and decimals are in hexadecimal, with the letter of their type.
    """
    kind, value = field[:1].decode("latin-1"), field[1:]
    if kind in ("", "V"):
        return b""
    if kind == "t":
        return b"true" if any(value) else b"false"
    if kind in "bBsUuIilLT":
        return b"%d" % int.from_bytes(value, signed=kind not in "BuiT")
    if kind in "Sx":
        return value[4:]
    if kind in _FLOATS and len(value) == _FLOATS[kind].size:
        return repr(_FLOATS[kind].unpack(value)[0]).encode()
    return f"{kind}{value.hex()}".encode()


class Properties(NamedTuple):
    """What stands between a message's frame and its body.

    Attributes:
        headers: Names with values: `Field`, or the bytes of a text.
        message_id: The property of that name; empty without one.
        is_whole: Whether all could be read.
    """

    headers: list[tuple[str, bytes]]
    message_id: str
    is_whole: bool


def method_of(data: bytes, at: int) -> int:
    """Class and number of a method whose frame's payload begins at a place."""
    found: int = _method(data, at)[0]
    return found


def read_text(data: bytes, at: int) -> tuple[str, int]:
    """A short text, and where it ends; bytes that are no UTF-8 become surrogates."""
    end = _end_of_text(data, at)
    return _name(data[at + 1 : end]), end


def _end_of_text(data: bytes, at: int) -> int:
    end = at + 1 + data[at]
    if end > len(data):
        raise BadFrameError
    return end


@lru_cache(1_024)
def _name(text: bytes) -> str:
    """A name, which will come again."""
    return text.decode(errors="surrogateescape")


@lru_cache(1_024)
def read_source(data: bytes) -> tuple[str, str]:
    """The exchange and the routing key at the end of a delivery's frame."""
    exchange, at = read_text(data, 0)
    routing_key, _ = read_text(data, at)
    return exchange, routing_key


def read_close(data: bytes, at: int, end: int) -> tuple[int, str]:
    """Code and text of a frame that closes something; its payload is from ``at`` to ``end``."""
    text = data[at + 7 : min(at + 7 + data[at + 6], end)]
    return int.from_bytes(data[at + 4 : at + 6]), text.decode(errors="replace")


def read_properties(data: bytes) -> Properties:
    """Read what a content header has after its size: flags, and what they announce.

    What can't be read is left out.
    """
    headers: list[tuple[str, bytes]] = []
    message_id = ""
    is_whole = True
    try:
        at = 2
        for kind in _layout(data[:2]):
            if kind == "table":
                (size,) = _long.unpack_from(data, at)
                end = at + 4 + size
                if end > len(data):
                    raise BadFrameError
                _read_table(headers, data, at + 4, end)
                at = end
            elif kind == "octet":
                at += 1
            elif kind == "text":
                at = _end_of_text(data, at)
            else:
                end = _end_of_text(data, at)
                message_id = data[at + 1 : end].decode(errors="surrogateescape")
                at = end
    except (BadFrameError, IndexError, StructError):
        is_whole = False
    return Properties(headers, message_id, is_whole)


_PROPERTIES = (
    (0x8000, "text"),  # content type
    (0x4000, "text"),  # content encoding
    (HAS_HEADERS, "table"),
    (HAS_MODE, "octet"),
    (0x0800, "octet"),  # priority
    (0x0400, "text"),  # correlation id
    (0x0200, "text"),  # reply to
    (0x0100, "text"),  # expiration
    (_MESSAGE_ID, "id"),
)
"""In their order; those after the message's id are not looked at."""


@lru_cache(256)
def _layout(flags: bytes) -> tuple[str, ...]:
    """The kinds of the properties that flags announce."""
    given = int.from_bytes(flags)
    return tuple(kind for flag, kind in _PROPERTIES if given & flag)


def _read_table(into: list[tuple[str, bytes]], data: bytes, at: int, end: int) -> None:
    """Add a table's pairs; those before a broken one are kept."""
    while at < end:
        start = _end_of_text(data, at)
        name = _name(data[at + 1 : start])
        kind = data[start]
        if kind == 0x53:  # S, a text: what nearly all are
            (size,) = _long.unpack_from(data, start + 1)
            start += 5
            at = start + size
            if at > end:
                raise BadFrameError
            into.append((name, data[start:at]))
            continue
        if (size := _SIZES.get(kind, -1)) < 0:
            if kind not in _LONG_TYPES:
                raise BadFrameError
            size = 4 + _long.unpack_from(data, start + 1)[0]
        at = start + 1 + size
        if at > end:
            raise BadFrameError
        into.append((name, Field(data[start:at])))


def _is_whole(value: bytes) -> bool:
    """Whether it is one value with its type, such as a server can read."""
    spans = [(0, len(value), False)]  # what stands in tables and arrays, and whether it has names
    try:
        while spans:
            at, end, has_names = spans.pop()
            while at < end:
                start = at + 1 + value[at] if has_names else at
                kind = value[start]
                size = _SIZES.get(kind, -1)
                if size < 0:
                    if kind not in _LONG_TYPES:
                        return False
                    size = 4 + _long.unpack_from(value, start + 1)[0]
                at = start + 1 + size
                if start == 0 and at != end:
                    return False  # more than one
                # Erlang has no number that is none, nor an infinite one.
                exponent = _EXPONENTS.get(kind)
                bits = int.from_bytes(value[start + 1 : start + 3])
                if at > end or kind == _UNKNOWN or (exponent and bits & exponent == exponent):
                    return False
                if kind in b"FA":
                    spans.append((start + 5, at, kind == _TABLE))
    except (IndexError, StructError):
        return False
    return bool(value)


def write_table(pairs: Iterable[tuple[str, bytes]]) -> bytes:
    """A table with its length.

    Raises:
        ValueError: A name has more than 255 bytes, or a `Field` is none: the server would end the
            connection.
    """
    parts = list[bytes]()
    for name, value in pairs:
        if type(value) is Field:
            if not _is_whole(value):
                raise ValueError(name)
            parts += (_key(name), value)
        else:
            parts += (_key(name), _text(b"S", len(value)), value)
    table = b"".join(parts)
    return _long.pack(len(table)) + table


@lru_cache(1_024)
def _key(name: str) -> bytes:
    """A name as it stands in a table."""
    key = name.encode(errors="surrogateescape")
    if len(key) > LONGEST_SHORT:
        raise ValueError(name)
    return bytes((len(key),)) + key


BESIDE = 23
"""Bytes in a frame of headers beside these."""


def publish_frame(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """The frame in front of a message that is published."""
    name, key = exchange.encode(), routing_key.encode()
    payload = b"".join(
        (
            _publish.pack(PUBLISH, 0),
            bytes((len(name),)),
            name,
            bytes((len(key),)),
            key,
            bytes((mandatory,)),
        )
    )
    return _frame(METHOD, channel, payload)


def content_frames(channel: int, table: bytes, body: bytes, most: int) -> bytes:
    """The frames of a persistent message: its headers, and its body.

    Args:
        channel: Number of the channel.
        table: The headers, as `write_table` has them.
        body: The payload.
        most: Bytes that a frame may have, all in all.
    """
    size, room = len(body), most - HEAD.size - 1
    # Class, weight, size of the body, flags; then the table, and that it is persistent.
    head = _content(*(HEADER, channel, 15 + len(table), 60, 0, size, HAS_HEADERS | HAS_MODE))
    if size <= room:
        if not body:
            return b"".join((head, table, _PERSISTENT_END))
        begin = HEAD.pack(BODY, channel, size)
        return b"".join((head, table, _PERSISTENT_END, begin, body, b"\xce"))
    frames = (_frame(BODY, channel, body[at : at + room]) for at in range(0, size, room))
    return b"".join((head, table, _PERSISTENT_END, *frames))


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """An ack of a delivery, or of all up to it."""
    return _settling.pack(METHOD, channel, 13, ACK, tag, multiple, FRAME_END)


def nack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """A delivery, or all up to it, given back to its queue."""
    return _settling.pack(METHOD, channel, 13, NACK, tag, multiple | 2, FRAME_END)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"".join((HEAD.pack(kind, channel, len(payload)), payload, b"\xce"))
