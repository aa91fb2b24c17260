"""`Part`: the base of what is nested inside an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict

from eventflow.events._definition import check_class, complete_schema
from eventflow.events._model import FrozenModel

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

__all__ = ("Part",)

# Strict about names too when it is made; `Event.from_json` relaxes that for reading.
_CONFIG = ConfigDict(
    strict=True, frozen=True, extra="forbid", revalidate_instances="subclass-instances"
)


class Part(FrozenModel):
    """A value inside an event: frozen and strict, with the same fields and rules.

    An instance of a subclass can stand where its base is declared only if it has no field
    that the base has not, because the reader could not know of it.

    Raises:
        EventDefinitionError: When the class is complete, for a field that an event can't hold.

    Example:
        >>> class Line(Part):
        ...     sku: str
        ...     count: int
        >>> Line(sku="A-1", count=2)
        Line(sku='A-1', count=2)
    """

    __eventflow_part__: ClassVar[bool] = True

    model_config: ClassVar[ConfigDict] = _CONFIG

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler, /
    ) -> CoreSchema:
        if "__eventflow_part__" in cls.__dict__:  # Part itself
            return handler(source)
        check_class(cls, base_config=dict(_CONFIG))
        schema: CoreSchema = complete_schema(cls, source, handler, raw_allowed=False).schema
        return schema

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        # Readers take unknown fields, whatever making one does.
        handler.resolve_ref_schema(schema).pop("additionalProperties", None)
        return schema


del Part.model_config["defer_build"]
