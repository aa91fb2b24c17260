"""Literals and enums take exactly their values, though in Python 1 == 1.0 == True.

Pydantic-core looks a value up by equality, so a boolean or a float that equals a number of the
list would be taken for it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from pydantic_core import core_schema

from eventflow.events._nodes import described_as

if TYPE_CHECKING:
    from eventflow.events._nodes import Node

__all__ = ("exact_enum", "exact_literal", "plain_value")


class _Exactly:
    """Stands for a number or a boolean among the values of a literal, and equals only that.

    The schema stays a literal, in which pydantic looks for the values of a discriminator.
    """

    def __init__(self, value: int) -> None:
        self.value = value
        self._is_bool = isinstance(value, bool)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Exactly):
            other = other.value
        return (
            isinstance(other, int)
            and isinstance(other, bool) == self._is_bool
            and other == self.value
        )

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(plain_value(self.value))


def plain_value(value: object) -> object:
    """Return what a value of a literal, or a member of an enum, is in JSON."""
    while isinstance(value, enum.Enum | _Exactly):
        value = value.value
    return value


def exact_literal(node: Node) -> Node:
    """Return the schema of a literal that tells its booleans and numbers from others."""
    expected = [
        _Exactly(value) if isinstance(plain_value(value), int) else value
        for value in node["expected"]
    ]
    if not any(isinstance(value, _Exactly) for value in expected):
        return node
    literal: Any = {**node, "expected": expected}
    exact: Any = core_schema.no_info_after_validator_function(
        _unwrapped, literal, metadata=described_as(node)
    )
    result: Node = exact
    return result


def exact_enum(node: Node) -> Node:
    """Return the schema of an enum that reads its numbers from numbers only."""
    values = [plain_value(member) for member in node["members"]]
    if not any(isinstance(value, int) for value in values):
        return node
    plain: Any = {key: value for key, value in node.items() if key != "ref"}
    number: Any = core_schema.int_schema(strict=True)
    if any(isinstance(value, str) for value in values):
        number = core_schema.union_schema(
            [number, core_schema.str_schema(strict=True)],
            custom_error_type="enum",
            custom_error_context={"expected": " or ".join(map(repr, values))},
        )
    exact: Any = core_schema.json_or_python_schema(
        json_schema=core_schema.chain_schema([number, plain]),
        python_schema=plain,
        metadata=described_as(node),
    )
    result: Node = exact
    return result


def _unwrapped(value: Any) -> Any:
    return value.value if type(value) is _Exactly else value
