"""Rewriting the core schema of an event or a part so that it follows the rules of the wire.

The walk is a closed list: a kind of schema that is not named here is refused. It changes the
schema in place, as pydantic keeps it, and leaves a mark on what it has done, because a part's
schema comes by again inside every event that has the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import PydanticCustomError, core_schema

from eventflow.events._annotations import refuse
from eventflow.events._defaults import checked_default
from eventflow.events._handed_on import checked_below
from eventflow.events._leaves import LEAVES
from eventflow.events._model import absent
from eventflow.events._nodes import FUNCTIONS, Node, as_made, bare, choices_of, kind_of, metadata_of
from eventflow.events._unions import check_choices, check_enum, check_literal
from eventflow.events._values import exact_enum, exact_literal
from eventflow.events.mapping import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import NoReturn

__all__ = ("Walk", "being_made")

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
        config: The configuration of the class.

    Attributes:
        raw_fields: The names of the fields that hold `RawJson`, and whether they can be ``None``.
        nested: Whether a `Part` was met.
    """

    def __init__(
        self,
        owner: str,
        resolve: Callable[[Any], Any],
        *,
        raw_allowed: bool,
        generic: bool,
        config: Node,
    ) -> None:
        self._owner = owner
        self._resolve = resolve
        self._raw_allowed = raw_allowed
        self._generic = generic
        self._config: Node = {**config, "title": owner}
        self._names: list[str] = []
        self._raw_here = False
        self._open: set[str] = set()
        self.raw_fields: dict[str, bool] = {}
        self.nested = False

    def field(self, name: str, field: Node) -> None:
        """Rewrite one field of the class."""
        schema = field["schema"]
        for key in ("serialization_exclude", "serialization_exclude_if"):
            if field.get(key):
                self._refuse(name, "a field that can be left out can't be read back", "drop it")
        inner = schema
        while inner["type"] in ("default", "nullable", *FUNCTIONS):
            inner = inner["schema"]
        self._raw_here = self._raw_allowed and kind_of(inner) == "raw"
        if self._raw_here:
            above = _types_above(schema)
            if above & {"function-before", "function-wrap"}:
                self._refuse(
                    name,
                    "a before or wrap validator would not see the bytes of RawJson",
                    "use an after one",
                )
            if isinstance(field.get("validation_alias"), list):
                self._refuse(
                    name,
                    "RawJson is cut from one key of the event itself",
                    "give it one name: alias=",
                )
            self.raw_fields[name] = "nullable" in above
        if schema["type"] == "default" and "default" in schema and schema["default"] is None:
            field["serialization_exclude_if"] = absent
        field["schema"] = self.node(schema, name)
        self._names.append(name)

    def node(self, node: Node, path: str) -> Node:
        """Return the schema that takes the place of this one."""
        metadata = metadata_of(node)
        if metadata.get("eventflow_done"):
            return node
        if metadata.get("eventflow_kind") == "raw":
            if not self._raw_here:
                self._refuse(
                    path, "RawJson is for a field of the event itself", "use it there, or a Part"
                )
            return _optional_raw(node) if self.raw_fields[path] else node
        kind = node["type"]
        leaf = LEAVES.get(kind)
        method: Any = getattr(self, "_" + kind.replace("-", "_"), None)
        if leaf is None and method is None:
            self._refuse(path, f"{_shown(node)} is not for events", _REMEDY)
        if "serialization" in node and kind != "function-plain":
            self._refuse(
                path,
                "a serializer of its own can't be read back",
                "use a Part, or a plain type such as str, and an alias if it is for the name",
            )
        if leaf is not None:
            if node.get("strict") is False:
                self._refuse(path, "strict=False", "events are strict about types; drop it")
            if kind == "datetime" and node.get("tz_constraint") == "naive":
                self._refuse(path, "a naive datetime is no point in time", "use datetime")
            return leaf(node)
        result: Node = method(node, path)
        return result

    def _any(self, node: Node, path: str) -> Node:
        if not self._generic:
            self._refuse(
                path, "Any says nothing", "say the type; RawJson for JSON passed on unread"
            )
        return _node(core_schema.no_info_plain_validator_function(_unparametrised))

    def _literal(self, node: Node, path: str) -> Node:
        check_literal(node["expected"], partial(self._refuse, path))
        return exact_literal(node)

    def _enum(self, node: Node, path: str) -> Node:
        check_enum(node["cls"], partial(self._refuse, path))
        return exact_enum(node)

    def _nullable(self, node: Node, path: str) -> Node:
        return {**node, "schema": self.node(node["schema"], path)}

    def _default(self, node: Node, path: str) -> Node:
        inner = self.node(node["schema"], path)
        node = {**node, "schema": inner}
        # Pydantic trusts defaults; a None where None is allowed is the one that needs no look.
        if "default" in node and node["default"] is None and inner["type"] == "nullable":
            return {**node, "validate_default": False}
        if self._generic:  # nothing is made of it
            return node
        return checked_default(
            node, path, before=self._names, config=self._config, resolve=self._resolve
        )

    def _tuple(self, node: Node, path: str) -> Node:
        items = [self.node(item, f"{path}[]") for item in node["items_schema"]]
        exact: Any = {**node, "items_schema": items, "strict": True}
        return _marked(
            core_schema.json_or_python_schema(
                json_schema=_after_parsing(exact),
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
                json_schema=core_schema.no_info_after_validator_function(
                    FrozenMapping, _after_parsing(exact)
                ),
                python_schema=core_schema.no_info_after_validator_function(
                    FrozenMapping,
                    core_schema.no_info_before_validator_function(_as_dict, exact),
                    serialization=form,
                ),
                serialization=form,
            )
        )

    def _union(self, node: Node, path: str) -> Node:
        metadata = metadata_of(node)
        choices = choices_of(node)
        # Pydantic turns it into a tagged union once every choice is known.
        if "pydantic_internal_union_discriminator" not in metadata:
            check_choices(choices, self._resolve, partial(self._refuse, path))
        return {**node, "choices": [self.node(choice, path) for choice in choices]}

    def _tagged_union(self, node: Node, path: str) -> Node:
        if callable(node["discriminator"]):
            self._refuse(
                path, "a discriminator that is a function", "name a field: discriminator='kind'"
            )
        choices: dict[str, Node] = node["choices"]
        walked = {tag: self.node(choice, path) for tag, choice in choices.items()}
        return {**node, "choices": walked}

    def _lax_or_strict(self, node: Node, path: str) -> Node:
        return self.node(node["strict_schema"], path)

    def _function_before(self, node: Node, path: str) -> Node:
        return checked_below({**node, "schema": self.node(node["schema"], path)})

    def _function_after(self, node: Node, path: str) -> Node:
        inner = self.node(node["schema"], path)
        made = as_made(inner, self._resolve)
        # What the user's function returned is checked like what the caller gave.
        checked: Any = [checked_below({**node, "schema": inner}), made]
        if self._raw_here:
            # In errors the function's input is the value, not what stood for it in the body.
            checked = [inner, {**node, "schema": made}, made]
        return _marked(core_schema.chain_schema(checked))

    _function_wrap = _function_after

    def _function_plain(self, node: Node, path: str) -> Node:
        self._refuse(path, "a plain validator hides what it returns", "use a before or after one")

    def _model(self, node: Node, path: str) -> Node:
        cls: type[object] = node["cls"]
        if hasattr(cls, "__eventflow_name__"):
            self._refuse(path, f"{cls.__name__} is an event", "use a Part for what is inside one")
        if not hasattr(cls, "__eventflow_part__"):
            remedy = f"make it class {cls.__name__}(Part)"
            self._refuse(path, f"{cls.__name__} is a model with rules of its own", remedy)
        self.nested = True
        return node

    def _definition_ref(self, node: Node, path: str) -> Node:
        reference = node["schema_ref"]
        try:
            target = self._resolve(node)
        except LookupError:  # still being made: a part that contains itself
            for event in _BEING_MADE:
                # pydantic's references: the full name, a colon, and what tells equal names apart.
                if reference.startswith(f"{event.__module__}.{event.__qualname__}:"):
                    self._model({"cls": event}, path)
            self.nested = True
            return node
        if target is node or reference in self._open:
            return node
        if bare(target)["type"] == "model":
            self._model(bare(target), path)
            return node
        self._open.add(reference)
        rewritten = {**self.node({k: v for k, v in target.items() if k != "ref"}, path)}
        self._open.discard(reference)
        target.clear()
        target.update(rewritten, ref=reference)
        return node

    def _refuse(self, path: str, problem: str, remedy: str) -> NoReturn:
        refuse(self._owner, path, problem, remedy)


