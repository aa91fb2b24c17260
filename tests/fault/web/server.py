"""A web server as a process of its own, and what its app wrote down."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 25.0
SERVERS = ("uvicorn", "hypercorn", "granian")


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll a condition of another process."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(server: str, target: str, port: int) -> list[str]:
    match server:
        case "uvicorn":
            options = ["--host", "127.0.0.1", "--port", str(port)]
        case "hypercorn":
            options = ["--bind", f"127.0.0.1:{port}", "--graceful-timeout", "10"]
        case "eventflow":
            return [sys.executable, "-m", "eventflow", "run", target]
        case "python":
            return [sys.executable, "-m", target]
        case _:
            options = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", server, *options, target]


class Server:
    """A server that runs an app, for a ``with`` block; ended by its process id."""

    def __init__(
        self,
        server: str,
        directory: Path,
        *arguments: str,
        target: str = "tests.fault.web.app:app",
        before: tuple[str, ...] = (),
        **environment: str,
    ) -> None:
        self.record = directory / "record.txt"
        self.log = directory / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [*before, *command(server, target, self.port), *arguments]
        self._environment = os.environ | {"RECORD": str(self.record), "PORT": str(self.port)}
        self._environment |= environment
        self._environment.setdefault("PYTHONPATH", str(ROOT))

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )
        try:
            until(self.is_ready, "the server answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def is_not_ready(self) -> bool:
        return not self.is_ready(timeout_s=1)

    def is_ready(self, timeout_s: float = 5) -> bool:
        """Whether a probe would say so; the process has to run."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/ready", timeout=timeout_s).status_code == 200
        except httpx.TransportError:
            return False

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(DEADLINE_S)

    def recorded(self) -> dict[str, list[int]]:
        """The numbers that were written down, by what happened to them."""
        found: dict[str, list[int]] = defaultdict(list)
        for what, number, *_ in self.lines():
            found[what].append(int(number))
        return {what: sorted(numbers) for what, numbers in found.items()}

    def lines(self) -> list[list[str]]:
        if not self.record.exists():
            return []
        return [line.split() for line in self.record.read_text().splitlines()]

    def wait_for(self, what: str, count: int) -> None:
        until(lambda: len(self.recorded().get(what, [])) >= count, f"{count} of {what}")
