"""docs/promises.md names tests that there are, and that carry the promise's number."""

from __future__ import annotations

import ast
import re

import pytest

from tests.project.source import ROOT, dotted, parsed
from tests.project.test_claims import PROMISES

TEXT = ROOT.joinpath("docs/promises.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\d)\. ((?:.|\n)*?)(?=^## |\Z)", TEXT, re.MULTILINE))


def promised(path: str, test: str) -> set[str]:
    """The numbers in the marks of a test."""
    return {
        str(ast.literal_eval(argument))
        for node in ast.walk(parsed(ROOT / path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == test
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and dotted(mark.func) == "pytest.mark.promise"
        for argument in mark.args
    }


def test_each_promise_has_a_section() -> None:
    """In the order of their numbers, each with what it does not say."""
    assert tuple(SECTIONS) == PROMISES
    assert all(text.count("**It is not promised**") == 1 for text in SECTIONS.values())


@pytest.mark.parametrize("number", PROMISES)
def test_the_named_tests_show_the_promise(number: str) -> None:
    """Each stands in its file, and carries the number as a mark."""
    named = re.findall(r"^- `(tests/[\w/]+\.py)::(test_\w+)`: \S", SECTIONS[number], re.MULTILINE)
    assert named
    assert len(named) == SECTIONS[number].count("\n- "), "a line that this test can't read"
    assert not [(path, test) for path, test in named if number not in promised(path, test)]
