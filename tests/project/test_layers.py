"""Imports run one way, and never in a circle; late ones and those for type checkers included.

An import moved into a function to dodge a cycle is still a cycle.
"""

from __future__ import annotations

import graphlib

import pytest

from tests.project.source import Module, imports, modules

# Each may use what stands before it, and its neighbours in the same row.
LAYERS = (
    ("errors",),
    ("events",),
    ("typing", "failure", "context", "logging", "lifecycle"),
    ("bus",),
    ("messaging",),
    ("brokers",),
    ("integrations", "cli", "dashboard"),
    ("testing",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def part(name: str) -> str:
    """``eventflow.bus.overflow`` belongs to ``bus``."""
    return name.split(".")[1] if "." in name else ""


def broker(name: str) -> str:
    parts = name.split(".")
    return parts[2] if parts[1:2] == ["brokers"] and len(parts) > 2 else ""


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)
def test_imports_run_one_way(module: Module) -> None:
    """No module uses one to the right of its own layer, nor another broker's."""
    if module.name == "eventflow":
        # The root gives the public names and may resolve them from any layer but one.
        assert all(part(name) != "testing" for name, _ in imports(module))
        return
    assert part(module.name) in RANK, f"{module.name} has no place in LAYERS"
    for name, node in imports(module):
        where = f"{module.at(node)} imports {name}"
        assert part(name), f"{where}: the root is for users; import from where it is defined"
        assert RANK[part(name)] <= RANK[part(module.name)], f"{where}: wrong way"
        if broker(module.name) and broker(name):
            assert broker(name) == broker(module.name), f"{where}: another broker"


def test_imports_never_run_in_a_circle() -> None:
    """The graph of all imports can be sorted."""
    graph = {
        module.name: {name for name, _ in imports(module) if name != module.name}
        for module in modules()
        if module.name != "eventflow"
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(reversed(error.args[1]))}")
