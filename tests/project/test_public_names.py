"""``__all__`` says what is public: all of it, and nothing else."""

from __future__ import annotations

import ast
import importlib
from typing import TYPE_CHECKING

import pytest

from tests.project.source import Module, absolute, modules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PUBLIC = [module for module in modules() if module.is_public]


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, those under ``if`` and ``try`` too."""
    for node in body:
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from statements(node.body)
            yield from statements(getattr(node, "orelse", []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)
        else:
            yield node


def bound(module: Module) -> Iterator[str]:
    """Functions and classes of a module, and what a package takes up from its own modules."""
    for node in statements(module.tree.body):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.ImportFrom() if module.is_package:
                if absolute(module, node).partition(".")[0] == "eventflow":
                    yield from (alias.asname or alias.name for alias in node.names)
            case _:
                pass


def test_all_is_what_there_is(subtests: pytest.Subtests) -> None:
    """Every name in ``__all__`` resolves, and every public function and class is in it."""
    for module in PUBLIC:
        with subtests.test(module.name):
            loaded = importlib.import_module(module.name)

            listed: tuple[str, ...] = loaded.__all__

            assert isinstance(listed, tuple)
            assert len(listed) == len(set(listed))
            for name in listed:
                getattr(loaded, name)
            public = {name for name in bound(module) if not name.startswith("_")}
            if module.is_package:
                assert public == set(listed)
            else:
                assert not public - set(listed), "a leading underscore, or a place in __all__"


def test_a_public_module_says_what_it_is_for(subtests: pytest.Subtests) -> None:
    """Each begins with a docstring, whose first line is a sentence."""
    for module in PUBLIC:
        with subtests.test(module.name):
            text = ast.get_docstring(module.tree)
            assert text
            assert text.splitlines()[0].endswith((".", "!", "?"))


def test_a_name_that_is_not_there() -> None:
    """A wrong name is an AttributeError that names it, and ``dir`` lists the right ones."""
    eventflow = importlib.import_module("eventflow")

    with pytest.raises(AttributeError, match="no_such_name"):
        eventflow.no_such_name  # noqa: B018 - the access is the test
    assert set(eventflow.__all__) <= set(dir(eventflow))
