"""Which subscriptions a class of events goes to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Generic, TypeVar

from eventflow.events.topics import is_pattern

if TYPE_CHECKING:
    from eventflow.events import Event

__all__ = ("Matcher",)

T = TypeVar("T")
K = TypeVar("K")

Entries = dict[T, int]
"""Values with their number; a dict, so that taking one out takes the same time for all."""


class _Node(Generic[T]):
    """One segment of a pattern; `*` and `>` are keys like any other."""

    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: Entries[T] = {}


class Matcher(Generic[T]):
    """Hashable values by event class, topic or pattern.

    `match` takes time in the number of matches, of base classes and of segments of the
    topic, not in the number of values: patterns are kept as a tree of segments.
    """

    __slots__ = ("_by_class", "_by_topic", "_numbers", "_patterns")

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._by_class: dict[type[Event], Entries[T]] = {}
        self._by_topic: dict[str, Entries[T]] = {}
        self._patterns: _Node[T] = _Node()

    def add(self, selector: type[Event] | str, value: T) -> None:
        """Let ``value`` match events of a class (subclasses included), topic or pattern."""
        if not isinstance(selector, str):
            entries = self._by_class.setdefault(selector, {})
        elif not is_pattern(selector):
            entries = self._by_topic.setdefault(selector, {})
        else:
            node = self._patterns
            for segment in selector.split("."):
                node = node.children.setdefault(segment, _Node())
            entries = node.values
        entries[value] = next(self._numbers)

    def remove(self, selector: type[Event] | str, value: T) -> None:
        """Undo `add`. The value has to be there."""
        if not isinstance(selector, str):
            _remove(self._by_class, selector, value)
        elif not is_pattern(selector):
            _remove(self._by_topic, selector, value)
        else:
            _prune(self._patterns, selector.split("."), value)

    def match(self, event_class: type[Event]) -> tuple[T, ...]:
        """The values for events of exactly this class, in the order they were added."""
        found: list[tuple[int, T]] = []
        for base in event_class.__mro__:
            _extend(found, self._by_class.get(base))
        topic = event_class.topic
        if topic is not None:
            _extend(found, self._by_topic.get(topic))
            if self._patterns.children:
                _collect(self._patterns, topic.split("."), found)
        found.sort(key=lambda entry: entry[0])
        return tuple(value for _, value in found)


def _extend(found: list[tuple[int, T]], entries: Entries[T] | None) -> None:
    if entries:
        found.extend((number, value) for value, number in entries.items())


def _remove(table: dict[K, Entries[T]], key: K, value: T) -> None:
    entries = table[key]
    del entries[value]
    if not entries:
        del table[key]


def _prune(node: _Node[T], segments: list[str], value: T) -> None:
    if not segments:
        del node.values[value]
        return
    child = node.children[segments[0]]
    _prune(child, segments[1:], value)
    if not child.values and not child.children:
        del node.children[segments[0]]


def _collect(node: _Node[T], segments: list[str], found: list[tuple[int, T]]) -> None:
    if not segments:
        _extend(found, node.values)
        return
    if (rest := node.children.get(">")) is not None:
        _extend(found, rest.values)
    for key in (segments[0], "*"):
        if (child := node.children.get(key)) is not None:
            _collect(child, segments[1:], found)
