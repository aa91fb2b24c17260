"""The outputs of a handler that ran twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from eventflow.events import Event
from eventflow.messaging.message import Message

__all__ = ("both",)


def both(first: object, second: object) -> object:
    """The outputs of two runs as those of one."""
    if first is None or second is None:
        return second if first is None else first
    return [*_outputs(first), *_outputs(second)]


def _outputs(given: Any) -> Iterable[Any]:
    # What can't be published stays as it is: the router says so.
    is_one = isinstance(given, (Message, Event, str, bytes, dict)) or not isinstance(
        given, Iterable
    )
    return cast("Iterable[Any]", (given,) if is_one else given)
