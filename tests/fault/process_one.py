"""Web servers and ``eventflow run`` as process 1 of a PID namespace, as in a container.

For process 1 the kernel has no default actions: a signal that nobody handles does nothing, not even
one that the process sends to itself. Not in the suite, as not every machine allows such a
namespace; ``.ci/run`` runs it where one can be had, and says so where not::

    python -m pytest tests/fault/process_one.py
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.fault.service.processes import Recorder, Run, until
from tests.fault.web.server import SERVERS, Server

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

OWN_USERS = () if os.geteuid() == 0 else ("--user", "--map-root-user")
NAMESPACE = ("unshare", *OWN_USERS, "--pid", "--fork", "--mount-proc", "--kill-child")
BOUND_S = 5.0
"""Most that a stop may take here: handlers take 1 s."""


def process_one(process: subprocess.Popen[bytes]) -> int:
    """The process in the namespace, by the number it has out here."""
    found: list[str] = []

    def is_there() -> bool:
        task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        found[:] = task.read_text().split()
        return bool(found)

    until(is_there, "unshare has started it")
    (pid,) = found
    numbers = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "NSpid" in line
    )
    assert numbers.split()[-1] == "1", numbers
    return int(pid)


@pytest.mark.parametrize("number", [SIGTERM, SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("name", SERVERS)
def test_a_web_server(name: str, number: signal.Signals, tmp_path: Path) -> None:
    """The handler in flight finishes; the exit code is 0, uvicorn's too."""
    with Server(name, tmp_path, before=NAMESPACE, WORK_S="0", HANDLING_S="1") as server:
        httpx.post(f"{server.url}/publish-then-work/1", timeout=20)
        server.wait_for("began", 1)
        began = time.monotonic()
        os.kill(process_one(server.process), number)
        code = server.wait()
        took = time.monotonic() - began

    assert server.recorded()["handled"] == [1]
    assert code == 0, server.log.read_text()
    assert took <= BOUND_S


SLOW_IMPORT = """
import os, time
from pathlib import Path
from tests.fault.web.app import app, record

record("importing", 0)
while not Path(os.environ["GO"]).exists():
    time.sleep(0.01)
"""


def test_a_signal_while_uvicorn_imports_the_app(tmp_path: Path) -> None:
    """It gets lost, as nobody handles it yet; an ordinary process would end by it. Pinned."""
    tmp_path.joinpath("slow.py").write_text(SLOW_IMPORT)
    go = tmp_path / "go"
    server = Server(
        "uvicorn",
        tmp_path,
        "--app-dir",
        str(tmp_path),
        target="slow:app",
        before=NAMESPACE,
        GO=str(go),
    )

    def signal_and_go() -> None:
        server.wait_for("importing", 1)
        os.kill(process_one(server.process), SIGTERM)
        go.touch()

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(signal_and_go)
        with server:  # which waits until it answers
            sent.result()
            os.kill(process_one(server.process), SIGTERM)
            assert server.wait() == 0


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path) as running:
        yield running


End = tuple[str, tuple[signal.Signals, ...], int, tuple[str, ...], dict[str, Any]]
ENDS: list[End] = [
    ("works", (SIGTERM,), 0, (), {}),
    ("works", (SIGINT,), 0, ("--loop", "uvloop"), {}),
    ("works", (SIGTERM,), 0, ("--workers", "2"), {}),
    ("works", (SIGTERM, SIGTERM), 0, (), {"handler_s": 100}),
    ("swallows", (SIGTERM,), 1, (), {"drain": 0.3, "grace": 0.3}),
    ("swallows", (SIGTERM, SIGTERM, SIGTERM), 143, (), {}),
    ("blocks", (SIGINT, SIGINT, SIGINT), 130, (), {"handler_s": 100}),
    ("blocks", (SIGTERM,), 1, (), {"handler_s": 100, "drain": 0.3, "grace": 0.3}),
]


@pytest.mark.parametrize("case", ENDS, ids=str)
def test_eventflow_run(case: End, tmp_path: Path, recorder: Recorder) -> None:
    """Every exit code is the one it has as an ordinary process."""
    handler, numbers, code, options, more = case
    scenario = {"handler": handler, "handler_s": 1, "events": 1, "delay": 0.2, **more}
    with Run(
        tmp_path, "shop", *options, prefix=NAMESPACE, recorder=recorder, scenario=scenario
    ) as run:
        workers = int(options[1]) if "--workers" in options else 1
        run.until(lambda: len(recorder.all("start")) == workers, "in flight")
        run.until_ready()
        pid = process_one(run.process)
        began = time.monotonic()
        for number in numbers:
            os.kill(pid, number)
            time.sleep(0.1)  # two of one kind sent at once count as one
        assert run.wait() == code, run.stderr
        assert time.monotonic() - began <= BOUND_S
    recorder.end()
    if numbers in [(SIGTERM,), (SIGINT,)] and handler == "works":
        assert sorted(recorder.all("done")) == sorted(recorder.all("ok"))


@pytest.mark.parametrize("how", ["waits", "swallows", "blocked"])
def test_a_signal_during_the_start(how: str, tmp_path: Path, recorder: Recorder) -> None:
    """It ends the start of ``eventflow run`` within 5 s, with 143."""
    with Run(
        tmp_path,
        "half_started",
        prefix=NAMESPACE,
        recorder=recorder,
        scenario={"how": how},
    ) as run:
        run.until(lambda: recorder.all("hangs") != [], "being entered")
        began = time.monotonic()
        os.kill(process_one(run.process), SIGTERM)
        assert run.wait() == 143, run.stderr
        assert time.monotonic() - began <= BOUND_S
