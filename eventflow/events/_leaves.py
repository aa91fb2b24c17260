"""The schema of each single value: what is taken when made, what is read, what is written.

Each function takes pydantic's schema of a field's type, with the user's constraints in it,
and returns the one that follows the rules of the wire. A leaf that is written as text is
read in two steps, the text's grammar first and then the value, both inside pydantic-core.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic_core import PydanticCustomError, core_schema

from eventflow.events._nodes import Node, described_as, kind_of
from eventflow.events.integers import BIG_INT_DIGITS, INT64_MAX, INT64_MIN

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("LEAVES",)

_BIG_INT_MAX = 10**BIG_INT_DIGITS - 1
_MICROSECOND = timedelta(microseconds=1)
_MAX_DURATION = timedelta(microseconds=INT64_MAX // 1000)

_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
_DATETIME = f"{_DATE}[Tt]{_TIME}([Zz]|[+-][0-9]{{2}}:[0-9]{{2}})"
_UUID = "[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_DECIMAL = r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_INTEGER = "-?(0|[1-9][0-9]*)"


def _integer(node: Node) -> Node:
    kind = kind_of(node)
    bound = (-_BIG_INT_MAX, _BIG_INT_MAX) if kind == "big-int" else (INT64_MIN, INT64_MAX)
    bounded = {
        **node,
        "strict": True,
        "ge": max(node.get("ge", bound[0]), bound[0]),
        "le": min(node.get("le", bound[1]), bound[1]),
    }
    if kind == "big-int":
        # Thousands of digits are no bound that a reader of the JSON schema could take.
        bounded["metadata"] = described_as(node)
    if kind != "int64-string":
        return bounded
    bounded["serialization"] = core_schema.to_string_ser_schema(when_used="json")
    return _text_or_value(bounded, _INTEGER, {"type": "string", "format": "int64"}, max_length=20)


def _number(node: Node) -> Node:
    return {**node, "strict": True, "allow_inf_nan": False}


def _text(node: Node) -> Node:
    # Any bound on the length makes pydantic-core refuse lone surrogates, which have no UTF-8.
    if node.get("min_length") or node.get("max_length") is not None or node.get("pattern"):
        return {**node, "strict": True}
    # The JSON parser refuses them itself, so reading need not count characters.
    read: Any = {**node, "strict": True}
    made: Any = {**read, "min_length": 0}
    text: Any = core_schema.json_or_python_schema(
        json_schema=read, python_schema=made, metadata={"eventflow_done": True}
    )
    result: Node = text
    return result


def _strict(node: Node) -> Node:
    return {**node, "strict": True}


def _moment(node: Node) -> Node:
    node = {"microseconds_precision": "truncate", **node, "tz_constraint": "aware"}
    return _text_or_value(
        {**node, "strict": True},
        _DATETIME,
        {"type": "string", "format": "date-time"},
        after=_to_utc,
    )


def _day(node: Node) -> Node:
    schema = {"type": "string", "format": "date"}
    return _text_or_value({**node, "strict": True}, _DATE, schema, after=_plain_date)


def _clock(node: Node) -> Node:
    schema = {"type": "string", "format": "time"}
    return _text_or_value({**node, "strict": True}, _TIME, schema, after=_without_offset)


def _duration(node: Node) -> Node:
    value: Any = {
        **node,
        "strict": True,
        "serialization": core_schema.plain_serializer_function_ser_schema(
            _nanoseconds, return_schema=core_schema.int_schema(), when_used="json"
        ),
    }
    read = core_schema.no_info_after_validator_function(
        _from_nanoseconds, core_schema.int_schema(strict=True, ge=INT64_MIN, le=INT64_MAX)
    )
    return _json_or_python(
        core_schema.chain_schema([read, value]),
        core_schema.no_info_after_validator_function(_within_int64, value),
        value["serialization"],
        {"type": "integer", "format": "int64"},
    )


def _decimal(node: Node) -> Node:
    node = {**node, "strict": True, "allow_inf_nan": False}
    return _text_or_value(node, _DECIMAL, {"type": "string", "format": "decimal"})


def _identifier(node: Node) -> Node:
    schema = {"type": "string", "format": "uuid"}
    return _text_or_value({**node, "strict": True}, _UUID, schema, after=_plain_uuid)


def _octets(node: Node) -> Node:
    value: Any = {
        **node,
        "strict": True,
        "serialization": core_schema.plain_serializer_function_ser_schema(
            _base64, return_schema=core_schema.str_schema(), when_used="json"
        ),
    }
    read = core_schema.no_info_after_validator_function(
        _from_base64, core_schema.str_schema(strict=True)
    )
    return _json_or_python(
        core_schema.chain_schema([read, value]),
        core_schema.no_info_after_validator_function(_plain_bytes, value),
        value["serialization"],
        {"type": "string", "contentEncoding": "base64"},
    )


LEAVES: dict[str, Callable[[Node], Node]] = {
    "bool": _strict,
    "bytes": _octets,
    "date": _day,
    "datetime": _moment,
    "decimal": _decimal,
    "float": _number,
    "int": _integer,
    "none": lambda node: node,
    "str": _text,
    "time": _clock,
    "timedelta": _duration,
    "uuid": _identifier,
}
"""By the type of the core schema."""


def _text_or_value(
    node: Node,
    pattern: str,
    json_schema: Node,
    *,
    after: Callable[[Any], Any] | None = None,
    max_length: int | None = None,
) -> Node:
    text = core_schema.str_schema(strict=True, pattern=f"^{pattern}$", max_length=max_length)
    value: Any = {**node, "strict": False}
    read: Any = core_schema.chain_schema([text, value])
    made: Any = node
    if after is not None:
        read = core_schema.no_info_after_validator_function(after, read)
        made = core_schema.no_info_after_validator_function(after, made)
    return _json_or_python(read, made, node.get("serialization"), json_schema)


def _json_or_python(read: Any, made: Any, serialization: Any, json_schema: Node) -> Node:
    node: Any = core_schema.json_or_python_schema(
        json_schema=read,
        python_schema=made,
        serialization=serialization,
        metadata={
            "eventflow_done": True,
            "pydantic_js_functions": [partial(_described, json_schema)],
        },
    )
    result: Node = node
    return result


def _described(json_schema: Node, schema: Any, handler: Any) -> Node:
    return dict(json_schema)


# Each of these takes the value of a subclass, which can have attributes that change.


def _to_utc(value: datetime) -> datetime:
    if type(value) is not datetime:
        value = datetime.combine(datetime.date(value), datetime.timetz(value))
    # At creation and not only on the wire: aware datetimes of different zones compare as
    # unequal in the hour that a clock change repeats, and an event must equal its copy.
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("utc_range", "Input in UTC is outside the years 1-9999") from None


def _without_offset(value: time) -> time:
    if value.tzinfo is not None:
        raise PydanticCustomError("time_offset", "Input should be a time without an offset")
    if type(value) is not time:
        value = time(value.hour, value.minute, value.second, value.microsecond, fold=value.fold)
    return value


def _plain_date(value: date) -> date:
    return value if type(value) is date else date(value.year, value.month, value.day)


def _plain_uuid(value: UUID) -> UUID:
    return value if type(value) is UUID else UUID(int=value.int, is_safe=value.is_safe)


def _within_int64(value: timedelta) -> timedelta:
    if abs(value) > _MAX_DURATION:
        raise PydanticCustomError(
            "duration_range", "Input should be within int64 nanoseconds, about 292 years"
        )
    if type(value) is not timedelta:
        value = timedelta(value.days, value.seconds, value.microseconds)
    return value


def _nanoseconds(value: timedelta) -> int:
    return value // _MICROSECOND * 1000


def _from_nanoseconds(value: int) -> timedelta:
    # Cut towards zero, as a datetime's nanoseconds are.
    microseconds = abs(value) // 1000
    return timedelta(microseconds=microseconds if value >= 0 else -microseconds)


def _plain_bytes(value: bytes) -> bytes:
    return value if type(value) is bytes else bytes.__bytes__(value)


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _from_base64(text: str) -> bytes:
    try:
        value = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        value = None
    # Text that only decodes to the value, with stray bits at its end, is not its form.
    if value is None or _base64(value) != text:
        raise PydanticCustomError("base64", "Input should be standard base64 with padding")
    return value
