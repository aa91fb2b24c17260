"""Completing a class: the rules for the class as a whole, then for each of its fields."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic.errors import PydanticUserError

from eventflow.events._annotations import check_annotation, refuse
from eventflow.events._handed_on import checked_below
from eventflow.events._nodes import FUNCTIONS
from eventflow.events._schema import Walk, being_made

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel, GetCoreSchemaHandler

    from eventflow.events._nodes import Node

__all__ = ("Completed", "RawField", "check_class", "complete_schema")

# What these would change is fixed by the wire, or by the promise that an event can't change.
_FIXED_CONFIG: dict[str, object] = {
    "allow_inf_nan": False,
    "arbitrary_types_allowed": False,
    "extra": "ignore",
    "frozen": True,
    "from_attributes": False,
    "json_encoders": None,
    "revalidate_instances": "never",
    "ser_json_bytes": "utf8",
    "ser_json_inf_nan": "null",
    "ser_json_temporal": "iso8601",
    "ser_json_timedelta": "iso8601",
    "strict": True,
    "use_enum_values": False,
    "val_json_bytes": "utf8",
}


class RawField(NamedTuple):
    """A field that holds `RawJson`.

    Attributes:
        key: Its key on the wire.
        read: Every key that it can be read from, its name included.
        optional: Whether ``null`` means ``None``.
        left_out: Whether ``None`` is left out of what is written.
    """

    key: str
    read: set[str]
    optional: bool
    left_out: bool


class Completed(NamedTuple):
    """A class's schema after its rules were applied.

    Attributes:
        schema: What to give to pydantic.
        raw: The fields that hold `RawJson`, by name.
        nested: Whether there is a `Part` in any field.
    """

    schema: Any
    raw: dict[str, RawField]
    nested: bool


def check_class(
    cls: type[BaseModel], *, base_config: dict[str, Any], reserved: Iterable[str] = ()
) -> None:
    """Refuse what a class can't have, before pydantic looks at its fields."""
    name = cls.__name__
    for key, value in cls.model_config.items():
        fixed = base_config.get(key, _FIXED_CONFIG.get(key, value))
        if value != fixed:
            refuse(name, "", f"model_config {key}={value!r}", "it is fixed for events; drop it")
    own = {*cls.__dict__, *inspect.get_annotations(cls)}
    for taken in reserved:
        if taken in own:
            refuse(
                name, taken, f"every event has an attribute {taken!r} already", "rename the field"
            )
    if "__init__" in cls.__dict__ or "__new__" in cls.__dict__:
        refuse(
            name, "", "an __init__ or __new__ of its own", "use a classmethod that calls cls(...)"
        )
    if cls.__private_attributes__:
        private = next(iter(cls.__private_attributes__))
        refuse(
            name, private, "a private attribute can change", "make it a field, or keep it elsewhere"
        )


