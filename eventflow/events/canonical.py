"""A form of JSON in which two bodies that say the same are the same bytes."""

from __future__ import annotations

import json
from typing import Any, cast

from eventflow.errors import EventDecodeError
from eventflow.events._syntax import JsonSyntaxError, check_json

__all__ = ("canonical_json",)


class _Number(str):
    """The text of a number, kept as it stood."""

    __slots__ = ()


def canonical_json(data: bytes) -> bytes:
    r"""Return the document with its keys sorted by code point and no blanks.

    Strings are written with the fewest escapes, as UTF-8; the text of a number is kept
    (``1e2`` stays ``1e2``, and differs from ``100``); of a key that comes twice the last
    value counts. For comparing a body with one that was recorded, not for signing.

    Raises:
        EventDecodeError: The bytes are not JSON, or nested deeper than 200.

    Example:
        >>> canonical_json(b'{"b": 1e2, "a": "\u00e9"}').decode()
        '{"a":"é","b":1e2}'
    """
    try:
        check_json(data)
    except JsonSyntaxError as exc:
        raise EventDecodeError(
            f"not JSON: {exc.reason}", expected="JSON", found=exc.reason, offset=exc.offset
        ) from None
    document = json.loads(data, parse_int=_Number, parse_float=_Number)
    return _write(document).encode()


def _write(value: Any) -> str:
    # Recursion is bounded: check_json has refused what is nested deeper than 200.
    if isinstance(value, dict):
        members = sorted(cast("dict[str, Any]", value).items())
        return "{" + ",".join(f"{_text(key)}:{_write(item)}" for key, item in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_write, cast("list[object]", value))) + "]"
    if isinstance(value, _Number):
        return str(value)
    return _text(value)


def _text(value: str | bool | None) -> str:
    return json.dumps(value, ensure_ascii=False)
