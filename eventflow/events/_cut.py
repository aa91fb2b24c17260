"""Where the values of a JSON object's own keys begin and end, by looking only at brackets.

This does not check syntax: what it cuts is checked by `check_json`, and what is left by the
parser. It must only never cut wrongly a document that those two accept, and never take more
than linear time and constant memory, which is why it counts brackets and does not recurse.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING

from eventflow.events._syntax import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Container

__all__ = ("Span", "value_spans")

Span = tuple[bytes, int, int]
"""A key in UTF-8, the offset of the first byte of its value, and the one behind its last."""

_BLANK = rb"[ \t\n\r]*+"
# Possessive throughout: nothing is ever tried twice.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = rb'[^][{},: \t\n\r"]++'


def _flat(depth: int) -> bytes:
    run = rb'[^][{}"]*+(?:' + _STRING + rb'[^][{}"]*+)*+'
    if depth == 0:
        return run
    return run + rb"(?:[{\[]" + _flat(depth - 1) + rb"[}\]]" + run + rb")*+"


# Nearly every member is one match: key, value, and what follows. A value nested deeper than this
# pattern goes is counted bracket by bracket, in strides of what the pattern swallows.
_STRIDE = _flat(4)
_OPEN = _BLANK + rb"\{" + _BLANK
_MEMBER = (
    _BLANK + rb"(" + _STRING + rb")" + _BLANK + rb":" + _BLANK
    + rb"(?:(" + _STRING + rb"|" + _SCALAR + rb"|[{\[]" + _STRIDE + rb"[}\]])"
    + _BLANK + rb"([,}]))?+"
)  # fmt: skip
_NESTED = _STRIDE + rb"([][{}])"
_NEXT = _BLANK + rb"([,}])"


# At the first use, because these take as long to compile as several modules to import.
@cache
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


def value_spans(data: bytes, keys: Container[bytes]) -> list[Span] | None:
    """Return the spans of the values of these keys, in the order of the document.

    A key that comes twice is in the list twice. ``None`` means that the document is not an
    object, is broken, or is nested too deeply; whoever parses it will say which.
    """
    opened = _compiled(_OPEN).match(data)
    if opened is None:
        return None
    spans: list[Span] = []
    position = opened.end()
    if data[position : position + 1] == b"}":
        return spans
    next_member = _compiled(_MEMBER)
    while True:
        member = next_member.match(data, position)
        if member is None:
            return None
        if member[2] is not None:
            (start, end), following = member.span(2), member
        else:
            start = member.end()
            stop = _nested_end(data, start)
            next_one = None if stop is None else _compiled(_NEXT).match(data, stop)
            if stop is None or next_one is None:
                return None
            end, following = stop, next_one
        key = member[1][1:-1] if b"\\" not in member[1] else _unescaped(member[1])
        if key in keys:
            spans.append((key, start, end))
        if following[following.re.groups] == b"}":
            return spans
        position = following.end()


def _unescaped(quoted: bytes) -> bytes:
    try:
        text: str = json.loads(quoted)
        return text.encode()
    except ValueError:
        return b""  # not a key of any field; whoever parses the document refuses it


def _nested_end(data: bytes, start: int) -> int | None:
    if data[start : start + 1] not in (b"{", b"["):
        return None
    depth, position = 1, start + 1
    next_bracket = _compiled(_NESTED)
    while True:
        bracket = next_bracket.match(data, position)
        if bracket is None:
            return None
        position = bracket.end()
        depth += 1 if bracket[1] in b"{[" else -1
        if depth == 0:
            return position
        if depth > MAX_DEPTH:
            return None
