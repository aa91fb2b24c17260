"""All measures by name, and running one of them in this interpreter."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import Figure, Settings, load, machine, python

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("MEASURES", "measure")

MEASURES = {
    "isolation": ("tests.bench.isolation", "isolation"),
    "single": ("tests.bench.throughput", "single"),
    "fan-out": ("tests.bench.throughput", "fan_out"),
    "latency": ("tests.bench.latency", "idle"),
    "creation": ("tests.bench.creation", "creation"),
    "topics": ("tests.bench.topics", "topics"),
    "memory": ("tests.bench.subscriptions", "memory"),
    "start-stop": ("tests.bench.subscriptions", "start_and_stop"),
    "import": ("tests.bench.imports", "imports"),
    "peers": ("tests.bench.throughput", "peers"),
    "watermill": ("tests.bench.throughput", "watermill_pair"),
    "router": ("tests.bench.router", "router"),
    "middlewares": ("tests.bench.router", "middlewares"),
    "handlers": ("tests.bench.router", "handlers"),
    "logging": ("tests.bench.logs", "logs"),
    "defaults": ("tests.bench.defaults", "defaults"),
}


def measure(name: str, settings: Settings) -> dict[str, object]:
    """Run one measure; what it gave, with the load before and after."""
    module, function = MEASURES[name]
    __import__(module)
    run: Callable[[Settings], list[Figure]] = getattr(sys.modules[module], function)
    before = load()
    figures = run(settings)
    return {
        "measure": name,
        "python": python(),
        "machine": machine(),
        "load": [before, load()],
        "quick": settings.quick,
        "figures": [figure.as_dict() for figure in figures],
    }


def main() -> None:
    """One measure in this process, for the command that runs them all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.measures")
    parser.add_argument("name", choices=MEASURES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    result = measure(given.name, Settings(quick=given.quick, pairs=given.pairs))
    given.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
