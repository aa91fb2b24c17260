"""What a before or wrap validator of the user's hands on while a body is read.

The parser refuses text that has no UTF-8, and has arrays only, so the branches for JSON look
for neither. What such a function hands on did not come from the parser, however deep it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import PydanticKnownError, core_schema

from eventflow.events._model import FrozenModel

if TYPE_CHECKING:
    from eventflow.events._nodes import Node

__all__ = ("checked_below",)


def checked_below(function: Node) -> Node:
    """Return the schema of a user's function, with a look at what it hands on if it runs first."""
    if function["type"] == "function-after":
        return function
    below: Any = core_schema.with_info_before_validator_function(_checked, function["schema"])
    return {**function, "schema": below}


def _checked(value: Any, info: core_schema.ValidationInfo) -> Any:
    if info.mode == "json":
        _check(value)
    return value


def _check(value: object) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PydanticKnownError("string_unicode") from None
    elif isinstance(value, Mapping):
        for pair in cast("Mapping[object, object]", value).items():
            _check(pair)
    elif isinstance(value, list | tuple):
        for item in cast("list[object]", value):
            _check(item)
    elif not isinstance(value, bytes | FrozenModel) and any(
        hasattr(type(value), name) for name in ("__iter__", "__getitem__")
    ):
        # A set has no order, and of an iterator there would be nothing left.
        raise PydanticKnownError("tuple_type")
