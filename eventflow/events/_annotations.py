"""Refusing annotations that can change or say nothing, with the remedy for each.

The walk over the core schema is the closed list of what is allowed. This one looks at the
annotations before it, because there a ``dict`` and a ``Mapping`` can still be told apart.
"""

from __future__ import annotations

import collections
import collections.abc as abc
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import Secret, SecretBytes, SecretStr

from eventflow.errors import EventDefinitionError

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ("check_annotation", "refuse")

_TUPLE = "use tuple[T, ...]; a list given to it becomes a tuple"
_MAPPING = "use Mapping[str, T], which is stored in a read-only mapping"
_MASKED = "it is written as asterisks and can't be read back; leave it out, or use a str"
_TYPED = "say which type it has; for JSON that is passed on unread use RawJson"

# An alias can contain itself.
_MAX_ALIAS_DEPTH = 20

_REMEDIES: dict[object, str] = {
    Any: _TYPED,
    object: _TYPED,
    Secret: _MASKED,
    SecretBytes: _MASKED,
    SecretStr: _MASKED,
    Callable: "JSON has no functions",
    abc.Collection: _TUPLE,
    abc.Iterable: _TUPLE,
    abc.Iterator: _TUPLE,
    abc.MutableMapping: _MAPPING,
    abc.MutableSequence: _TUPLE,
    abc.MutableSet: _TUPLE,
    abc.Sequence: _TUPLE,
    abc.Set: _TUPLE,
    bytearray: "use bytes",
    collections.Counter: _MAPPING,
    collections.OrderedDict: _MAPPING,
    collections.defaultdict: _MAPPING,
    collections.deque: _TUPLE,
    complex: "JSON has no complex numbers; use a Part with two floats",
    dict: _MAPPING,
    frozenset: _TUPLE,
    list: _TUPLE,
    memoryview: "use bytes",
    set: _TUPLE,
    type: "JSON has no classes; use a str",
}


def refuse(event: str, path: str, problem: str, remedy: str) -> NoReturn:
    """Raise `EventDefinitionError` for a field, or for the class when the path is empty."""
    where = f"{event}.{path}" if path else event
    raise EventDefinitionError(f"{where}: {problem}: {remedy}", event=event, path=path)


def check_annotation(event: str, path: str, annotation: Any) -> None:
    """Raise if the annotation, or one inside it, is on the list of what an event can't hold."""
    origin = get_origin(annotation) or annotation
    arguments = get_args(annotation)
    if origin is Annotated:
        check_annotation(event, path, arguments[0])
        return
    # A `type` statement's alias, of either module that has them; its arguments are left to
    # the walk over the schema, where they are in their places.
    alias = getattr(origin, "__value__", None)
    if alias is not None and not isinstance(origin, type):
        if not get_args(alias) or _depth(path) < _MAX_ALIAS_DEPTH:
            check_annotation(event, path, alias)
        return
    try:
        remedy = _REMEDIES.get(origin)
    except TypeError:  # unhashable: not an annotation of a type
        return
    if origin in (tuple, Mapping) and not arguments:
        refuse(event, path, f"{_name(annotation)} without types", _TYPED)
    if remedy is not None:
        refuse(event, path, f"{_name(annotation)} is not for events", remedy)
    if origin is tuple:
        for argument in arguments:
            check_annotation(event, f"{path}[]", argument)
    elif origin is Mapping:
        check_annotation(event, f"{path}{{}}", arguments[1])
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            check_annotation(event, path, argument)


def _depth(path: str) -> int:
    return path.count("[]") + path.count("{}")


def _name(annotation: Any) -> str:
    name = getattr(annotation, "__name__", None)
    return name if isinstance(name, str) and not get_args(annotation) else str(annotation)
