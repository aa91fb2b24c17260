"""Rewriting the core schema of an event or a part so that it follows the rules of the wire.

The walk is a closed list: a kind of schema that is not named here is refused. It changes the
schema in place, as pydantic keeps it, and leaves a mark on what it has done, because a part's
schema comes by again inside every event that has the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError, core_schema

from eventflow.events._annotations import refuse
from eventflow.events._leaves import LEAVES, Node
from eventflow.events._model import absent
from eventflow.events._unions import check_choices, check_enum, check_literal
from eventflow.events.mapping import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("FUNCTIONS", "Walk")

FUNCTIONS = ("function-after", "function-before", "function-wrap")
_REMEDY = (
    "use a Part, tuple[T, ...], Mapping[str, T], an Enum, a Literal, RawJson, or a plain type "
    "(str, int, float, bool, bytes, Decimal, UUID, datetime, date, time, timedelta)"
)


class Walk:
    """One walk over the fields of one class.

    Args:
        owner: Name of the class, for the errors.
        resolve: Returns the schema that a reference stands for; raises ``LookupError`` for
            one that is still being made.
        raw_allowed: Whether a field may be `RawJson`.
        generic: Whether type variables are still open; such a class can't be instantiated.

    Attributes:
        raw_fields: The names of the fields that hold `RawJson`, and whether they can be ``None``.
    """

    def __init__(
        self,
        owner: str,
        resolve: Callable[[Any], Any],
        *,
        raw_allowed: bool,
        generic: bool,
    ) -> None:
        self._owner = owner
        self._resolve = resolve
        self._raw_allowed = raw_allowed
        self._generic = generic
        self._raw_here = False
        self._open: set[str] = set()
        self.raw_fields: dict[str, bool] = {}

    def field(self, name: str, field: Node) -> None:
        """Rewrite one field of the class."""
        schema = field["schema"]
        for key in ("serialization_exclude", "serialization_exclude_if"):
            if field.get(key):
                self._refuse(name, "a field that can be left out can't be read back", "drop it")
        inner = schema
        while inner["type"] in ("default", "nullable", *FUNCTIONS):
            inner = inner["schema"]
        self._raw_here = self._raw_allowed and _kind(inner) == "raw"
        if self._raw_here:
            self.raw_fields[name] = "nullable" in _types_above(schema)
        if schema["type"] == "default" and "default" in schema and schema["default"] is None:
            field["serialization_exclude_if"] = absent
        field["schema"] = self.node(schema, name)

    def node(self, node: Node, path: str) -> Node:
        """Return the schema that takes the place of this one."""
        metadata = node.get("metadata") or {}
        if metadata.get("eventflow_done"):
            return node
        if metadata.get("eventflow_kind") == "raw":
            if not self._raw_here:
                self._refuse(
                    path, "RawJson is for a field of the event itself", "use it there, or a Part"
                )
            return node
        if "serialization" in node:
            self._refuse(
                path,
                "a serializer of its own can't be read back",
                "use a type with the wire form you want, or an alias",
            )
        kind = node["type"]
        leaf = LEAVES.get(kind)
        if leaf is not None:
            if node.get("strict") is False:
                self._refuse(path, "strict=False", "events are strict about types; drop it")
            if kind == "datetime" and node.get("tz_constraint") == "naive":
                self._refuse(path, "a naive datetime is no point in time", "use datetime")
            return leaf(node)
        method = getattr(self, "_" + kind.replace("-", "_"), None)
        if method is None:
            self._refuse(path, f"{_shown(node)} is not for events", _REMEDY)
        result: Node = method(node, path)
        return result

    def _any(self, node: Node, path: str) -> Node:
        if self._generic:
            return _node(core_schema.no_info_plain_validator_function(_unparametrised))
        self._refuse(
            path, "Any and object say nothing", "say the type; RawJson for JSON passed on unread"
        )

    def _literal(self, node: Node, path: str) -> Node:
        check_literal(node["expected"], lambda *text: self._refuse(path, *text))
        return node

    def _enum(self, node: Node, path: str) -> Node:
        check_enum(node["cls"], lambda *text: self._refuse(path, *text))
        return node

    def _nullable(self, node: Node, path: str) -> Node:
        return {**node, "schema": self.node(node["schema"], path)}

    def _default(self, node: Node, path: str) -> Node:
        inner = self.node(node["schema"], path)
        # Pydantic trusts defaults; a None where None is allowed is the one that needs no look.
        trusted = (
            "default" in node and node["default"] is None and node["schema"]["type"] == "nullable"
        )
        return {**node, "schema": inner, "validate_default": not trusted}

    def _tuple(self, node: Node, path: str) -> Node:
        items = [self.node(item, f"{path}[]") for item in node["items_schema"]]
        exact: Any = {**node, "items_schema": items, "strict": True}
        return _marked(
            core_schema.json_or_python_schema(
                json_schema=exact,
                python_schema=core_schema.no_info_before_validator_function(_as_tuple, exact),
            )
        )

    def _dict(self, node: Node, path: str) -> Node:
        keys = node.get("keys_schema", {"type": "any"})
        if keys["type"] != "str" or "values_schema" not in node:
            self._refuse(path, "the keys of a JSON object are text", "use Mapping[str, T]")
        exact: Any = {
            **node,
            "keys_schema": self.node(keys, path),
            "values_schema": self.node(node["values_schema"], f"{path}{{}}"),
            "strict": True,
        }
        form = core_schema.wrap_serializer_function_ser_schema(_as_dict_form, schema=exact)
        return _marked(
            core_schema.json_or_python_schema(
                json_schema=core_schema.no_info_after_validator_function(FrozenMapping, exact),
                python_schema=core_schema.no_info_after_validator_function(
                    FrozenMapping,
                    core_schema.no_info_before_validator_function(_as_dict, exact),
                    serialization=form,
                ),
                serialization=form,
            )
        )

    def _union(self, node: Node, path: str) -> Node:
        metadata = node.get("metadata") or {}
        choices = [c[0] if isinstance(c, tuple) else c for c in node["choices"]]
        # Pydantic turns it into a tagged union once every choice is known.
        if "pydantic_internal_union_discriminator" not in metadata:
            check_choices(choices, self._resolve, lambda *text: self._refuse(path, *text))
        return {**node, "choices": [self.node(choice, path) for choice in choices]}

    def _tagged_union(self, node: Node, path: str) -> Node:
        if callable(node["discriminator"]):
            self._refuse(
                path, "a discriminator that is a function", "name a field: discriminator='kind'"
            )
        choices = {tag: self.node(choice, path) for tag, choice in node["choices"].items()}
        return {**node, "choices": choices}

    def _lax_or_strict(self, node: Node, path: str) -> Node:
        return self.node(node["strict_schema"], path)

    def _function_before(self, node: Node, path: str) -> Node:
        return {**node, "schema": self.node(node["schema"], path)}

    def _function_after(self, node: Node, path: str) -> Node:
        inner = self.node(node["schema"], path)
        if self._raw_here and _kind(_bare(inner)) == "raw":
            return {**node, "schema": inner}
        # What the user's function returned is checked like what the caller gave.
        checked: Any = [{**node, "schema": inner}, self._made(inner)]
        return _marked(core_schema.chain_schema(checked))

    _function_wrap = _function_after

    def _function_plain(self, node: Node, path: str) -> Node:
        self._refuse(path, "a plain validator hides what it returns", "use a before or after one")

    def _definitions(self, node: Node, path: str) -> Node:
        return {**node, "schema": self.node(node["schema"], path)}

    def _model(self, node: Node, path: str) -> Node:
        if getattr(node["cls"], "__eventflow_part__", False):
            return node
        name = node["cls"].__name__
        if hasattr(node["cls"], "__eventflow_name__"):
            self._refuse(path, f"{name} is an event", "use a Part for what is inside an event")
        self._refuse(
            path, f"{name} is a model with rules of its own", f"make it class {name}(Part)"
        )

    def _definition_ref(self, node: Node, path: str) -> Node:
        reference = node["schema_ref"]
        try:
            target = self._resolve(node)
        except LookupError:
            return node
        if target is node or reference in self._open:
            return node
        if _bare(target)["type"] == "model":
            self._model(_bare(target), path)
            return node
        self._open.add(reference)
        rewritten = {**self.node({k: v for k, v in target.items() if k != "ref"}, path)}
        self._open.discard(reference)
        target.clear()
        target.update(rewritten, ref=reference)
        return node

    def _made(self, node: Node) -> Node:
        """Return what checks a value that is there already, without the user's functions."""
        kind = node["type"]
        if kind == "json-or-python":
            return self._made_inside(node["python_schema"])
        if kind in FUNCTIONS and not _ours(node):
            return self._made(node["schema"])
        if kind == "chain":
            return self._made(node["steps"][-1])
        if kind == "definition-ref":
            target = self._resolve_or(node)
            if target is None or _bare(target)["type"] == "model":
                return node
            return self._made({k: v for k, v in target.items() if k != "ref"})
        return self._made_inside(node)

    def _made_inside(self, node: Node) -> Node:
        changed = dict(node)
        if node["type"] == "model":
            return node
        for key in ("schema", "values_schema"):
            if key in node:
                changed[key] = self._made(node[key])
        if "items_schema" in node:
            changed["items_schema"] = [self._made(item) for item in node["items_schema"]]
        choices: Any = node.get("choices")
        if isinstance(choices, dict):
            changed["choices"] = {tag: self._made(choice) for tag, choice in choices.items()}
        elif choices is not None:
            changed["choices"] = [self._made(choice) for choice in choices]
        return changed

    def _resolve_or(self, node: Node) -> Node | None:
        try:
            target: Node = self._resolve(node)
        except LookupError:
            return None
        return None if target is node or node["schema_ref"] in self._open else target

    def _refuse(self, path: str, problem: str, remedy: str) -> Any:
        refuse(self._owner, path, problem, remedy)


def _node(schema: Any) -> Node:
    result: Node = schema
    return result


def _marked(schema: Any) -> Node:
    schema["metadata"] = {**(schema.get("metadata") or {}), "eventflow_done": True}
    return _node(schema)


def _kind(node: Node) -> str | None:
    kind: str | None = (node.get("metadata") or {}).get("eventflow_kind")
    return kind


def _bare(node: Node) -> Node:
    while node["type"] in ("default", "nullable", *FUNCTIONS):
        node = node["schema"]
    return node


def _ours(node: Node) -> bool:
    function: Any = node.get("function")
    return getattr(function["function"], "__module__", "").startswith("eventflow.events.")


def _types_above(node: Node) -> set[str]:
    found: set[str] = set()
    while "schema" in node:
        found.add(node["type"])
        node = node["schema"]
    return found


def _shown(node: Node) -> str:
    cls = node.get("cls")
    return cls.__name__ if isinstance(cls, type) else f"a {node['type']}"


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _as_dict(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


def _as_dict_form(value: Mapping[str, Any], handler: Callable[[Any], Any]) -> Any:
    return handler(dict(value))


def _unparametrised(value: object) -> object:
    raise PydanticCustomError(
        "unparametrised", "The class is generic: create it as Class[Type](...)"
    )
