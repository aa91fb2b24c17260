"""Starts services as processes of their own, and the recorder beside them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 30.0
TARGET = "tests.fault.service.target"
AT_A_TIME = 8
"""Most processes that a test runs at once: they wait more than they work."""

TRACER_S = 30 if threading.gettrace() else 0
"""How much longer a process takes to leave while coverage writes down what it has seen."""

T = TypeVar("T")


def until(condition: Callable[[], bool], what: str, *, within: float = DEADLINE_S) -> None:
    """Poll a condition of another process."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.01)


def together(cases: Sequence[T], run: Callable[[T, Path], None], directory: Path) -> None:
    """Run a test for each case, several at a time, each in a directory of its own."""

    def one(number: int) -> Exception | None:
        place = directory / str(number)
        place.mkdir()
        try:
            run(cases[number], place)
        except Exception as exc:  # noqa: BLE001 - raised below, with all others
            exc.add_note(f"case {number}: {cases[number]!r}")
            return exc
        return None

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        failures = [exc for exc in pool.map(one, range(len(cases))) if exc is not None]
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(cases)} cases failed", failures)


class Recorder:
    """The recorder's process, for a ``with`` block."""

    def __init__(self, directory: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="ef-")  # a socket's path is short
        self.address = str(Path(self._scratch.name) / "s")
        self.file = directory / "recorded"
        self._is_running = False

    def __enter__(self) -> Self:
        self.file.touch()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.service.recorder", self.address, str(self.file)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self._is_running = True
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._scratch.cleanup()

    def end(self) -> None:
        """Everything that was sent is in the file now."""
        if self._is_running:
            self._is_running = False
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outbox:
                outbox.sendto(b"end", self.address)
            assert self._process.wait(DEADLINE_S) == 0
            assert self._process.stdout is not None
            self._process.stdout.close()

    def lines(self) -> list[tuple[str, str]]:
        """What is in the file, in order."""
        text = self.file.read_text()
        whole = text[: text.rfind("\n") + 1]
        return [
            (kind, what) for kind, _, what in (line.partition(" ") for line in whole.splitlines())
        ]

    def all(self, kind: str) -> list[str]:
        return [what for each, what in self.lines() if each == kind]

    def counts(self, prefix: str = "") -> Counter[str]:
        return Counter(kind for kind, what in self.lines() if what.startswith(prefix))


class Run:
    """``eventflow run``, for a ``with`` block, at whose end it is gone."""

    def __init__(
        self,
        directory: Path,
        target: str,
        *options: str,
        recorder: Recorder | None = None,
        cwd: Path = ROOT,
        name: str = "run",
        before: str = "",
        prefix: Sequence[str] = (),
        ready_file: bool = True,
        scenario: Mapping[str, Any] | None = None,
    ) -> None:
        self._stderr = directory / f"{name}.stderr"
        self._ready = directory / f"{name}.ready"
        if ready_file and "--ready-file" not in options:
            options = (*options, "--ready-file", str(self._ready))
        target = target if ":" in target else f"{TARGET}:{target}"
        run = [sys.executable, "-W", "error", "-m", "eventflow", "run", target, *options]
        self._command = (
            ["sh", "-c", f'{before}; exec "$@"', "sh", *run] if before else [*prefix, *run]
        )
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "SCENARIO": json.dumps(dict(scenario or {})),
            "RECORDER": "" if recorder is None else recorder.address,
        }
        self._cwd = cwd

    def __enter__(self) -> Self:
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._environment,
                stderr=stderr,
            )
        self.started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def until_ready(self) -> None:
        """Until everything is entered: a signal before would only end the start."""
        until(self._ready.exists, "entered as a whole")

    def send(self, *numbers: signal.Signals, gap: float = 0.1) -> float:
        """Send signals, one after the other; when the last one was sent."""
        sent = time.monotonic()
        for i, number in enumerate(numbers):
            if i:
                time.sleep(gap)  # two of one kind sent at once count as one
            sent = time.monotonic()
            self.process.send_signal(number)
        return sent

    def wait(self, within: float = DEADLINE_S) -> int:
        return self.process.wait(within)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll a condition that this process brings about; its early end fails."""
        until(lambda: condition() or self.process.poll() is not None, what)
        assert condition(), f"ended before it was {what}: {self.stderr[-3000:]}"

    def until_said(self, text: str) -> None:
        self.until(lambda: text in self.stderr, text)

    def log(self) -> list[dict[str, Any]]:
        """The lines of its log, which is JSON where nobody asks for another form."""
        lines = (line for line in self.stderr.splitlines() if line.startswith("{"))
        return [json.loads(line) for line in lines]

    def ledger(self) -> Counter[str]:
        """The counts in the line that a service writes at its end, in whichever format."""
        (line,) = (line for line in self.stderr.splitlines() if "eventflow.service_stopped" in line)
        found = Counter[str]()
        for name, number in re.findall(r"""['"](\w+)['"]: ?(\d+)""", line):
            found[name] += int(number)
        return found


def exists(pid: int) -> bool:
    """Whether it runs; one that has ended and that nobody has asked about does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def all_gone(pids: Iterable[int]) -> bool:
    return not any(exists(pid) for pid in pids)
