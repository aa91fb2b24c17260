"""`Message`: what brokers carry."""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import TYPE_CHECKING, Any, cast

from eventflow.errors import InvalidMessageError
from eventflow.events.identity import new_id

__all__ = ("Message", "NativeHeaders", "received")

NativeHeaders = tuple[tuple[str, bytes], ...]
"""Headers as a broker carries them: names and bytes, in order; a name may come twice."""

_SHOWN = 64


class Message:
    """An id, a payload of bytes and metadata of texts; below events, above every broker.

    A message is a value: it is compared by its contents and can't be changed, its metadata
    included, so that it can be shared. Whoever wants another makes a `copy`. It carries no ack
    state: that belongs to a `Delivery`.

    Args:
        payload: The body, as it goes over the wire.
        metadata: Texts by name. Taken over as a dict of the message's own, for reading.
        id: What it is known by, in logs and for deduplication. Default: a new UUIDv7. An empty
            one, as other writers may send, is replaced by a new one too.
        key: Messages with the same key keep their order on backends that order by key, and
            meet in one partition where there are partitions. ``None``: no order is asked for.
        headers: Native headers that can't be metadata: bytes that are no text, and all but the
            last of those with one name. A message that was received has them, and its dead
            letter keeps them; backends without native headers refuse them.

    Raises:
        InvalidMessageError: Something in it is of another type, or a text is not Unicode.

    Example:
        >>> Message(b'{"n":1}', {"name": "Ping"}, id="m-1")
        Message(id='m-1', payload=b'{"n":1}', metadata={'name': 'Ping'})
    """

    if TYPE_CHECKING:

        @property
        def id(self) -> str:
            """What it is known by."""
            ...

        @property
        def payload(self) -> bytes:
            """The body."""
            ...

        @property
        def metadata(self) -> dict[str, str]:
            """Texts by name; for reading."""
            ...

        @property
        def key(self) -> str | None:
            """What it keeps its order by."""
            ...

        @property
        def headers(self) -> NativeHeaders:
            """Native headers that can't be metadata."""
            ...

    else:
        __slots__ = ("headers", "id", "key", "metadata", "payload")

    def __init__(
        self,
        payload: bytes | bytearray | memoryview = b"",
        metadata: Mapping[str, str] | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the field's name everywhere
        key: str | None = None,
        headers: NativeHeaders = (),
    ) -> None:
        _set_payload(self, _checked_payload(payload))
        _set_metadata(self, _EMPTY if metadata is None else _checked_metadata(metadata))
        _set_id(self, _checked_text("id", id) if id else new_id(time_ns()))
        _set_key(self, None if key is None else _checked_text("key", key))
        _set_headers(self, _checked_headers(headers) if headers else ())

    @classmethod
    def received(
        cls,
        message_id: str,
        payload: bytes,
        metadata: dict[str, str],
        *,
        key: str | None = None,
        headers: NativeHeaders = (),
    ) -> Message:
        """Make a message of parts that are known to be right; for backends.

        An empty id is replaced by a new one.
        """
        self = cls.__new__(cls)
        _set_id(self, message_id or new_id(time_ns()))
        _set_payload(self, payload)
        _set_metadata(self, _Metadata(metadata))
        _set_key(self, key)
        _set_headers(self, headers)
        return self

    def copy(
        self, *, metadata: Mapping[str, str] | None = None, payload: bytes | None = None
    ) -> Message:
        """Return a message with the same id and key, and what is given in the place of its own.

        Args:
            metadata: Instead of its metadata, not in addition to it.
            payload: Instead of its payload.
        """
        return received(
            self.id,
            self.payload if payload is None else _checked_payload(payload),
            self.metadata if metadata is None else _checked_metadata(metadata),
            self.key,
            self.headers,
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a message is a value."""
        raise AttributeError(f"a message can't be changed: make another with copy({name}=…)")

    def __delattr__(self, name: str) -> None:
        """Refuse: a message is a value."""
        raise AttributeError("a message can't be changed")

    def __copy__(self) -> Message:
        """The message itself: it can't be changed."""
        return self

    def __deepcopy__(self, memo: object) -> Message:
        """The message itself: it can't be changed."""
        return self

    def __eq__(self, other: object) -> bool:
        """Compare contents."""
        if not isinstance(other, Message):
            return NotImplemented
        return (
            self.id == other.id
            and self.payload == other.payload
            and self.metadata == other.metadata
            and self.key == other.key
            and self.headers == other.headers
        )

    __hash__ = None  # type: ignore[assignment]  # its metadata is a dict

    def __repr__(self) -> str:
        """Id, key, the start of the payload, and the metadata."""
        payload = repr(self.payload[:_SHOWN]) + ("…" if len(self.payload) > _SHOWN else "")
        key = "" if self.key is None else f", key={self.key!r}"
        return f"Message(id={self.id!r}, payload={payload}, metadata={self.metadata!r}{key})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by contents."""
        return received, (self.id, self.payload, {**self.metadata}, self.key, self.headers)


class _Metadata(dict[str, str]):
    """A dict for reading: whoever writes to it meant to make another message."""

    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "the metadata of a message can't be changed: make another message with "
            "message.copy(metadata={**message.metadata, …})"
        )

    if not TYPE_CHECKING:
        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return _Metadata, ({**self},)


_EMPTY = _Metadata()
_slots: Any = Message.__dict__
_set_id = _slots["id"].__set__
_set_payload = _slots["payload"].__set__
_set_metadata = _slots["metadata"].__set__
_set_key = _slots["key"].__set__
_set_headers = _slots["headers"].__set__


class _Draft:
    """What becomes a message once it has its parts, which nothing refuses here."""

    __slots__ = ("headers", "id", "key", "metadata", "payload")


def received(
    message_id: str,
    payload: bytes,
    metadata: dict[str, str],
    key: str | None = None,
    headers: NativeHeaders = (),
) -> Message:
    """The same as `Message.received`, in half the time: for where each message pays for it."""
    draft: Any = _Draft()
    draft.id = message_id or new_id(time_ns())
    draft.payload = payload
    draft.metadata = _Metadata(metadata)
    draft.key = key
    draft.headers = headers
    # The slots are the same, so this is allowed.
    draft.__class__ = Message
    message: Message = draft
    return message


def _checked_payload(payload: object) -> bytes:
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, (bytearray, memoryview)):
        return bytes(cast("bytearray", payload))
    raise InvalidMessageError(
        f"a message's payload is bytes, not {type(payload).__name__}"
        + ("; encode the text first" if isinstance(payload, str) else "")
    )


def _checked_text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidMessageError(f"a message's {what} is a text, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidMessageError(
                f"a message's {what} has half a surrogate pair: no UTF-8 stands for it"
            ) from None
    return value


def _checked_metadata(metadata: object) -> _Metadata:
    if type(metadata) is _Metadata:
        return metadata
    if not isinstance(metadata, Mapping):
        raise InvalidMessageError(
            f"metadata maps texts to texts, it is not {type(metadata).__name__}"
        )
    checked: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", metadata).items():
        name = _checked_text("metadata name", name)
        if not name:
            raise InvalidMessageError("a metadata name has one character or more")
        checked[name] = _checked_text(f"metadata value of {name[:_SHOWN]!r}", value)
    return _Metadata(checked)


def _checked_headers(headers: object) -> NativeHeaders:
    pairs = tuple(cast("Any", headers))
    for pair in pairs:
        if not (
            isinstance(pair, tuple)
            and len(cast("tuple[object, ...]", pair)) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], bytes)
        ):
            raise InvalidMessageError("native headers are pairs of a text and bytes")
    return cast("NativeHeaders", pairs)
