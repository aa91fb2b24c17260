"""Importing eventflow does nothing else: measured in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

from tests.project.source import ROOT, modules

# Nobody who only imports eventflow pays for these, or needs them installed.
FOREIGN = {
    "_pytest", "aio_pika", "aiokafka", "aiormq", "aiosqlite", "asyncpg", "click", "confluent_kafka",
    "fastapi", "granian", "httpx", "hypercorn", "hypothesis", "litestar", "nats",
    "opentelemetry", "prometheus_client", "psycopg", "pytest", "redis", "sqlite3",
    "starlette", "uvicorn", "uvloop", "watchdog",
}  # fmt: skip
# Whoever imports one of these has its framework, and asked for it.
NEED_MORE = (
    "eventflow.testing",
    "eventflow.integrations.litestar",
    "eventflow.integrations.starlette",
    "eventflow.brokers.kafka",
    "eventflow.brokers.rabbitmq",
)
PROBE = """
import json, signal, sys, threading
handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
events = []
effects = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.system", "os.putenv",
           "os.mkdir", "os.remove", "os.rename", "signal.", "_thread.start")
def hook(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if writes or event.startswith(effects):
        events.append(f"{event} {args!r}")
sys.addaudithook(hook)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({
    "events": events,
    "modules": sorted(sys.modules),
    "threads": [thread.name for thread in threading.enumerate()],
    "signals": [n.name.lower() for n, was in handlers.items() if signal.getsignal(n) != was],
}))
"""


def observe(*names: str, path: Path = ROOT) -> dict[str, Any]:
    """What is there, and what has happened, after importing these in a fresh process."""
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROBE, *names],
        cwd=path,
        env={
            # What measures coverage opens files of its own.
            **{name: value for name, value in os.environ.items() if "COVERAGE" not in name},
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    seen: dict[str, Any] = json.loads(result.stdout)
    return seen


def loaded(seen: dict[str, Any]) -> set[str]:
    return {name.partition(".")[0] for name in seen["modules"]}


@pytest.mark.fault("SEC-17")
@pytest.mark.promise("1")
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["eventflow"], id="the root"),
        pytest.param(
            [m.name for m in modules() if not m.name.startswith(NEED_MORE)],
            id="all of it",
        ),
    ],
)
def test_importing_has_no_side_effects(names: list[str]) -> None:
    """No socket, no child process, no thread, no file written, no signal handler, no output."""
    seen = observe(*names)

    assert seen["events"] == []
    assert seen["threads"] == ["MainThread"]
    assert seen["signals"] == []
    assert not loaded(seen) & FOREIGN


@pytest.mark.fault("SEC-17")
def test_the_root_loads_no_part_of_ours() -> None:
    """``import eventflow`` alone loads nothing behind its names but what typing them needs."""
    seen = observe("eventflow")

    ours = {name for name in seen["modules"] if name.startswith("eventflow.")}
    assert not {n for n in ours if n.startswith(("eventflow.cli", "eventflow.dashboard"))}
    assert not {n for n in ours if n.startswith(("eventflow.brokers", "eventflow.testing"))}


THREAD = """import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


@pytest.mark.parametrize(
    ("source", "noticed"),
    [
        ("import socket; socket.socket().close()", "socket"),
        ("import subprocess; subprocess.run(['true'])", "subprocess"),
        ("open('left-behind', 'w').close()", "open"),
        (THREAD, "Thread-1"),
        ("import signal; signal.signal(signal.SIGTERM, print)", "sigterm"),
        ("import fastapi", "fastapi"),
    ],
    ids=lambda value: value.split(";")[0].split("\n")[0],
)
def test_the_probe_sees(source: str, noticed: str, tmp_path: Path) -> None:
    """Each of these, planted in a module, is noticed."""
    tmp_path.joinpath("planted.py").write_text(source)

    seen = observe("planted", path=tmp_path)

    findings = [*seen["events"], *seen["threads"], *seen["signals"], *(loaded(seen) & FOREIGN)]
    assert any(noticed in finding for finding in findings)
