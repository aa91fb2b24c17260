"""Frames and fields: what others may write is read without harm, what we write is read back."""

from __future__ import annotations

import struct

import pamqp.decode
import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from eventflow.brokers.rabbitmq import Field
from eventflow.brokers.rabbitmq._frames import (
    ack_frame,
    content_frames,
    nack_frame,
    publish_frame,
    read_properties,
    write_table,
)

HEADERS_ONLY = b"\x20\x00"
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def table(*fields: bytes) -> bytes:
    """A content header's flags, and a table of these."""
    rest = b"".join(fields)
    return HEADERS_ONLY + struct.pack(">I", len(rest)) + rest


def field(name: bytes, kind: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + kind + value


def long_text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


@given(st.lists(st.tuples(texts, st.binary(max_size=50))))
def test_what_we_write_is_read_back(pairs: list[tuple[str, bytes]]) -> None:
    found = read_properties(HEADERS_ONLY + write_table(pairs))
    assert found.headers == pairs
    assert found.is_whole


@given(st.dictionaries(texts, texts))
def test_an_independent_library_reads_what_we_write(pairs: dict[str, str]) -> None:
    written = write_table([(name, text.encode()) for name, text in pairs.items()])
    _, found = pamqp.decode.field_table(written)
    assert found == pairs


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (b"t", b"\x01"),
        (b"b", b"\x05"),
        (b"B", b"\xff"),
        (b"s", b"\x00\x05"),
        (b"u", b"\x00\x05"),
        (b"I", b"\x00\x00\x00\x05"),
        (b"i", b"\x00\x00\x00\x05"),
        (b"f", struct.pack(">f", 1.5)),
        (b"l", struct.pack(">q", -1)),
        (b"L", struct.pack(">q", 5)),
        (b"d", struct.pack(">d", 1.5)),
        (b"T", struct.pack(">Q", 2**63 - 1)),
        (b"D", b"\xff\x00\x00\x00\x05"),
        (b"V", b""),
        (b"x", long_text(b"\xff\x00")),
        (b"A", long_text(b"I\x00\x00\x00\x01")),
        (b"F", long_text(field(b"k", b"I", b"\x00\x00\x00\x01"))),
    ],
)
def test_every_type_is_kept_and_written_as_it_came(kind: bytes, value: bytes) -> None:
    """Also those whose value another library chokes on; what stands behind them is read."""
    raw = table(field(b"h", kind, value), field(b"after", b"S", long_text(b"x")))
    found = read_properties(raw)
    assert found.headers == [("h", kind + value), ("after", b"x")]
    assert type(found.headers[0][1]) is Field
    assert found.is_whole
    assert HEADERS_ONLY + write_table(found.headers) == raw


@pytest.mark.parametrize(
    "raw",
    [
        HEADERS_ONLY + struct.pack(">I", 100) + b"\x01",
        table(field(b"h", b"?", b"")),
        table(field(b"h", b"S", struct.pack(">I", 99) + b"x")),
        table(field(b"h", b"I", b"\x00")),
        table(b"\xff"),
        HEADERS_ONLY,
        b"\x80\x00\xff",
    ],
    ids=range(7),
)
def test_a_table_that_is_cut_is_told(raw: bytes) -> None:
    assert not read_properties(raw).is_whole


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"I",
        b"?",
        b"S\0\0\0\2x",
        b"S\0\0",
        b"A\0\0\0\1I",
        b"F\0\0\0\3\1kI",
        b"F\0\0\0\1\xff",
        b"V.",
    ],
)
def test_a_field_that_is_none_is_not_written(value: bytes) -> None:
    """A server would end the connection by it, and with it what others do."""
    with pytest.raises(ValueError, match="name"):
        write_table([("name", Field(value))])


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(raw: bytes) -> None:
    read_properties(raw)


def test_a_name_that_is_no_utf8_is_kept() -> None:
    raw = table(field(b"\xff", b"S", long_text(b"x")))
    found = read_properties(raw)
    assert found.is_whole
    assert HEADERS_ONLY + write_table(found.headers) == raw


def test_properties_in_front_of_the_headers_and_behind() -> None:
    properties = commands.Basic.Properties(
        content_type="text/plain",
        content_encoding="x",
        headers={"a": "1"},
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m-1",
        app_id="behind it",
    )
    frame = pamqp.frame.marshal(ContentHeader(body_size=1, properties=properties), 1)
    found = read_properties(frame[7 + 12 : -1])
    assert found == ([("a", b"1")], "m-1", True)


@given(st.binary(max_size=100), st.integers(64, 200))
def test_an_independent_library_reads_our_frames(body: bytes, most: int) -> None:
    frames = content_frames(7, write_table([("a", b"1")]), body, most)
    size, channel, header = pamqp.frame.unmarshal(frames)
    assert channel == 7
    assert isinstance(header, ContentHeader)
    assert header.body_size == len(body)
    assert header.properties.headers == {"a": "1"}
    assert header.properties.delivery_mode == 2
    joined = b""
    while frames := frames[size:]:
        size, channel, part = pamqp.frame.unmarshal(frames)
        assert size <= most
        assert channel == 7
        assert isinstance(part, ContentBody)
        joined += part.value
    assert joined == body


def test_an_independent_library_reads_our_methods() -> None:
    def read(frame: bytes) -> object:
        size, channel, method = pamqp.frame.unmarshal(frame)
        assert (size, channel) == (len(frame), 5)
        return method

    published = read(publish_frame(5, "zażółć", "key", mandatory=True))
    assert isinstance(published, commands.Basic.Publish)
    assert (published.exchange, published.routing_key) == ("zażółć", "key")
    assert (published.mandatory, published.immediate) == (True, False)
    for multiple in (True, False):
        acked = read(ack_frame(5, 2**40, multiple=multiple))
        assert isinstance(acked, commands.Basic.Ack)
        assert (acked.delivery_tag, acked.multiple) == (2**40, multiple)
        nacked = read(nack_frame(5, 3, multiple=multiple))
        assert isinstance(nacked, commands.Basic.Nack)
        assert (nacked.delivery_tag, nacked.multiple, nacked.requeue) == (3, multiple, True)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (b"U", b"\x00\x05"),
        (b"f", struct.pack(">f", float("nan"))),
        (b"d", struct.pack(">d", float("inf"))),
        (b"A", long_text(b"d" + struct.pack(">d", float("-inf")))),
        (b"F", long_text(field(b"k", b"f", struct.pack(">f", float("nan"))))),
    ],
)
def test_what_no_server_takes_is_read_and_not_written(kind: bytes, value: bytes) -> None:
    """It would end the connection: such numbers, or such a type, are none in Erlang."""
    found = read_properties(table(field(b"h", kind, value)))
    assert (found.headers, found.is_whole) == ([("h", kind + value)], True)
    with pytest.raises(ValueError, match="h"):
        write_table(found.headers)


def test_what_is_nested_deeply_is_written() -> None:
    """As deep as a frame has room for, in no time; what is wrong at the bottom is found."""
    good, bad = b"V", b"U\x00\x05"
    for _ in range(20_000):
        good, bad = b"A" + long_text(good), b"A" + long_text(bad)
    assert write_table([("h", Field(good))])
    with pytest.raises(ValueError, match="h"):
        write_table([("h", Field(bad))])
