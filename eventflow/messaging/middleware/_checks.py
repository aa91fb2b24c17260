"""Checks of options that several middlewares have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from eventflow.errors import InvalidOptionError
from eventflow.lifecycle.options import finite

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Matches", "check_share", "matcher")

Matches = type[Exception] | tuple[type[Exception], ...]
"""Exception classes, as ``except`` takes them."""


def matcher(on: Any, when: object) -> Callable[[Exception], bool]:
    """Whether an error is one that was named by class, or by a function; or by both.

    An exception group is one if all that is in it are.

    Raises:
        InvalidOptionError: Something else than classes of `Exception`, or no function.
    """
    classes: tuple[Any, ...] = (on,)
    if isinstance(on, tuple):
        classes = cast("Any", on)
    if not classes or not all(isinstance(c, type) and issubclass(c, Exception) for c in classes):
        raise InvalidOptionError(
            f"on= takes a class of Exception or a tuple of them, not {on!r}", option="on"
        )
    if when is not None and not callable(when):
        raise InvalidOptionError(f"when= takes a function of an error, not {when!r}", option="when")
    chosen = cast("Callable[[Exception], bool] | None", when)

    def matches(error: Exception) -> bool:
        if isinstance(error, classes):
            return chosen is None or bool(chosen(error))
        inside: tuple[Exception, ...] = getattr(error, "exceptions", ())
        return isinstance(error, ExceptionGroup) and all(matches(inner) for inner in inside)

    return matches


def check_share(option: str, value: object) -> None:
    """Refuse all but numbers from 0 to 1.

    Raises:
        InvalidOptionError: It is none.
    """
    if not 0 <= finite(value) <= 1:
        raise InvalidOptionError(
            f"{option} must be a share of the calls, from 0 to 1, not {value!r}", option=option
        )
