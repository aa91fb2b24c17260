"""Where the values of a JSON object's own keys begin and end, by looking only at brackets.

This does not check syntax: what it cuts is checked by `check_json`, and what is left by the
parser. It must only never cut wrongly a document that those two accept, and never take more
than linear time and constant memory, which is why it counts brackets and does not recurse.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from eventflow.events._syntax import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ("Span", "value_spans")

Span = tuple[str, int, int]
"""A key, the offset of the first byte of its value, and the offset behind its last."""

_BLANK = rb"[ \t\n\r]*+"
# Possessive throughout: nothing is ever tried twice.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_OPEN = re.compile(_BLANK + rb"\{" + _BLANK, re.DOTALL)
_KEY = re.compile(_BLANK + rb"(" + _STRING + rb")" + _BLANK + rb":" + _BLANK, re.DOTALL)
_SCALAR = re.compile(_STRING + rb"|[^][{},: \t\n\r\"]++", re.DOTALL)
_NEXT = re.compile(_BLANK + rb"([,}])", re.DOTALL)


def _flat(depth: int) -> bytes:
    run = rb'[^][{}"]*+(?:' + _STRING + rb'[^][{}"]*+)*+'
    if depth == 0:
        return run
    return run + rb"(?:[{\[]" + _flat(depth - 1) + rb"[}\]]" + run + rb")*+"


# One match swallows what is nested up to this deep; deeper ones are counted bracket by bracket,
# so a real body takes a few matches and not one for each of its brackets.
_FLAT = re.compile(_flat(4), re.DOTALL)
_BRACKET = re.compile(rb"[][{}]")


def value_spans(data: bytes, keys: Collection[str]) -> list[Span] | None:
    """Return the spans of the values of these keys, in the order of the document.

    A key that comes twice is in the list twice. ``None`` means that the document is not an
    object, or is broken; whoever parses it will say how.
    """
    opened = _OPEN.match(data)
    if opened is None:
        return None
    spans: list[Span] = []
    position = opened.end()
    if data[position : position + 1] == b"}":
        return spans
    while True:
        key = _KEY.match(data, position)
        if key is None:
            return None
        start = key.end()
        end = _value_end(data, start)
        if end is None:
            return None
        name = _key_text(key[1])
        if name is not None and name in keys:
            spans.append((name, start, end))
        following = _NEXT.match(data, end)
        if following is None:
            return None
        if following[1] == b"}":
            return spans
        position = following.end()


def _key_text(quoted: bytes) -> str | None:
    try:
        if b"\\" not in quoted:
            return quoted[1:-1].decode()
        text: str = json.loads(quoted)
    except ValueError:
        return None
    return text


def _value_end(data: bytes, start: int) -> int | None:
    if data[start : start + 1] not in (b"{", b"["):
        scalar = _SCALAR.match(data, start)
        return None if scalar is None else scalar.end()
    depth, position = 1, start + 1
    while True:
        flat = _FLAT.match(data, position)
        assert flat is not None  # it also matches nothing
        position = flat.end()
        bracket = _BRACKET.match(data, position)
        if bracket is None:
            return None
        position += 1
        depth += 1 if bracket[0] in b"{[" else -1
        if depth == 0:
            return position
        if depth > MAX_DEPTH:
            return None
