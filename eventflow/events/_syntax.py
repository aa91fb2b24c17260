"""Whether bytes are one JSON document: UTF-8, syntax, depth; nothing is built from them."""

from __future__ import annotations

import re

from pydantic import ValidationError
from pydantic_core import SchemaValidator, core_schema

__all__ = (
    "MAX_DEPTH",
    "JsonSyntaxError",
    "check_constants",
    "check_depth",
    "check_json",
    "syntax_error",
)

MAX_DEPTH = 200
"""Deepest nesting that is read, the parser's own bound."""

# The parser of pydantic-core reads the whole document before it asks the schema, and this
# schema takes anything without looking at it, so no Python object is made of the content.
_ANYTHING = SchemaValidator(
    core_schema.with_default_schema(core_schema.none_schema(), default=None, on_error="default")
)
_BYTE_N, _BYTE_I = b"NI"
# Compiled when an error is described, not when this is imported.
_POSITION = r"(?s)(.*?) at line (\d+) column (\d+)"
# All of a document up to a constant in one match: one for each string takes ten times as long.
_UP_TO_CONSTANT = rb'(?s)[^"NI]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"NI]*+)*+'


class JsonSyntaxError(Exception):
    """Bytes are not JSON.

    Attributes:
        reason: What was wrong.
        offset: Byte offset of it; ``None`` where it is not known.
    """

    def __init__(self, reason: str, offset: int | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


def check_json(data: bytes) -> None:
    """Raise unless the bytes are one JSON document at most `MAX_DEPTH` deep."""
    problem: JsonSyntaxError | None = None
    try:
        _ANYTHING.validate_json(data)
    except ValidationError as exc:
        problem = syntax_error(data, str(exc.errors(include_url=False)[0]["msg"]))
    # Raised here, where the parser's error (which holds the whole input) is no context.
    if problem is not None:
        raise problem
    check_constants(data)


def check_constants(data: bytes) -> None:
    """Raise if JSON that was parsed has ``NaN`` or ``Infinity`` in it, which the parser takes."""
    # Searching for one byte is ten times as fast as for a word.
    if _BYTE_N not in data and _BYTE_I not in data:
        return
    # `in` would try whether the word is an int first, which takes longer than to find it.
    if data.rfind(b"NaN") < 0 and data.rfind(b"Infinity") < 0:
        return
    skipped = re.match(_UP_TO_CONSTANT, data)
    start = len(data) if skipped is None else skipped.end()
    if start < len(data):
        word = "NaN" if data[start] == _BYTE_N else "Infinity"
        if data[start - 1 : start] == b"-":
            start, word = start - 1, f"-{word}"
        raise JsonSyntaxError(f"{word} is not JSON", start)


def check_depth(data: bytes) -> None:
    """Raise if JSON that we wrote is nested deeper than what is read."""
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        check_json(data)


def syntax_error(data: bytes, message: str) -> JsonSyntaxError:
    """Return the parser's message with its line and column turned into a byte offset."""
    message = message.removeprefix("Invalid JSON: ")
    match = re.fullmatch(_POSITION, message)
    if match is None:
        return JsonSyntaxError(message, None)
    reason, line, column = match[1], int(match[2]), int(match[3])
    if reason.startswith("EOF"):
        return JsonSyntaxError("the document ends too early", len(data))
    return JsonSyntaxError(reason, min(_line_start(data, line) + max(column - 1, 0), len(data)))


def _line_start(data: bytes, line: int) -> int:
    """Return where a line begins, by counting line ends in halves and never one by one."""
    low, high, ends = 0, len(data), line - 1
    if ends == 0:
        return 0
    # The line begins behind the end number `ends` of those in data[low:high].
    while high - low > 1:
        middle = (low + high) // 2
        before = data.count(b"\n", low, middle)
        if before >= ends:
            high = middle
        else:
            low, ends = middle, ends - before
    return high
