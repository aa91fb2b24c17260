"""Turning what the validator says into `EventDecodeError`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from eventflow.errors import EventDecodeError
from eventflow.events._syntax import JsonSyntaxError, syntax_error

if TYPE_CHECKING:
    from collections.abc import Sized

    from pydantic import ValidationError

__all__ = ("decode_error", "json_error", "shown")

_SHOWN = 80


def decode_error(
    problem: ValidationError, data: bytes, *, what: str, topic: str, message_id: str | None
) -> EventDecodeError:
    """Return the first problem as one error that holds a cut of one value and no more."""
    first: Any = problem.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return json_error(
            syntax_error(data, first["msg"]), what=what, topic=topic, message_id=message_id
        )
    path = _path(first["loc"])
    if first["type"] == "missing":
        expected, found = "a value", "nothing"
    else:
        expected, found = shown_text(first["msg"]), shown(first["input"])
    more = problem.error_count() - 1
    return EventDecodeError(
        f"{what}: {path or 'the document'}: expected: {expected}; found: {found}"
        + (f" (and {more} more)" if more else ""),
        topic=topic,
        message_id=message_id,
        path=path,
        expected=expected,
        found=found,
    )


def json_error(
    problem: JsonSyntaxError, *, what: str, topic: str, message_id: str | None
) -> EventDecodeError:
    """Return the error for bytes that are not JSON."""
    where = "" if problem.offset is None else f" at byte {problem.offset}"
    return EventDecodeError(
        f"{what}: not JSON: {problem.reason}{where}",
        topic=topic,
        message_id=message_id,
        expected="JSON",
        found=problem.reason,
        offset=problem.offset,
    )


def shown(value: object) -> str:
    """Return a short text for a value that came, in JSON's words; never the whole of it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        # Never turned into text when it is large: that takes quadratic time.
        bits = value.bit_length()
        return str(value) if bits <= 200 else f"an integer of {bits} bits"
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
        return ascii(cut) if any(_unprintable(c) for c in cut) else repr(cut)
    if isinstance(value, list | tuple | dict):
        count = len(cast("Sized", value))
        return f"an object of {count}" if isinstance(value, dict) else f"an array of {count}"
    return shown_text(repr(value)) if isinstance(value, float) else type(value).__name__


def shown_text(text: str) -> str:
    """Return a text cut to a length that fits a log line."""
    return text if len(text) <= 2 * _SHOWN else f"{text[: 2 * _SHOWN]}…"


def _unprintable(character: str) -> bool:
    return not character.isprintable() and character != " "


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            step = step if len(step) <= _SHOWN else f"{step[:_SHOWN]}…"
            path += f".{step}" if path else step
    return shown_text(path)
