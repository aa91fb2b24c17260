"""All measures by name, and running one of them in this interpreter."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.bench.command import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.harness import Figure, Settings

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


def measure(name: str, settings: Settings) -> list[Figure]:
    """Run one measure."""
    module, function = MEASURES[name]
    __import__(module)
    run: Callable[[Settings], list[Figure]] = getattr(sys.modules[module], function)
    return run(settings)


if __name__ == "__main__":
    answer("tests.bench.measures", MEASURES, lambda name, settings, _: measure(name, settings))
