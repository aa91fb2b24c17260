"""Building and running the Go program in tests/bench/watermill."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import go

__all__ = ("Answer", "Program", "ask", "build")

SOURCE = Path(__file__).parent / "watermill"
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
        answer = ask(*command)
        return Answer(
            answer["seconds"] / answer["messages"],
            f"v1.5.3, {answer['go']}, payload {answer['payload']} B, buffer {BUFFER}, "
            f"GOMAXPROCS {answer['gomaxprocs']}",
        )


def ask(program: Path | str, *arguments: str) -> dict[str, Any]:
    """Run a program, which answers with a line of JSON."""
    said = subprocess.run(
        [program, *arguments], check=True, capture_output=True, timeout=120
    ).stdout
    answer: dict[str, Any] = json.loads(said)
    return answer


def build(source: Path = SOURCE) -> Program | str:
    """The program in a directory, or why there is none."""
    built = go.build(source)
    return built if isinstance(built, str) else Program(built)
