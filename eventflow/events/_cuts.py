"""Reading a document around the raw values that were cut out of it."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from eventflow.events._cut import value_spans
from eventflow.events._syntax import JsonSyntaxError, check_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ("cut_out", "read_around")

# What was cut out of the document that is being read; a placeholder in its place is the index,
# counted from a number that nobody outside this process can know, so that no number of another
# document, which a validator of the user's may be reading meanwhile, is taken for one.
# Not pydantic's validation context: that one is the user's.
_CUTS: ContextVar[list[bytes] | None] = ContextVar("eventflow_raw_json_cuts", default=None)
_FIRST = int.from_bytes(os.urandom(7))


def cut_out(placeholder: object) -> bytes | None:
    """Return the value that the placeholder stands for, ``None`` if it is not one."""
    cuts = _CUTS.get()
    if cuts is None or type(placeholder) is not int:
        return None
    index = placeholder - _FIRST
    return cuts[index] if 0 <= index < len(cuts) else None


def read_around(data: bytes, fields: Mapping[bytes, bool], validate: Callable[[bytes], Any]) -> Any:
    """Validate a document whose raw values were cut out, with the cuts in their places.

    Args:
        data: The document.
        fields: The keys of raw values, and whether ``null`` means ``None`` there.
        validate: Validates what is left; each cut is a placeholder there.

    Raises:
        JsonSyntaxError: A raw value is not JSON.
        ValidationError: What is left does not fit.
    """
    spans = value_spans(data, fields)
    if spans is None:
        # Broken, too deep or not an object: the parser knows how to say it.
        check_json(data)
        return validate(data)
    cuts: list[bytes] = []
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
            rest += b"%d" % (_FIRST + len(cuts))
            cuts.append(value)
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
