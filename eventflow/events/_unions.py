"""Which unions, literals and enums can be told apart again when they are read."""

from __future__ import annotations

import enum
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from eventflow.events._nodes import choices_of, kind_of
from eventflow.events._values import plain_value
from eventflow.events.integers import INT64_MAX, INT64_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventflow.events._nodes import Node

__all__ = ("check_choices", "check_enum", "check_literal")

_JSON_TYPES = {
    "bool": "boolean",
    "bytes": "string",
    "date": "string",
    "datetime": "string",
    "decimal": "string",
    "dict": "object",
    "float": "number",
    "int": "number",
    "model": "object",
    "none": "null",
    "str": "string",
    "time": "string",
    "timedelta": "number",
    "tuple": "array",
    "uuid": "string",
}
# Alternatives that share a JSON type and still read back as what was written.
_COMPATIBLE = ({"str", "literal"}, {"int", "float", "literal"}, {"bool", "literal"}, {"none"})


def check_choices(
    choices: Iterable[Node], resolve: Callable[[Any], Any], refuse: Callable[[str, str], object]
) -> None:
    """Refuse a union of which two alternatives look alike in JSON."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for choice in choices:
        for json_type, kind in _forms(choice, resolve):
            found[json_type].append(kind)
    for json_type, kinds in found.items():
        if len(kinds) < 2 or any(set(kinds) <= allowed for allowed in _COMPATIBLE):
            continue
        if json_type == "object" and set(kinds) == {"model"}:
            remedy = "name the field that tells: Field(discriminator='kind'), with a Literal each"
        else:
            remedy = "keep one of them, or put them into Parts told apart by a discriminator"
        refuse(f"a union of {' and '.join(kinds)}, each a JSON {json_type}, is ambiguous", remedy)


def check_literal(expected: Iterable[object], refuse: Callable[[str, str], object]) -> None:
    """Refuse a literal value that has no JSON form, or another one than its own."""
    for value in expected:
        plain = value.value if isinstance(value, enum.Enum) else value
        if isinstance(value, enum.Enum) and not isinstance(value, str | int):
            refuse(
                f"{value} in a Literal can't be read back", "use an Enum with str or int mixed in"
            )
        if not (plain is None or isinstance(plain, bool) or _is_plain(plain)):
            refuse(f"the literal {plain!r} has no exact JSON form", "use str, int64, bool or None")


def check_enum(cls: type[enum.Enum], refuse: Callable[[str, str], object]) -> None:
    """Refuse an enum with values other than text and int64."""
    if issubclass(cls, enum.Flag):
        refuse(
            f"{cls.__name__} is a Flag, whose values combine", "use an int, or a tuple of an Enum"
        )
    for member in cls:
        if isinstance(member.value, bool) or not _is_plain(member.value):
            refuse(f"{member} has the value {member.value!r}", "give it a str or an int64")


def _is_plain(value: object) -> bool:
    if isinstance(value, int):
        return INT64_MIN <= value <= INT64_MAX
    return isinstance(value, str) and value.encode(errors="replace") == value.encode(
        errors="surrogatepass"
    )


def _forms(node: Node, resolve: Callable[[Any], Any]) -> list[tuple[str, str]]:
    """Return the JSON types an alternative can have, each with the kind of its schema."""
    kind = node["type"]
    if kind_of(node) == "int64-string":
        return [("string", "Int64String")]
    if kind in _JSON_TYPES:
        return [(_JSON_TYPES[kind], kind)]
    if kind == "literal":
        return [(form, kind) for form in sorted({_plain_form(v) for v in node["expected"]})]
    if kind == "enum":
        return [(form, kind) for form in sorted({_plain_form(v) for v in node["members"]})]
    if kind == "definition-ref":
        try:
            target = resolve(node)
        except LookupError:
            return [("object", "model")]
        return [] if target is node else _forms(target, resolve)
    if kind == "nullable":
        return [("null", "none"), *_forms(node["schema"], resolve)]
    if kind == "tagged-union":  # of models, which a field of theirs tells apart
        return [("object", "model")]
    if "choices" in node:
        return [form for choice in choices_of(node) for form in _forms(choice, resolve)]
    for key in ("python_schema", "schema", "strict_schema"):
        if key in node:
            return _forms(node[key], resolve)
    return _forms(node["steps"][-1], resolve) if "steps" in node else []


def _plain_form(value: object) -> str:
    plain = plain_value(value)
    if plain is None:
        return "null"
    if isinstance(plain, bool):
        return "boolean"
    return "number" if isinstance(plain, int) else "string"
