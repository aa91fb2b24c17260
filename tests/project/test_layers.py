"""Imports run one way, and never in a circle.

An import moved into a function to dodge a cycle is still a cycle. One that only a type checker
sees may name a neighbour that imports back, but has to run the right way too.
"""

from __future__ import annotations

import graphlib
from typing import TYPE_CHECKING

import pytest

from tests.project.source import Module, imports, modules

if TYPE_CHECKING:
    from pathlib import Path

# Each may use what stands before it, and its neighbours in the same row.
LAYERS = (
    ("errors",),
    ("events",),
    (
        "typing",
        "failure",
        "_cause",
        "_texts",
        "_escape",
        "context",
        "_log",
        "logging",
        "lifecycle",
        "diagnostics",
    ),
    ("bus",),
    ("messaging",),
    ("brokers",),
    ("integrations", "cli", "dashboard", "__main__"),
    ("testing",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def part(name: str) -> str:
    """``eventflow.bus.overflow`` belongs to ``bus``."""
    return name.split(".")[1] if "." in name else ""


def broker(name: str) -> str:
    """``eventflow.brokers.kafka.broker`` belongs to ``kafka``, what all share to none."""
    parts = name.split(".")
    if parts[1:2] != ["brokers"] or len(parts) < 3 or parts[2].startswith("_"):
        return ""
    return parts[2]


def wrong_ways(module: Module) -> list[str]:
    """What a module imports against the direction."""
    if module.name == "eventflow":
        # The root gives the public names and may resolve them from any layer but one.
        return [name for name, _ in imports(module) if part(name) == "testing"]
    if part(module.name) not in RANK:
        return [f"{module.name} has no place in LAYERS"]
    found: list[str] = []
    for name, node in imports(module):
        where = f"{module.at(node)} imports {name}"
        if not part(name):
            found.append(f"{where}: the root is for users; import from where it is defined")
        elif part(name) not in RANK or RANK[part(name)] > RANK[part(module.name)]:
            found.append(f"{where}: wrong way")
        elif part(module.name) == "brokers" and broker(name) not in ("", broker(module.name)):
            found.append(f"{where}: another broker")
    return found


def test_imports_run_one_way(subtests: pytest.Subtests) -> None:
    """No module uses one to the right of its own layer, nor another broker's."""
    for module in modules():
        with subtests.test(module.name):
            assert not wrong_ways(module)


def test_imports_never_run_in_a_circle() -> None:
    """The graph of all imports that happen can be sorted."""
    graph = {
        module.name: {name for name, _ in imports(module, for_types=False)}
        for module in modules()
        if module.name != "eventflow"
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("eventflow.events.event", "from eventflow.bus import EventBus"),
        ("eventflow.events.event", "import eventflow.typing"),
        ("eventflow.bus.bus", "def late():\n    from eventflow.testing import no_leaks"),
        ("eventflow.bus.bus", "if TYPE_CHECKING:\n    from eventflow.messaging import Router"),
        ("eventflow.bus.bus", "from eventflow import Event"),
        ("eventflow.bus.bus", "from ..messaging import Router"),
        ("eventflow.brokers.kafka.publisher", "from eventflow.brokers.redis import config"),
        ("eventflow.brokers._tls", "from eventflow.brokers.kafka.security import Sasl"),
        ("eventflow.extra", ""),
        ("eventflow", "from eventflow.testing import no_leaks"),
    ],
)
def test_a_wrong_way_is_noticed(name: str, source: str, tmp_path: Path) -> None:
    """Each of these, planted, is found."""
    planted = tmp_path / "planted.py"
    planted.write_text(source)
    assert wrong_ways(Module(name, planted))