def complete_schema(
    cls: type[BaseModel],
    source: Any,
    handler: GetCoreSchemaHandler,
    *,
    raw_allowed: bool,
) -> Completed:
    """Return the schema of the class, and what reading and writing need to know of it.

    Raises:
        EventDefinitionError: A field breaks the rules.
        PydanticUndefinedAnnotation: A name is not known yet; pydantic calls again later.
    """
    try:
        with being_made(cls) if raw_allowed else nullcontext():
            schema = handler(source)
    except PydanticUserError:
        _find_unknown(cls, handler)
        raise
    model, functions = _model(handler.resolve_ref_schema(schema), handler)
    metadata: Any = model.setdefault("metadata", {})
    if "eventflow_class" in metadata:
        return Completed(schema, *metadata["eventflow_class"])
    for node in (*functions, model):
        if "serialization" in node:
            refuse(cls.__name__, "", "a model serializer", "the wire form is fixed; drop it")
    if model.get("root_model"):
        refuse(cls.__name__, "", "a root model", "give the value a field name")
    fields = model["schema"]
    while fields["type"] in FUNCTIONS:
        functions.append(fields)
        fields = fields["schema"]
    for computed in fields.get("computed_fields", ()):
        refuse(cls.__name__, computed["property_name"], "a computed field", "use a plain property")
    open_parameters = bool(cls.__pydantic_generic_metadata__["parameters"])
    for name, info in cls.__pydantic_fields__.items():
        if not open_parameters:
            check_annotation(cls.__name__, name, info.annotation)
    walk = Walk(
        cls.__name__,
        handler.resolve_ref_schema,
        raw_allowed=raw_allowed,
        generic=open_parameters,
        config=model.get("config", {}),
    )
    keys = {name: _key(cls, name, field) for name, field in fields["fields"].items()}
    _check_keys(cls, keys)
    for name, field in fields["fields"].items():
        walk.field(name, field)
    raw = {
        name: RawField(
            keys[name], _looked_at(name, field), optional, "serialization_exclude_if" in field
        )
        for name, optional in walk.raw_fields.items()
        for field in (fields["fields"][name],)
    }
    if raw and {function["type"] for function in functions} & {"function-before", "function-wrap"}:
        problem = "a before or wrap validator of the model would not see the bytes of RawJson"
        refuse(cls.__name__, next(iter(raw)), problem, "use an after one")
    _check_raw_keys(cls, raw, fields["fields"])
    for function in functions:
        function.update(checked_below(function))
    metadata["eventflow_class"] = (raw, walk.nested)
    return Completed(schema, raw, walk.nested)


def _model(node: Any, handler: GetCoreSchemaHandler) -> tuple[Node, list[Node]]:
    functions: list[Node] = []
    while node["type"] != "model":
        functions.append(node)
        node = handler.resolve_ref_schema(node["schema"])
    return node, functions


def _find_unknown(cls: type[BaseModel], handler: GetCoreSchemaHandler) -> None:
    for name, info in cls.__pydantic_fields__.items():
        check_annotation(cls.__name__, name, info.annotation)
        try:
            handler.generate_schema(info.annotation)
        except PydanticUserError:
            shown = getattr(info.annotation, "__name__", str(info.annotation))
            refuse(cls.__name__, name, f"{shown} is not for events", "use a Part or a plain type")


def _key(cls: type[BaseModel], name: str, field: Node) -> str:
    """Return the key that is written, which must be one that is read."""
    written: str = field.get("serialization_alias") or name
    config: Any = cls.model_config
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    if [written] not in _paths(name, field) and not (by_name and written == name):
        refuse(cls.__name__, name, f"written as {written!r} but not read as it", "use alias=")
    return written


def _paths(name: str, field: Node) -> list[list[str | int]]:
    """Return where a field is looked for; a path of several steps leads into something nested."""
    alias: Any = field.get("validation_alias") or name
    if isinstance(alias, str):
        return [[alias]]
    return alias if isinstance(alias[0], list) else [alias]


def _looked_at(name: str, field: Node) -> set[str]:
    """Return each key of the body whose value a field could get, by alias or by name."""
    return {name, *(str(path[0]) for path in _paths(name, field))}


def _check_raw_keys(cls: type[BaseModel], raw: dict[str, RawField], fields: Node) -> None:
    """Refuse a field that could get what stands for the bytes of another one."""
    for name, field in fields.items():
        for other, raw_field in raw.items():
            if name != other and (shared := raw_field.read & _looked_at(name, field)):
                problem = f"{shared.pop()!r} is a key of {other}, which is RawJson"
                refuse(cls.__name__, name, problem, f"rename it, or decode it from {other}")


def _check_keys(cls: type[BaseModel], keys: dict[str, str]) -> None:
    seen: dict[str, str] = {}
    for name, key in keys.items():
        if key in seen:
            refuse(cls.__name__, name, f"{key!r} is also the key of {seen[key]}", "rename one")
        seen[key] = name
