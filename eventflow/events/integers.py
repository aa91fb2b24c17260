"""Integer types beside ``int``, which is an int64 in every event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

__all__ = ("BIG_INT_DIGITS", "INT64_MAX", "INT64_MIN", "BigInt", "Int64String")

INT64_MIN = -(2**63)
"""The smallest ``int`` that a field takes."""

INT64_MAX = 2**63 - 1
"""The largest ``int`` that a field takes."""

BIG_INT_DIGITS = 4300
"""The most digits of a `BigInt`: what Python turns into text and back by default."""


class _Wire:
    """Marks an integer's schema; the walk over the whole model does the rest."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.int_schema(metadata={"eventflow_kind": self._kind})


BigInt = Annotated[int, _Wire("big-int")]
"""An integer of up to `BIG_INT_DIGITS` digits, a JSON number on the wire.

Most readers outside Python can't hold one: Go's ``int64`` fails, JavaScript rounds.
"""

Int64String = Annotated[int, _Wire("int64-string")]
"""An int64 that is a JSON string on the wire, both ways (Go: ``json:",string"``).

For readers that parse every number as a float64 and would round it above 2**53.
"""
