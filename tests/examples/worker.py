"""The example's workers, and the step that makes its topics, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from examples.github_webhooks.topics import topics
from tests.examples.service import DEADLINE_S, ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ("Worker", "make_topics")


class Worker:
    """``eventflow run examples.github_webhooks.worker:service``, for a ``with`` block."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        target: str = "examples.github_webhooks.worker:service",
    ) -> None:
        self._target = target
        directory.mkdir()
        self._stdout, self._stderr = directory / "stdout", directory / "stderr"
        self._ready = directory / "ready"
        self._environment = os.environ | environment

    def __enter__(self) -> Self:
        command = ["-m", "eventflow", "run", self._target]
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", *command, "--ready-file", str(self._ready)],
                cwd=ROOT,
                env=self._environment,
                stdout=stdout,
                stderr=stderr,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self._stderr.read_text()
        return self._ready.exists()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait(DEADLINE_S) == -signal.SIGKILL

    def handled(self, listener: str) -> dict[str, int | None]:
        """The partition of each delivery that a listener has handled, as it was printed."""
        found: dict[str, int | None] = {}
        name = f"worker {self.process.pid}:"
        # A line may be on its way.
        for line in self._stdout.read_text().rpartition("\n")[0].splitlines():
            assert line.startswith(name), line
            who, delivery, _event, _from, _partition, number = line.removeprefix(name).split()
            if who == listener:
                assert delivery not in found, f"handled twice here: {line}"
                found[delivery] = None if number == "-" else int(number)
        return found

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stderr.read_text().splitlines()]


def make_topics(environment: Mapping[str, str]) -> None:
    made = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.github_webhooks.topics"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{len(topics())} topics are there: {', '.join(topics())}\n"
