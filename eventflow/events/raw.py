"""`RawJson`: a value that is kept as the bytes it came in."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError, core_schema, from_json

from eventflow.events._cut import value_spans
from eventflow.events._decoding import decode_error, json_error
from eventflow.events._model import FrozenModel
from eventflow.events._syntax import JsonSyntaxError, check_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import GetCoreSchemaHandler

    from eventflow.errors import EventDecodeError

__all__ = ("RawJson", "optional_raw", "read_around")

M = TypeVar("M", bound=BaseModel)
E = TypeVar("E")
_SHOWN = 60

# What was cut out of the document that is being read; a placeholder in its place is the index.
_CUTS: ContextVar[list[RawJson] | None] = ContextVar("eventflow_raw_json_cuts", default=None)


class RawJson:
    r"""JSON that is kept undecoded, byte for byte, until someone needs it.

    For a field of an event (not of a `Part`): the bytes are cut from the body as they stand
    and put back as they stand. Only UTF-8, syntax and depth (200) are checked. Two are equal
    when their bytes are.

    Args:
        data: One JSON document. Blanks around it are not kept.

    Raises:
        EventDecodeError: The bytes are not one JSON document in UTF-8 at most 200 deep.

    Example:
        >>> raw = RawJson(b'{"price": 1e2}')
        >>> bytes(raw)
        b'{"price": 1e2}'
    """

    __slots__ = ("_data",)

    _data: bytes

    def __init__(self, data: bytes | bytearray | memoryview, /) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"RawJson takes bytes, not {type(data).__name__}")
        document = bytes(data).strip(b" \t\n\r")
        problem: EventDecodeError | None = None
        try:
            check_json(document)
        except JsonSyntaxError as exc:
            problem = json_error(exc, what="RawJson", topic="", message_id=None)
        if problem is not None:
            raise problem
        object.__setattr__(self, "_data", document)

    def decode(self, model: type[M]) -> M:
        """Return the value as a model, such as a `Part`, validated now.

        Args:
            model: A Pydantic model; its own rules apply. A `Part` is read as inside an event:
                strict about types, unknown fields are passed over.

        Raises:
            EventDecodeError: The value does not fit the model.
        """
        problem: EventDecodeError | None = None
        try:
            return model.model_validate_json(
                self._data, extra="ignore" if issubclass(model, FrozenModel) else None
            )
        except ValidationError as exc:
            what = f"RawJson as {model.__name__}"
            problem = decode_error(exc, self._data, what=what, topic="", message_id=None)
        raise problem

    def __bytes__(self) -> bytes:
        return self._data

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        return self._data == other._data if isinstance(other, RawJson) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._data)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("RawJson can't be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("RawJson can't be changed")

    def __repr__(self) -> str:
        cut = self._data if len(self._data) <= _SHOWN else self._data[:_SHOWN] + b"..."
        return f"RawJson({cut!r})"

    def __copy__(self) -> RawJson:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> RawJson:
        return self

    def __reduce__(self) -> tuple[type[RawJson], tuple[bytes]]:
        return RawJson, (self._data,)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_plain_validator_function(
                _cut_out, metadata={"pydantic_js_functions": [_any_json]}
            ),
            python_schema=core_schema.is_instance_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(
                _parsed, when_used="json"
            ),
            metadata={"eventflow_kind": "raw"},
        )


def optional_raw(node: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a raw value that can be ``None``, which ``null`` stands for."""
    made: Any = node["python_schema"]
    return {
        **node,
        "python_schema": core_schema.no_info_after_validator_function(_not_null, made),
    }


def read_around(data: bytes, fields: Mapping[str, bool], validate: Callable[[bytes], E]) -> E:
    """Validate a document whose raw values were cut out, with the cuts in their places.

    Args:
        data: The document.
        fields: The keys of raw values, and whether ``null`` means ``None`` there.
        validate: Validates what is left; each cut is an index into the cuts there.

    Raises:
        JsonSyntaxError: A raw value is not JSON.
        ValidationError: What is left does not fit.
    """
    spans = value_spans(data, fields)
    if spans is None:
        # Broken, too deep or not an object: the parser knows how to say it.
        check_json(data)
        return validate(data)
    cuts: list[RawJson] = []
    rest = bytearray()
    position = 0
    for key, start, end in spans:
        value = data[start:end]
        try:
            check_json(value)
        except JsonSyntaxError as exc:
            offset = None if exc.offset is None else start + exc.offset
            raise JsonSyntaxError(exc.reason, offset) from None
        rest += data[position:start]
        if value == b"null" and fields[key]:
            rest += value
        else:
            rest += b"%d" % len(cuts)
            cuts.append(_unchecked(value))
        position = end
    rest += data[position:]
    token = _CUTS.set(cuts)
    try:
        return validate(bytes(rest))
    except ValidationError:
        # A syntax error counts its lines and columns in what is left, not in the document.
        check_json(data)
        raise
    finally:
        _CUTS.reset(token)


def _unchecked(data: bytes) -> RawJson:
    raw = RawJson.__new__(RawJson)
    object.__setattr__(raw, "_data", data)
    return raw


def _cut_out(value: object) -> RawJson:
    cuts = _CUTS.get()
    if cuts is None or type(value) is not int or not 0 <= value < len(cuts):
        raise PydanticCustomError(
            "raw_json", "RawJson keeps its bytes only when the event is read by from_json"
        )
    return cuts[value]


def _not_null(raw: RawJson) -> RawJson:
    if bytes(raw) == b"null":
        raise PydanticCustomError("raw_null", "Input would be read as None; give None")
    return raw


def _any_json(schema: Any, handler: Any) -> dict[str, Any]:
    return {}


def _parsed(raw: RawJson) -> Any:
    return from_json(bytes(raw))
