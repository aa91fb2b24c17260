"""Records as Watermill writes and reads them."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.kafka._wire import ID, PER_HEADER, headers_of, key_bytes, message_of, native
from eventflow.errors import InvalidMessageError
from eventflow.messaging import Message

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = texts.filter(lambda name: name not in ("", ID) and "\0" not in name)


def test_the_headers_of_a_record() -> None:
    """The id under its name, then the metadata, UTF-8; native ones as they are."""
    message = Message(b"x", {"name": "Ping", "t": "ż"}, id="m-1", headers=(("h", b"\xff"),))
    headers, size = headers_of(message)
    assert headers == [("h", b"\xff"), (ID, b"m-1"), ("name", b"Ping"), ("t", "ż".encode())]
    assert size >= sum(len(name) + len(value or b"") for name, value in headers)


@given(
    metadata=st.dictionaries(names, texts, max_size=5),
    headers=st.lists(st.tuples(names, st.just(b"\xff\xfe")), max_size=3),
    key=st.none() | texts,
    payload=st.binary(max_size=50),
)
def test_there_and_back(
    metadata: dict[str, str], headers: list[tuple[str, bytes]], key: str | None, payload: bytes
) -> None:
    """Every message that can be made comes back equal."""
    message = Message(payload, metadata, key=key, headers=tuple(headers))
    found, size = headers_of(message)
    raw: list[tuple[str, bytes | None]] = [(name, as_the_library(value)) for name, value in found]
    assert size == sum(len(name.encode()) + len(value or b"") + PER_HEADER for name, value in raw)
    key_as_it_goes = None if key is None else key_bytes(key)
    assert message_of(message.payload, key_as_it_goes, raw) == message
    assert set(headers) <= set(native(raw))


def as_the_library(value: str | bytes | None) -> bytes | None:
    """A value as it goes out: the client library cuts texts off at a NUL, and not bytes."""
    return value.partition("\0")[0].encode() if isinstance(value, str) else value


def test_of_a_name_that_comes_twice_the_last_counts() -> None:
    """As in Watermill; the others stay, and are written again, before it."""
    raw = [(ID, b"1"), ("twice", b"a"), ("n", None), ("twice", b"b"), (ID, b"2")]
    message = message_of(None, None, raw)
    assert (message.id, message.payload) == ("2", b"")
    assert message.metadata == {"twice": "b", "n": ""}
    assert message.headers == (("twice", b"a"),)
    written = headers_of(message)[0]
    assert [value for name, value in written if name == "twice"] == [b"a", b"b"]


@pytest.mark.parametrize("raw", [[], None, [("x", b"y")], [(ID, b"")], [(ID, b"\xff")]])
def test_without_an_id_it_gets_one(raw: list[tuple[str, bytes | None]] | None) -> None:
    """Others may write no id, or one that is no text."""
    assert len(message_of(b"x", None, raw).id) == 36


def test_a_key_that_is_no_text_is_kept() -> None:
    """Its bytes are written back, also by a copy, and by one that was pickled."""
    key = b"\x00\xff\x80key"
    message = message_of(b"x", key, [])
    copies = [
        message.copy(payload=b"y"),
        message.copy(metadata={"a": "b"}),
        copy.deepcopy(message),
        pickle.loads(pickle.dumps(message)),
    ]
    assert {key_bytes(one.key or "") for one in (message, *copies)} == {key}


def test_the_name_of_the_id_is_taken() -> None:
    """Metadata that would overwrite the id is refused, as in Watermill."""
    for message in (Message(b"x", {ID: "1"}), Message(b"x", headers=((ID, b"\xff"),))):
        with pytest.raises(InvalidMessageError, match=ID):
            headers_of(message)


@pytest.mark.parametrize(
    "message", [Message(b"", {"é\0n": "x"}), Message(b"", headers=(("a\0", b"\xff"),))]
)
def test_a_name_that_would_be_cut_is_refused(message: Message) -> None:
    with pytest.raises(InvalidMessageError, match="NUL"):
        headers_of(message)
