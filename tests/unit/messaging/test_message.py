"""`Message`: a value, checked when it is made."""

from __future__ import annotations

import copy
import pickle
import uuid
from typing import Any

import pytest

from eventflow.errors import InvalidMessageError
from eventflow.messaging import Message
from eventflow.messaging.message import received


def test_an_id_is_made_unless_it_is_given() -> None:
    """A UUIDv7; an empty id, as other writers may send, is replaced too."""
    assert uuid.UUID(Message().id).version == 7
    assert Message(id="").id != Message(id="").id
    assert Message(id="m-1").id == "m-1"


def test_messages_are_compared_by_their_contents() -> None:
    message = Message(b"x", {"a": "1"}, id="m-1", key="k", headers=(("h", b"\xff"),))

    assert message == message.copy()
    for other in (
        Message(b"y", {"a": "1"}, id="m-1", key="k", headers=(("h", b"\xff"),)),
        Message(b"x", {"a": "2"}, id="m-1", key="k", headers=(("h", b"\xff"),)),
        Message(b"x", {"a": "1"}, id="m-2", key="k", headers=(("h", b"\xff"),)),
        Message(b"x", {"a": "1"}, id="m-1", key="l", headers=(("h", b"\xff"),)),
        Message(b"x", {"a": "1"}, id="m-1", key="k"),
    ):
        assert message != other
    assert message != "m-1"
    with pytest.raises(TypeError):
        hash(message)


def test_a_copy_has_the_same_id() -> None:
    """Id, payload, metadata and key; another payload or other metadata where given."""
    message = Message(b"x", {"a": "1"}, id="m-1", key="k")

    copied = message.copy(payload=b"y")

    assert (message.payload, message.metadata) == (b"x", {"a": "1"})
    assert (copied.id, copied.key, copied.payload) == ("m-1", "k", b"y")
    assert message.copy(metadata={"b": "3"}).metadata == {"b": "3"}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("update", ({"b": "2"},)),
        ("pop", ("a",)),
        ("popitem", ()),
        ("clear", ()),
        ("setdefault", ("b", "2")),
        ("__setitem__", ("a", "2")),
        ("__delitem__", ("a",)),
        ("__ior__", ({"a": "2"},)),
    ],
)
def test_metadata_can_not_be_changed(method: str, arguments: tuple[Any, ...]) -> None:
    """Who received a message, and who published it, may hold the same object."""
    message = Message(b"x", {"a": "1"}, id="m-1")
    with pytest.raises(TypeError, match="can't be changed"):
        getattr(message.metadata, method)(*arguments)
    assert message == Message(b"x", {"a": "1"}, id="m-1")


def test_the_rest_can_not_be_changed_either() -> None:
    message = Message(b"x")
    for name in ("id", "payload", "metadata", "key", "headers"):
        with pytest.raises(AttributeError, match="can't be changed"):
            setattr(message, name, None)
        with pytest.raises(AttributeError, match="can't be changed"):
            delattr(message, name)


def test_metadata_is_taken_over_as_a_copy() -> None:
    given = {"a": "1"}
    message = Message(b"", given)
    given["a"] = "2"
    assert message.metadata == {"a": "1"}


def pickled(message: Message) -> Message:
    found: Message = pickle.loads(pickle.dumps(message))
    return found


@pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, pickled])
def test_it_survives_copy_and_pickle(remake: Any) -> None:
    message = Message(b"x", {"a": "1"}, id="m-1", key="k", headers=(("h", b"\xff"),))
    assert remake(message) == message


def test_bytes_like_payloads_become_bytes() -> None:
    assert Message(bytearray(b"x")).payload == b"x"
    assert Message(memoryview(b"xyz")[1:]).payload == b"yz"


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("text",), {}, "encode the text first"),
        ((5,), {}, "bytes, not int"),
        ((b"", {"a": 1}), {}, "'a' is a text, not int"),
        ((b"", {1: "a"}), {}, "metadata name is a text"),
        ((b"", {"": "a"}), {}, "one character or more"),
        ((b"", [("a", "b")]), {}, "maps texts to texts"),
        ((b"", {"a": "\ud800"}), {}, "half a surrogate pair"),
        ((b"",), {"id": 5}, "id is a text"),
        ((b"",), {"key": 5}, "key is a text"),
        ((b"",), {"headers": [("a", "b")]}, "pairs of a text and bytes"),
        ((b"",), {"headers": [b"ab"]}, "pairs of a text and bytes"),
    ],
)
def test_what_no_broker_could_carry_is_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidMessageError, match=said):
        Message(*arguments, **options)


def test_its_repr_has_only_the_start_of_the_payload() -> None:
    text = repr(Message(b"x" * 10_000, {"a": "1"}, id="m-1", key="k"))
    assert len(text) < 200
    assert "m-1" in text
    assert "key='k'" in text


def test_one_that_was_received_is_no_different() -> None:
    """Made in another way, it is a message from then on: nothing of it can be changed."""
    texts = {"a": "1"}
    message = received("m-1", b"x", texts, "k", (("h", b"\xff"),))
    texts["a"] = "2"
    assert type(message) is Message
    assert message == Message(b"x", {"a": "1"}, id="m-1", key="k", headers=(("h", b"\xff"),))
    assert uuid.UUID(received("", b"", {}).id).version == 7
    with pytest.raises(AttributeError, match="copy"):
        message.payload = b"y"  # type: ignore[misc]  # the point
    with pytest.raises(TypeError):
        message.metadata["a"] = "2"
    assert pickle.loads(pickle.dumps(message)) == copy.deepcopy(message) == message
