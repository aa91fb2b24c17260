"""The repository itself: what lies where, and what is written nowhere."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.project.source import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TOP = {
    "LICENSE",
    "Makefile",
    "README.md",
    "docs",
    "eventflow",
    "examples",
    "pyproject.toml",
    "tests",
}
KINDS = ("added", "changed", "fixed", "removed", "deprecated", "security")


@cache
def files() -> tuple[Path, ...]:
    """What git knows, or would take up; without git, what lies there."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        names = [name for name in listing.stdout.split("\0") if name]
    else:
        names = [
            str(path.relative_to(ROOT))
            for top in ROOT.iterdir()
            if top.name in TOP or top.name == ".ci"
            for path in (top.rglob("*") if top.is_dir() else [top])
            if "__pycache__" not in path.parts
        ]
    return tuple(ROOT / name for name in sorted(names) if ROOT.joinpath(name).is_file())


def texts() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in files():
        try:
            found.append((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


@cache
def project() -> dict[str, Any]:
    return tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))


def test_nothing_else_stands_at_the_top() -> None:
    """Dot-files aside, the top level is a short list."""
    names = {path.relative_to(ROOT).parts[0] for path in files()}
    assert {name for name in names if not name.startswith(".")} <= TOP


def test_nobody_is_told_to_install_another_distribution() -> None:
    """On the index ``eventflow`` is somebody else's; ours is ``eventflow-asyncio``."""
    assert project()["project"]["name"] == "eventflow-asyncio"
    told = re.compile(
        r"(pip3?|pipx|uv|poetry|pdm)\s+(-\S+\s+)*(install|add)\s[^\n`]*?\beventflow\b(?!-asyncio)"
    )
    found = [name for name, text in texts() if told.search(text)]
    assert not found


def test_no_registry_and_no_machine_is_named() -> None:
    """Pins are names and versions; no file holds an address that packages come from."""
    pins = ROOT.joinpath(".ci/constraints.txt").read_text(encoding="utf-8").splitlines()
    for pin in pins:
        assert re.fullmatch(r"#.*|[\w.-]+==[\w.]+(; python_version [<>]=? \"3\.\d+\")?", pin), pin
    option = re.compile(
        r"^\s*(--(extra-)?index-url|--find-links|-i\s)|\[\[tool\.(uv|poetry)\.\w+\]\]", re.MULTILINE
    )
    home = re.compile(r"(?<![\w.])/(home|root|Users)/\w")
    found = [name for name, text in texts() if option.search(text) or home.search(text)]
    assert not found


def test_every_requirement_is_pinned() -> None:
    """A name in a requirements file without a pin would change under us."""
    canonical = re.compile(r"[-_.]+")
    pins = ROOT.joinpath(".ci/constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical.sub("-", pin.partition("==")[0]).lower() for pin in pins}
    for path in ROOT.joinpath(".ci").glob("requirements*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                assert canonical.sub("-", line.partition("[")[0]).lower() in pinned, line


def test_the_lowest_versions_are_the_ones_that_are_tried() -> None:
    """.ci/lowest.txt repeats the lower bounds of pyproject.toml."""
    bounds = {line.replace(">=", "==") for line in project()["project"]["dependencies"]}
    lines = ROOT.joinpath(".ci/lowest.txt").read_text(encoding="utf-8").splitlines()
    tried = {re.sub(r"\.0$", "", line) for line in lines if line and not line.startswith("#")}
    assert tried == bounds


def test_a_core_dependency_has_a_decision() -> None:
    """Beyond the first three, each further one is named in a decision record."""
    names = {re.split(r"[^\w-]", line)[0] for line in project()["project"]["dependencies"]}
    records = "".join(p.read_text(encoding="utf-8") for p in ROOT.glob("docs/decisions/*.md"))
    assert {"anyio", "pydantic", "structlog"} <= names
    assert not {name for name in names if f"`{name}`" not in records}


def test_changelog_fragments_have_names_that_sort() -> None:
    """``<issue>.<kind>.md``, optionally numbered, with at most a few sentences."""
    folder = ROOT / "docs/changelog.d"
    for path in folder.iterdir():
        if path.name == "README.md":
            continue
        assert re.fullmatch(rf"\d+\.({'|'.join(KINDS)})(\.\d+)?\.md", path.name), path.name
        assert 0 < len(path.read_text(encoding="utf-8").split()) <= 120, path.name


def test_decisions_are_numbered_once() -> None:
    """``NNNN-title.md``, no number twice, each with its context, decision and consequences."""
    paths = sorted(ROOT.glob("docs/decisions/[0-9]*.md"))
    numbers = [path.name[:5] for path in paths]
    assert all(re.fullmatch(r"\d{4}-", number) for number in numbers)
    assert len(numbers) == len(set(numbers))
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for heading in ("## Context", "## Decision", "## Consequences"):
            assert heading in text, f"{path.name} lacks {heading}"


def test_the_package_is_typed() -> None:
    """The marker that tells type checkers so is there."""
    assert ROOT.joinpath("eventflow/py.typed").is_file()


def test_make_help_names_every_target() -> None:
    """A phony target without a ``##`` text would not be listed."""
    text = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony
    described = re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)
    assert set(described) == set(phony.group(1).split())
    assert described[0] == "help"


def test_the_readme_is_short() -> None:
    """Under 150 lines, and the two commands and a program come before line 30."""
    lines = ROOT.joinpath("README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    head = "\n".join(lines[:30])
    assert "make run" in head
    assert "make test" in head
    assert head.count("```python") == 1
    assert head.count("```") % 2 == 0, "the program is complete before line 30"


@pytest.mark.parametrize("name", [".ci/run", ".ci/setup", ".ci/debian", ".ci/newest", ".ci/lowest"])
def test_scripts_parse(name: str) -> None:
    """Bash reads each script to its end, and it can be executed."""
    path = ROOT / name
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert path.stat().st_mode & 0o111
