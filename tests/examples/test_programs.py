"""Each small program under examples/ prints what its docstring says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(
    path for path in ROOT.joinpath("examples").glob("*.py") if path.name != "__init__.py"
)
INDEX = ROOT / "examples/README.md"
LEFT_BEHIND = ("Warning", "Exception ignored", "never retrieved", "was destroyed", "never awaited")


def expected(program: Path) -> str:
    """What stands in the docstring below ``Prints::``."""
    text = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8")), clean=True)
    assert text, f"{program.name} says nothing of itself"
    _, found, output = text.partition("\nPrints::\n\n")
    assert found, f"{program.name} does not say what it prints"
    return textwrap.dedent(output) + "\n"


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_prints_what_it_says(program: Path, tmp_path: Path) -> None:
    """In a process of its own, warnings as errors; twice, so that luck shows."""
    tests = "\ndef test_" in program.read_text(encoding="utf-8")
    for _ in range(2):
        if tests:
            result = run(["-m", "pytest", "-q", "-o", f"cache_dir={tmp_path}", str(program)])
            last = re.search(r"^(\d+ passed) in .*\Z", result.stdout.strip(), re.MULTILINE)
            printed = f"{last[1]}\n" if last else result.stdout
        else:
            result = run(["-m", f"examples.{program.stem}"])
            printed = result.stdout

        assert result.returncode == 0, result.stdout + result.stderr
        assert printed == expected(program)
        assert not [words for words in LEFT_BEHIND if words in result.stderr], result.stderr


def test_the_index_names_every_program() -> None:
    """Once each, and its links lead somewhere."""
    links = re.findall(r"\]\(([^)]+)\)", INDEX.read_text(encoding="utf-8"))

    programs = [link for link in links if link.endswith(".py") and "/" not in link]
    assert sorted(programs) == sorted(path.name for path in PROGRAMS)
    assert [link for link in links if not INDEX.parent.joinpath(link).exists()] == []
