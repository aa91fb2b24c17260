"""Tests that a page names as what shows a row of its table."""

from __future__ import annotations

import ast
import re

from tests.project.source import ROOT, parsed

__all__ = ("check_named_tests",)


def check_named_tests(cell: str) -> None:
    """Fail unless a cell names one test or more, and each is in the file it is said to be in."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)
    assert named
    assert len(named) == cell.count("::")
    for path, test in named:
        functions = {
            node.name
            for node in ast.walk(parsed(ROOT / path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert test in functions, f"{path}::{test}"
