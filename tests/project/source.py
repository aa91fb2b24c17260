"""The package's source, parsed once, for tests that read it instead of running it."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    path: Path

    @property
    def tree(self) -> ast.Module:
        # Read when a test asks: parsing everything would delay the first test of a run.
        return parsed(self.path)

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))

    def at(self, node: ast.AST) -> str:
        """Where a node is, in the form editors open."""
        return f"{os.path.relpath(self.path, ROOT)}:{getattr(node, 'lineno', 1)}"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def modules() -> tuple[Module, ...]:
    """Every module of eventflow, by name."""
    found: list[Module] = []
    for path in sorted(ROOT.joinpath("eventflow").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path))
    return tuple(found)


def imports(module: Module, *, for_types: bool = True) -> Iterator[tuple[str, ast.stmt]]:
    """The modules of ours that a module imports, wherever in the file the statement stands.

    With ``for_types`` those under ``if TYPE_CHECKING:`` are among them.

    ``from eventflow.bus import EventBus`` is an import of ``eventflow.bus``, and
    ``from eventflow.bus import options``, a module, is one of ``eventflow.bus.options``.
    """
    ours = {each.name for each in modules()}
    unused: set[ast.AST] = set() if for_types else set(typing_only(module.tree))
    for node in ast.walk(module.tree):
        if node in unused:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "eventflow":
                    yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            if base.partition(".")[0] != "eventflow":
                continue
            names = {f"{base}.{alias.name}" for alias in node.names}
            submodules = names & ours
            for submodule in sorted(submodules):
                yield submodule, node
            if names - submodules:
                yield base, node


def typing_only(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING"):
            for statement in node.body:
                yield from ast.walk(statement)


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name behind a possibly relative ``from … import``."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parts, *filter(None, [node.module])])


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for a name or an attribute of names, else the empty string."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            base = dotted(value)
            return base and f"{base}.{attr}"
        case _:
            return ""
