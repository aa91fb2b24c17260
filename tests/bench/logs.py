"""What configured logging costs a handler that logs nothing."""

from __future__ import annotations

import io
import logging

import structlog

from eventflow.logging import configure
from eventflow.logging._configure import remove
from tests.bench import contenders
from tests.bench.harness import Figure, Settings, Spread, ratios, rounds

__all__ = ("logs",)


def logs(settings: Settings) -> list[Figure]:
    """Publish → handled, with `eventflow.logging.configure` and without, in pairs."""
    number = settings.amount(100_000)
    events = contenders.pings(number)
    level = logging.getLogger().level

    def off() -> float:
        return contenders.run(contenders.ours(events))

    def on() -> float:
        configure(format="json", stream=io.StringIO())
        try:
            return contenders.run(contenders.ours(events))
        finally:
            remove()
            logging.getLogger().setLevel(level)
            structlog.reset_defaults()

    times = rounds({"on": on, "off": off}, settings.rounds, warm_up=2)
    return [
        Figure(
            "logging configured, the handler logs nothing; beside not configured",
            "events/s",
            ratios(times["off"], times["on"]),
            Spread.of([number / s for s in times["on"]]),
            Spread.of([number / s for s in times["off"]]),
            at_least=0.9,
            note=f"{number:,} events a run",
        )
    ]
