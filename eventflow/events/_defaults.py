"""Defaults are Python values, also where the field is absent from JSON that is being read.

Pydantic-core validates a default in the mode of what surrounds it: in a body it would look for
the text of a ``Decimal`` and find a ``Decimal``. So a default is validated once, when the class
is made, as what the caller of the class would give. One that is made for each event, or that a
function of the user's looks at, is validated for each event, in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pydantic_core import SchemaSerializer, SchemaValidator, ValidationError, core_schema

from eventflow.events._nodes import FUNCTIONS, Node, is_ours, metadata_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ("checked_default",)

_NO_SCHEMA = ("default", "expected", "members", "metadata", "ref", "serialization")


def checked_default(
    node: Node,
    path: str,
    *,
    before: Iterable[str],
    config: Node,
    resolve: Callable[[Any], Any],
) -> Node:
    """Return the schema of a default after the walk, with what checks it.

    Args:
        node: The schema of the default; what is inside it was walked.
        path: Where it is, for the errors.
        before: The names of the fields before this one, which validators can look at.
        config: The configuration of the class.
        resolve: Returns the schema that a reference stands for.
    """
    plain = "default" in node
    looked_at = any(one["type"] in FUNCTIONS and not is_ours(one) for one in _inside(node))
    two_forms = any(one["type"] in ("json-or-python", "definition-ref") for one in _inside(node))
    if not two_forms and (looked_at or not plain):
        return {**node, "validate_default": True}
    try:
        mapping = _mapping(node["schema"], path, before, resolve)
    except LookupError:  # of a part that is still being made there can be no instance
        return {**node, "validate_default": True}
    settings = cast("core_schema.CoreConfig", config)
    validator = SchemaValidator(mapping, settings)

    def valid(value: object, data: Node) -> Any:
        return validator.validate_python({**data, path: value})[path]

    bare = {k: v for k, v in node.items() if k not in ("default", "copy_default")}
    if plain and not looked_at:
        try:
            value = valid(node["default"], {})
        except ValidationError:
            pass  # the next one that is made without a value says so
        else:

            def described(schema: Node, handler: Callable[[Node], Node]) -> Node:
                # Pydantic would write it by its Python type, which says little about the wire.
                serializer = SchemaSerializer(mapping, settings)
                written = serializer.to_python({path: value}, mode="json", by_alias=True)
                inner = {k: v for k, v in schema.items() if k != "default"}
                return {**handler(inner), "default": written[path]}

            metadata = metadata_of(node)
            functions = [described, *metadata.get("pydantic_js_functions", ())]
            metadata = {**metadata, "pydantic_js_functions": functions}
            return {**bare, "default": value, "validate_default": False, "metadata": metadata}

    def made(data: Node) -> Any:
        if plain:
            return valid(node["default"], data)
        factory: Callable[..., object] = node["default_factory"]
        takes_data = node.get("default_factory_takes_data")
        return valid(factory(data) if takes_data else factory(), data)

    return {
        **bare,
        "default_factory": made,
        "default_factory_takes_data": True,
        "validate_default": False,
    }


def _mapping(
    schema: Any, path: str, before: Iterable[str], resolve: Callable[[Any], Any]
) -> core_schema.CoreSchema:
    fields = {name: core_schema.typed_dict_field(core_schema.any_schema()) for name in before}
    optional = {name: {**field, "required": False} for name, field in fields.items()}
    mapping: Any = core_schema.typed_dict_schema(
        cast("Any", {**optional, path: core_schema.typed_dict_field(schema)})
    )
    found: Node = {}
    _collect(schema, resolve, found)
    if found:
        mapping = core_schema.definitions_schema(mapping, list(found.values()))
    return cast("core_schema.CoreSchema", mapping)


def _collect(schema: Node, resolve: Callable[[Any], Any], found: Node) -> None:
    for node in _inside(schema):
        if node["type"] != "definition-ref":
            continue
        reference: str = node["schema_ref"]
        if reference not in found:
            target: Node = resolve(node)
            if target is node:
                raise LookupError(reference)
            found[reference] = target
            _collect(target, resolve, found)


def _inside(node: Any) -> Iterator[Node]:
    """Yield every schema in this one, but not behind references."""
    if isinstance(node, dict):
        inner = cast("Node", node)
        if isinstance(inner.get("type"), str):
            yield inner
        for key, value in inner.items():
            if key not in _NO_SCHEMA:
                yield from _inside(value)
    elif isinstance(node, list | tuple):
        for value in cast("list[object]", node):
            yield from _inside(value)
