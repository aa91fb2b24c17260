"""A line's facts as text: JSON for programs, or for people to read on a terminal.

One record is one line, save a traceback on a terminal. Nothing a line is given can add a line
or send a command to the terminal, and nothing makes these raise.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any, TypeGuard

from eventflow._escape import error_text, escaped, shown

__all__ = ("Line", "console", "free", "json_line", "plain")

MAX_DEPTH = 8
MAX_BITS = 1024

# Values that need no quotes: no blank, and nothing that could be taken for another key.
_BARE = re.compile(r"[^\s\"'=\\]+")

_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_COLOURS = {
    "debug": "\x1b[36m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
}


class Line:
    """What is written, before it has a form.

    Attributes:
        head: timestamp, level, event and logger, all of them text.
        facts: Keys and values that belong to it.
        error: The exception, if there is one.
    """

    __slots__ = ("error", "facts", "head")

    def __init__(
        self, head: dict[str, str], facts: dict[Any, Any], error: BaseException | None
    ) -> None:
        self.head = head
        self.facts = facts
        self.error = error


def json_line(line: Line) -> str:
    """One JSON object in ASCII. What JSON can't hold is text, as ``repr`` writes it."""
    values: dict[str, Any] = dict(line.head)
    if line.error is not None:
        values["exception"] = error_text(line.error)
    for key, value in line.facts.items():
        values[free(_key(key), values)] = plain(value)
    # Everything beyond ASCII is escaped, and so are its control characters, except DEL.
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("\x7f", "\\u007f")


def console(line: Line, *, colours: bool) -> str:
    """Time, level, event, then key=value; a traceback on lines of its own below."""
    head = line.head
    level, event = escaped(head["level"]), escaped(head["event"])
    time, padded = head["timestamp"], f"{level:<8}"
    if colours:
        time = f"{_DIM}{time}{_RESET}"
        padded = f"{_COLOURS.get(level, '')}{padded}{_RESET}"
        event = f"{_BOLD}{event}{_RESET}"
    parts = [time, padded, event]
    parts += [
        f"{_console_value(_key(key))}={_console_value(value)}"
        for key, value in (*line.facts.items(), ("logger", head["logger"]))
    ]
    text = " ".join(parts)
    return text if line.error is None else f"{text}\n{error_text(line.error)}"


def _console_value(value: object) -> str:
    if type(value) is str:
        return value if _BARE.fullmatch(value) and value.isprintable() else repr(value)
    return escaped(shown(value))


def free(key: str, taken: Container[str]) -> str:
    """The key, with underscores after it for as long as another has it."""
    while key in taken:
        key += "_"
    return key


def _key(key: object) -> str:
    return str.__str__(key) if isinstance(key, str) else shown(key)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _is_sequence(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, (list, tuple, set, frozenset))


def plain(value: object) -> Any:
    """A value as JSON has it: lists, objects with text keys, text, finite numbers."""
    return _plain(value, frozenset())


def _plain(value: object, above: frozenset[int]) -> Any:
    try:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            # Subclasses may print as they like, and long ones are refused by int().__str__.
            number = int.__add__(value, 0)
            return number if number.bit_length() <= MAX_BITS else hex(number)
        if isinstance(value, float):
            real = float.__add__(value, 0.0)
            return real if math.isfinite(real) else repr(real)
        if len(above) < MAX_DEPTH and id(value) not in above:
            inside = above | {id(value)}
            if _is_mapping(value):
                return {_key(key): _plain(each, inside) for key, each in value.items()}
            if _is_sequence(value):
                return [_plain(each, inside) for each in value]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001, S110 - the value's own, or changed meanwhile by another thread
        pass
    return shown(value)
