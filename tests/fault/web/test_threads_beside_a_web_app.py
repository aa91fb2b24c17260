"""Stuck sync handlers beside a web application that needs threads of its own: a real server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]
LONG = 30.0
STUCK = 40

APP = """
import threading
from contextlib import asynccontextmanager

from fastapi import FastAPI
from eventflow import Event, EventBus

class Ping(Event, topic="test.ping"):
    n: int = 0

never = threading.Event()
stuck = threading.Semaphore(0)

def hangs(event: Ping) -> None:
    stuck.release()
    never.wait()

bus = EventBus(name="shop", drain_timeout=0.3, cancel_grace=0.3)
bus.subscribe(Ping, hangs, concurrency=40, timeout=0.2)

@asynccontextmanager
async def lifespan(app: FastAPI):
    async with bus:
        yield
    print(*bus.ledger.abandoned, sep="\\n", flush=True)
    print("adds up" if bus.ledger.adds_up else "DOES NOT ADD UP", flush=True)

app = FastAPI(lifespan=lifespan)

@app.post("/ping")
async def ping() -> None:
    await bus.publish(Ping())

@app.get("/wait-stuck")
def wait_stuck(count: int) -> int:
    return sum(stuck.acquire(timeout=20) for _ in range(count))

@app.get("/thread")
def thread() -> str:
    return threading.current_thread().name

@app.post("/from-thread")
def from_thread() -> None:
    bus.publish_from_thread(Ping(), timeout=10)
"""


@pytest.mark.fault("BUS-19")
@pytest.mark.promise("5", "6")
@pytest.mark.option("max_threads")
@pytest.mark.slow
def test_forty_stuck_handlers_leave_the_application_its_threads(tmp_path: Path) -> None:
    """Its sync endpoints answer, forty at once; SIGTERM ends it, and the stuck ones are named.

    Forty is what the bus has and what anyio's own pool has: if they shared one, nothing would
    answer.
    """
    tmp_path.joinpath("app.py").write_text(APP, encoding="utf-8")
    stderr_path, stdout_path = tmp_path / "stderr", tmp_path / "stdout"
    with stderr_path.open("wb") as stderr, stdout_path.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=stdout,
            stderr=stderr,
        )
    try:
        url = _address(process, stderr_path)
        with (
            httpx.Client(base_url=url, trust_env=False, timeout=LONG) as http,
            ThreadPoolExecutor(STUCK) as clients,
        ):
            for _ in range(STUCK):
                assert http.post("/ping").status_code == 200
            assert http.get("/wait-stuck", params={"count": STUCK}).json() == STUCK

            began = time.monotonic()

            def ask(_: int) -> str:
                return str(http.get("/thread").json())

            names = list(clients.map(ask, range(5 * STUCK)))
            assert time.monotonic() - began < 10
            assert len(names) == 5 * STUCK
            assert not [name for name in names if name.startswith("eventflow")]
            assert http.post("/from-thread").status_code == 200

        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(LONG)
        # 0.3 s to drain, 0.3 s of grace, 1 s beyond; the rest is the server's and Python's own.
        assert time.monotonic() - began < 0.3 + 0.3 + 1 + 5
        assert code in (0, -signal.SIGTERM)  # uvicorn raises the signal again when it is done
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    printed = stdout_path.read_text(encoding="utf-8")
    threads = [line for line in printed.splitlines() if line.startswith("thread ")]
    assert len(threads) == STUCK
    assert all(re.fullmatch(r"thread eventflow:shop-\d+ in hangs", line) for line in threads)
    assert "adds up" in printed.splitlines()
    [line] = [line for line in _lines(stderr_path) if "eventflow.threads_abandoned" in line]
    assert len(re.findall(r"eventflow:shop-\d+ in hangs", line)) == STUCK


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _address(process: subprocess.Popen[bytes], stderr: Path) -> str:
    """Where the server says that it listens."""
    deadline = time.monotonic() + LONG
    while not (found := re.search(r"running on (http://\S+)", stderr.read_text(encoding="utf-8"))):
        assert process.poll() is None, stderr.read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found[1]
