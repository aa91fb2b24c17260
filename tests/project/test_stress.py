"""A test that has a full size for `make stress` is run by it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.project.source import ROOT, dotted, parsed

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "EVENTFLOW_STRESS"
MARK = "pytest.mark.stress"


def uses(node: ast.AST, names: set[str]) -> bool:
    """Whether the size is asked for in here, by the variable or by a name made from it."""
    return any(
        (isinstance(each, ast.Name) and each.id in names)
        or (isinstance(each, ast.Constant) and each.value == VARIABLE)
        for each in ast.walk(node)
    )


def made_from_it(tree: ast.Module) -> set[str]:
    """Names of a module that depend on the variable, also by way of each other."""
    names: set[str] = set()
    before = -1
    while len(names) > before:
        before = len(names)
        for statement in tree.body:
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and uses(statement, names):
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            elif isinstance(
                statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            ) and uses(statement, names):
                names.add(statement.name)
    return names


def marks(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> set[str]:
    """The marks on a test or a class, or those of a whole module."""
    if isinstance(node, ast.Module):
        found: list[ast.expr] = []
        for statement in node.body:
            if isinstance(statement, ast.Assign) and dotted(statement.targets[0]) == "pytestmark":
                value = statement.value
                found += value.elts if isinstance(value, ast.List) else [value]
    else:
        found = node.decorator_list
    return {dotted(each.func if isinstance(each, ast.Call) else each) for each in found}


def unmarked(tree: ast.Module) -> Iterator[ast.stmt]:
    """The tests that have a size for `make stress`, which leaves them out."""
    if MARK in marks(tree):
        return
    names = made_from_it(tree)
    is_whole = "__test__" in names  # nobody else runs any of it
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if MARK in marks(node):
            continue
        tests = node.body if isinstance(node, ast.ClassDef) else [node]
        for test in tests:
            if not isinstance(test, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if not test.name.startswith("test") or MARK in marks(test):
                continue
            if is_whole or uses(test, names):
                yield test


def test_what_has_a_full_size_is_run_at_it() -> None:
    """Whoever reads the variable carries the mark that `make stress` selects."""
    makefile = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
    assert f'{VARIABLE}=1 $(PYTEST) -m "stress' in makefile
    left_out = [
        f"{path.relative_to(ROOT)}:{test.lineno}"
        for path in sorted(ROOT.joinpath("tests").rglob("test_*.py"))
        if path.name != "test_stress.py"
        for test in unmarked(parsed(path))
    ]
    assert not left_out


BY_NAME = (
    "import os\nSTRESS = os.environ.get('EVENTFLOW_STRESS') == '1'\nCOUNT = 9 if STRESS else 1\n"
)


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("def test():\n    os.environ.get('EVENTFLOW_STRESS')\n", 1),
        (f"{BY_NAME}def test():\n    run(COUNT)\n", 1),
        (f"{BY_NAME}def size():\n    return COUNT\nasync def test():\n    run(size())\n", 1),
        (f"{BY_NAME}@pytest.mark.parametrize('n', range(COUNT))\ndef test(n): ...\n", 1),
        (f"{BY_NAME}class Test:\n    def test(self):\n        run(STRESS)\n", 1),
        (f"{BY_NAME}__test__ = STRESS\ndef test():\n    run(10)\n", 1),
        (f"{BY_NAME}__test__ = STRESS\n@pytest.mark.stress\ndef test():\n    run(10)\n", 0),
        (f"{BY_NAME}@pytest.mark.stress\ndef test():\n    run(COUNT)\n", 0),
        (f"{BY_NAME}pytestmark = [pytest.mark.slow, pytest.mark.stress]\ndef test(): COUNT\n", 0),
        (f"{BY_NAME}def test():\n    run(10)\n", 0),
    ],
)
def test_whom_it_finds(code: str, count: int) -> None:
    """By the variable, by a constant or a helper made from it, in decorators, in classes."""
    assert len(list(unmarked(ast.parse(code)))) == count