_BEING_MADE: list[type[object]] = []


@contextmanager
def being_made(event: type[object]) -> Generator[None]:
    """While the schema of an event is made: a part in it that refers to it is refused."""
    _BEING_MADE.append(event)
    try:
        yield
    finally:
        _BEING_MADE.remove(event)


def _node(schema: Any) -> Node:
    result: Node = schema
    return result


def _marked(schema: Any) -> Node:
    schema["metadata"] = {**metadata_of(schema), "eventflow_done": True}
    return _node(schema)


def _after_parsing(exact: Any) -> Any:
    # Under a user's before or wrap validator, here or further up, a body's array comes as the
    # list that was made of it. What comes from the parser itself can be nothing but an array.
    return {**exact, "strict": False}


def _types_above(node: Node) -> set[str]:
    found: set[str] = set()
    while "schema" in node:
        found.add(node["type"])
        node = node["schema"]
    return found


def _shown(node: Node) -> str:
    cls = node.get("cls")
    return cls.__name__ if isinstance(cls, type) else f"a {node['type']}"


def _as_tuple(value: Any) -> Any:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def _as_dict(value: Any) -> Any:
    return dict(cast("Mapping[object, object]", value)) if isinstance(value, Mapping) else value


def _as_dict_form(value: Mapping[str, Any], handler: Callable[[Any], Any]) -> Any:
    return handler(dict(value))


def _unparametrised(value: object) -> object:
    raise PydanticCustomError(
        "unparametrised", "The class is generic: create it as Class[Type](...)"
    )


def _optional_raw(node: Node) -> Node:
    made: Any = node["python_schema"]
    return {**node, "python_schema": core_schema.no_info_after_validator_function(_not_null, made)}


def _not_null(raw: Any) -> Any:
    if bytes(raw) == b"null":
        raise PydanticCustomError("raw_null", "Input would be read as None; give None")
    return raw
