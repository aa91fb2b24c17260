"""A server as a child process: on free ports, ended with whoever started it, its output kept."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ("Server", "ServerError", "free_port")

TAIL = 3_000
"""How much of its output is shown when a server does not start, in characters."""


class ServerError(Exception):
    """A server did not start, or did not end."""


def free_port() -> int:
    """A port that nothing listens on; somebody may take it before its user does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server. What it writes goes to a file in its directory.

    Attributes:
        port: Where it takes connections.
        log: The file.
    """

    def __init__(self, command: Sequence[str], *, directory: Path, port: int) -> None:
        self.port = port
        self.log = directory / "output.log"
        # The server ends with the thread that starts it, however that ends.
        self._command = ["setpriv", "--pdeathsig", "KILL", *command]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, within: float, env: Mapping[str, str] | None = None) -> None:
        """Start it; returns when it takes connections.

        Raises:
            ServerError: It ended, or does not answer after ``within`` seconds.
        """
        self.launch(env=env)
        deadline = time.monotonic() + within
        while not self.answers():
            self.check(deadline)
            time.sleep(0.02)

    async def start_again(self, *, within: float) -> None:
        """Start it while an event loop runs. In the main thread, as `start`."""
        self.launch()
        deadline = time.monotonic() + within
        while not await asyncio.to_thread(self.answers):
            self.check(deadline)
            await asyncio.sleep(0.02)

    def launch(self, env: Mapping[str, str] | None = None) -> None:
        """Start it, without waiting."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=None if env is None else os.environ | env,
            )

    def check(self, deadline: float) -> None:
        """Raise if it has ended, or if it is later than ``deadline``; it is gone, then."""
        code = None if self._process is None else self._process.poll()
        if code is not None or time.monotonic() > deadline:
            self.kill()
            why = f"ended with {code}" if code is not None else "does not take connections"
            raise ServerError(f"{self._command[3]} {why}:\n{self.tail()}")

    def answers(self) -> bool:
        """Whether it takes connections."""
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-TAIL:] if self.log.exists() else ""

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self, *, within: float = 20) -> None:
        """End it with SIGTERM.

        Raises:
            ServerError: It has not ended after ``within`` seconds; it was killed, then.
        """
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"{self._command[3]} took longer than {within} s to end") from None
        self._process = None

    def freeze(self) -> None:
        """Stop it in its tracks: it keeps its connections, and answers nothing.

        Returns when all of its threads stand still.
        """
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
