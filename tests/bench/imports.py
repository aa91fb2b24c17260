"""`from eventflow import Event, EventBus` in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.bench.harness import Figure, Settings, Spread, ratios, rounds

__all__ = ("imports",)

OURS = "from eventflow import Event, EventBus"
OTHERS = "import asyncio, anyio, structlog\nfrom pydantic import BaseModel"
# The control: what the first model of anybody's costs on top, since only then pydantic loads the
# half of itself that builds models.
ONE_MODEL = f"{OTHERS}\nclass Nothing(BaseModel): pass"
EXTRAS = (
    "aiokafka",
    "aio_pika",
    "confluent_kafka",
    "fastapi",
    "nats",
    "psycopg",
    "redis",
    "starlette",
    "typer",
)

TIMED = """
import sys
from time import perf_counter
began = perf_counter()
{statement}
took = perf_counter() - began
import json
print(json.dumps([took * 1000, sorted(sys.modules)]))
"""


def _run(statement: str) -> tuple[float, list[str]]:
    command = [sys.executable, "-c", TIMED.format(statement=statement)]
    # Compiled files are kept, as they are wherever a package is installed; the warm-up makes them.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    ran = subprocess.run(command, check=True, capture_output=True, env=kept)
    took, modules = json.loads(ran.stdout)
    return took, modules


def imports(settings: Settings) -> list[Figure]:
    """The import alone, without the interpreter's own start."""
    times = rounds(
        {
            "ours": lambda: _run(OURS)[0],
            "others": lambda: _run(OTHERS)[0],
            "model": lambda: _run(ONE_MODEL)[0],
        },
        settings.rounds,
        warm_up=2,
    )
    control = ratios(times["model"], times["others"])
    loaded = sorted(set(EXTRAS) & set(_run(OURS)[1]))
    return [
        Figure(
            "importing `Event` and `EventBus`",
            "ms",
            ratios(times["ours"], times["others"]),
            Spread.of(times["ours"]),
            Spread.of(times["others"]),
            at_most=1.2,
            aim=1.1,
            note="beside importing asyncio, anyio, structlog and pydantic's BaseModel; with an "
            f"empty model made of it, those alone take {control.median:.2f} times as long; "
            f"extras loaded: {', '.join(loaded) or 'none'}",
        )
    ]
