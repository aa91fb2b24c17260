"""`RawJson`: a value that is kept as the bytes it came in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError, core_schema, from_json

from eventflow.events._cuts import cut_out
from eventflow.events._decoding import decode_error, json_error
from eventflow.events._model import FrozenModel
from eventflow.events._syntax import JsonSyntaxError, check_json

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

    from eventflow.errors import EventDecodeError

__all__ = ("RawJson",)

M = TypeVar("M", bound=BaseModel)
_SHOWN = 60


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
        form = core_schema.plain_serializer_function_ser_schema(_parsed, when_used="json")
        described = {"pydantic_js_functions": [_any_json]}
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_plain_validator_function(_cut_out, metadata=described),
            python_schema=core_schema.is_instance_schema(
                cls, metadata=described, serialization=form
            ),
            serialization=form,
            metadata={"eventflow_kind": "raw"},
        )


def _cut_out(placeholder: object) -> RawJson:
    data = cut_out(placeholder)
    if data is None:
        raise PydanticCustomError(
            "raw_json", "RawJson keeps its bytes only when the event is read by from_json"
        )
    raw = RawJson.__new__(RawJson)
    object.__setattr__(raw, "_data", data)
    return raw


def _any_json(schema: Any, handler: Any) -> dict[str, Any]:
    return {}


def _parsed(raw: RawJson) -> Any:
    return from_json(bytes(raw))
