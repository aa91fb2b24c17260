"""Messages and RabbitMQ's, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.rabbitmq import Field
from eventflow.brokers.rabbitmq._frames import Properties, read_properties
from eventflow.brokers.rabbitmq._wire import ID, message_of, table_of
from eventflow.errors import InvalidMessageError
from eventflow.messaging import Message

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda name: not name.startswith("x-") and name not in ("CC", "BCC")
)


def sent(message: Message) -> Message:
    return message_of(read_properties(b"\x20\x00" + table_of(message)), message.payload)


@given(st.builds(Message, st.binary(), st.dictionaries(names, texts)))
def test_a_message_comes_as_it_was_sent(message: Message) -> None:
    assert sent(message) == message


def test_native_headers_come_back() -> None:
    headers = (("h", b"\xff"), ("twice", b"\xfe"), ("twice", b"\x80"), ("n", Field(b"I\0\0\0\5")))
    message = Message(b"x", {"a": "1"}, headers=headers)
    assert sent(message) == message


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (b"t\x01", b"true"),
        (b"t\x00", b"false"),
        (b"b\xff", b"-1"),
        (b"B\xff", b"255"),
        (b"s\xff\xfe", b"-2"),
        (b"u\xff\xfe", b"65534"),
        (b"I\xff\xff\xff\xff", b"-1"),
        (b"i\xff\xff\xff\xff", b"4294967295"),
        (b"l\x00\x20\x00\x00\x00\x00\x00\x01", b"9007199254740993"),
        (b"T\x00\x00\x00\x00\x00\x00\x00\x05", b"5"),
        (b"f\x3f\x80\x00\x00", b"1.0"),
        (b"d\xbf\xf8\x00\x00\x00\x00\x00\x00", b"-1.5"),
        (b"f\x3f", b"f3f"),
        (b"x\x00\x00\x00\x02\xff\x00", b"\xff\x00"),
        (b"V", b""),
        (b"", b""),
        (b"D\x02\x00\x00\x00\x05", b"D0200000005"),
        (b"A\x00\x00\x00\x00", b"A00000000"),
        (b"F\x00\x00\x00\x00", b"F00000000"),
    ],
)
def test_where_only_texts_are_read_all_headers_are_texts(field: bytes, text: bytes) -> None:
    message = Message(b"", {"a": "1"}, headers=(("h", Field(field)), ("text", b"\xff")))
    table = table_of(message, texts_only=True)
    headers = read_properties(b"\x20\x00" + table).headers
    assert [(name, value) for name, value in headers if name != ID] == [
        ("h", text),
        ("text", b"\xff"),
        ("a", b"1"),
    ]
    assert not any(isinstance(value, Field) for _, value in headers)


def test_what_the_server_adds_is_no_part_of_the_message() -> None:
    added = [("x-death", Field(b"A\0\0\0\0")), ("x-first-death-queue", b"q"), ("x-mine", b"1")]
    message = message_of(Properties(added, "", is_whole=True), b"")
    assert message.metadata == {"x-mine": "1"}
    assert message.headers == ()


def test_a_name_that_comes_twice_counts_the_last_time() -> None:
    message = message_of(Properties([("a", b"1"), ("a", b"2")], "", is_whole=True), b"")
    assert message.metadata == {"a": "2"}
    assert message.headers == (("a", b"1"),)


@pytest.mark.parametrize(
    ("headers", "property_", "wanted"),
    [
        ([(ID, b"m-1")], "other", "m-1"),
        ([(ID, b"")], "from-the-property", "from-the-property"),
        ([(ID, b"\xff")], "from-the-property", "from-the-property"),
        ([(ID, Field(b"V"))], "from-the-property", "from-the-property"),
        ([], "from-the-property", "from-the-property"),
    ],
)
def test_where_an_id_comes_from(
    headers: list[tuple[str, bytes]], property_: str, wanted: str
) -> None:
    assert message_of(Properties(headers, property_, is_whole=True), b"").id == wanted


@pytest.mark.parametrize("property_", ["", "a\nb"])
def test_a_message_without_an_id_gets_one(property_: str) -> None:
    assert len(message_of(Properties([], property_, is_whole=True), b"").id) == 36


@pytest.mark.parametrize(
    "message",
    [
        Message(b"", {ID: "x"}),
        Message(b"", headers=((ID, b"x"),)),
        Message(b"", {"é" * 128: "x"}),
    ],
)
def test_what_can_not_be_sent_is_refused(message: Message) -> None:
    with pytest.raises(InvalidMessageError, match=r"_watermill_message_uuid|255 bytes"):
        table_of(message)


@pytest.mark.parametrize(
    "name",
    [
        *("CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count"),
        *("x-first-death-queue", "x-last-death-reason", "x-eventflow-due"),
    ],
)
def test_what_means_something_to_the_server_is_refused(name: str) -> None:
    """It would close the channel, route copies, or be taken out by whoever reads it."""
    for message in (Message(b"x", {name: "1"}), Message(b"x", headers=((name, b"1"),))):
        with pytest.raises(InvalidMessageError, match=f"'{name}'.*another name"):
            table_of(message)


@pytest.mark.parametrize(
    "name", ["cc", "x-deathly", "x-mine", "x-delivery-count-of-mine", "X-Death"]
)
def test_names_that_only_look_like_it_travel(name: str) -> None:
    message = Message(b"x", {name: "1"})
    assert sent(message) == message
