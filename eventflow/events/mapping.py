"""`FrozenMapping`: what a ``Mapping[str, T]`` field holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

__all__ = ("FrozenMapping",)

V_co = TypeVar("V_co", covariant=True)


class FrozenMapping(Mapping[str, V_co]):
    """A read-only mapping that hashes, copies and pickles.

    A field annotated ``Mapping[str, T]`` holds one; any mapping can be given to it. It
    keeps the order it was given, and two are equal when their items are, in any order.
    (``types.MappingProxyType`` neither hashes nor copies nor pickles, and its owner can
    still change it.)

    Args:
        items: The items; copied, so a later change to them is not seen here.

    Example:
        >>> labels = FrozenMapping({"team": "shop"})
        >>> labels["team"], hash(labels) == hash(FrozenMapping({"team": "shop"}))
        ('shop', True)
    """

    __slots__ = ("_items",)

    _items: dict[str, V_co]

    def __init__(self, items: Mapping[str, V_co] | None = None, /) -> None:
        object.__setattr__(self, "_items", {} if items is None else dict(items))

    def __getitem__(self, key: str) -> V_co:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FrozenMapping):
            return self._items == cast("FrozenMapping[object]", other)._items
        return self._items == other

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} can't be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} can't be changed")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._items!r})"

    # Every value inside an event is immutable, so copies share.
    def __copy__(self) -> FrozenMapping[V_co]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenMapping[V_co]:
        return self

    def __reduce__(self) -> tuple[type[FrozenMapping[V_co]], tuple[dict[str, V_co]]]:
        return type(self), (self._items,)
