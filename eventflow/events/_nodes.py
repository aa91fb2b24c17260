"""Looking at core schemas, which are plain dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = (
    "FUNCTIONS",
    "Node",
    "as_made",
    "bare",
    "choices_of",
    "described_as",
    "is_ours",
    "kind_of",
    "metadata_of",
)

Node = dict[str, Any]
"""A core schema while it is being rewritten."""

FUNCTIONS = ("function-after", "function-before", "function-wrap")
"""The schemas that put a function around another schema."""


def metadata_of(node: Node) -> Node:
    """Return the schema's metadata, empty if it has none."""
    metadata: Node | None = node.get("metadata")
    return {} if metadata is None else metadata


def kind_of(node: Node) -> str | None:
    """Return what one of our own field types is marked as."""
    kind: str | None = metadata_of(node).get("eventflow_kind")
    return kind


def described_as(node: Node) -> Node:
    """Return the metadata of a schema of ours that has the JSON schema of this one."""

    def described(_: Node, handler: Callable[[Node], Node]) -> Node:
        return handler(node)

    return {
        **metadata_of(node),
        "eventflow_done": True,
        "pydantic_js_functions": [described, *metadata_of(node).get("pydantic_js_functions", ())],
    }


def bare(node: Node) -> Node:
    """Return the schema inside the default, the ``None`` and the functions around it."""
    while node["type"] in ("default", "nullable", *FUNCTIONS):
        node = node["schema"]
    return node


def choices_of(node: Node) -> list[Node]:
    """Return the alternatives of a plain union, without their labels."""
    choices: list[Any] = node["choices"]
    return [choice[0] if isinstance(choice, tuple) else choice for choice in choices]


def as_made(node: Node, resolve: Callable[[Any], Any], depth: int = 0) -> Node:
    """Return the schema that checks a value which is there already, without users' functions.

    Args:
        node: A schema after the walk.
        resolve: Returns the schema that a reference stands for.
        depth: How many references were followed; an alias can contain itself.
    """
    if node["type"] == "json-or-python":
        node = node["python_schema"]
    elif node["type"] == "chain":
        return as_made(node["steps"][-1], resolve, depth)
    elif node["type"] == "definition-ref":
        return _resolved(node, resolve, depth)
    elif node["type"] in FUNCTIONS and not is_ours(node):
        return as_made(node["schema"], resolve, depth)
    changed = dict(node)
    for key in ("schema", "values_schema"):
        if key in node:
            changed[key] = as_made(node[key], resolve, depth)
    if "items_schema" in node:
        changed["items_schema"] = [as_made(item, resolve, depth) for item in node["items_schema"]]
    if isinstance(node.get("choices"), dict):
        tagged: dict[str, Node] = node["choices"]
        changed["choices"] = {tag: as_made(one, resolve, depth) for tag, one in tagged.items()}
    elif "choices" in node:
        changed["choices"] = [as_made(one, resolve, depth) for one in choices_of(node)]
    return changed


def _resolved(node: Node, resolve: Callable[[Any], Any], depth: int) -> Node:
    try:
        target: Node = resolve(node)
    except LookupError:
        return node
    if target is node or bare(target)["type"] == "model" or depth > 0:
        return node
    return as_made({k: v for k, v in target.items() if k != "ref"}, resolve, depth + 1)


def is_ours(node: Node) -> bool:
    """Return whether a schema's function is one of this package."""
    function: Any = node["function"]["function"]
    return getattr(function, "__module__", "").startswith("eventflow.events.")
