"""The read-only mapping."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping

import pytest

from eventflow.events import FrozenMapping


def test_it_is_a_mapping() -> None:
    """It reads like a dict, in the order given, and compares like one."""
    mapping = FrozenMapping({"b": 1, "a": 2})
    assert isinstance(mapping, Mapping)
    assert list(mapping.items()) == [("b", 1), ("a", 2)]
    assert mapping == {"a": 2, "b": 1} == mapping
    assert mapping == FrozenMapping({"a": 2, "b": 1})
    assert mapping != {"a": 2}
    assert "a" in mapping
    assert "z" not in mapping
    empty: FrozenMapping[int] = FrozenMapping()
    assert len(empty) == 0
    assert repr(mapping) == "FrozenMapping({'b': 1, 'a': 2})"


def test_it_hashes_copies_and_pickles() -> None:
    """Equal ones have one hash; copies and pickles are equal."""
    mapping = FrozenMapping({"b": 1, "a": 2})
    assert hash(mapping) == hash(FrozenMapping({"a": 2, "b": 1}))
    assert copy.copy(mapping) is mapping
    assert copy.deepcopy(mapping) is mapping
    assert pickle.loads(pickle.dumps(mapping)) == mapping


def test_it_can_not_be_changed() -> None:
    """It is a copy of what it was given, and has no way to change."""
    source = {"a": 1}
    mapping = FrozenMapping(source)
    source["b"] = 2
    assert mapping == {"a": 1}
    with pytest.raises(TypeError):
        mapping["a"] = 2  # type: ignore[index]
    with pytest.raises(AttributeError):
        mapping._items = {}  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(AttributeError):
        del mapping._items  # pyright: ignore[reportPrivateUsage]
