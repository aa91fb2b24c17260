"""Checks of options that a bus and a router have in common."""

from __future__ import annotations

import math

from eventflow.errors import InvalidOptionError

__all__ = ("check_name", "check_seconds", "check_whole", "finite")


def finite(value: object) -> float:
    """A number as float; NaN for what is not one, or is too large for one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def check_whole(option: str, value: object) -> None:
    """Refuse all but whole numbers from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOptionError(
            f"{option} must be a whole number, 1 or more, not {value!r}", option=option
        )


def check_seconds(option: str, value: object, *, least: float = 0.0) -> None:
    """Refuse all but finite numbers of seconds, from 0 or above 0."""
    if not least <= finite(value) < math.inf:
        raise InvalidOptionError(
            f"{option} must be a number of seconds, finite and "
            f"{'above 0' if least else '0 or more'}, not {value!r}",
            option=option,
        )


def check_name(value: object) -> None:
    """Refuse what can't be a name in logs and ledgers."""
    if not (isinstance(value, str) and value and value.isprintable()):
        raise InvalidOptionError(
            f"name must be a printable text of one character or more, not {value!r}",
            option="name",
        )
