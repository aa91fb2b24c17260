"""The example service as a process of its own, and deliveries to send to it."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import httpx

from examples.github_webhooks.signature import sign

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
OWN = Path(__file__).with_name("deliveries.jsonl")
REAL = ROOT.parent / "shared/data/github-webhooks.jsonl"
COUNTS = {OWN: 12, REAL: 329}
# What was recorded from GitHub is read where it lies; the rest of the suite does not need it.
SOURCES = [source for source in COUNTS if source.exists()]

SECRET = "it's a secret"
LINE = re.compile(rb'\{"event":"([^"\\]+)","payload":(.+)\}', re.DOTALL)
DEADLINE_S = 30.0


class Delivery(NamedTuple):
    """What GitHub sends: a header that names the event, an id, and the body."""

    event: str
    id: str
    body: bytes


def deliveries(source: Path) -> list[Delivery]:
    """The deliveries of a file; each body is cut out of its line as it stands there."""
    found: list[Delivery] = []
    for line in source.read_bytes().splitlines():
        match = LINE.fullmatch(line)
        assert match, line[:80]
        found.append(Delivery(match[1].decode(), str(uuid.uuid4()), match[2]))
    assert len(found) == COUNTS[source]
    return found


def headers(delivery: Delivery, *, secret: str = SECRET) -> dict[str, str]:
    return {
        "X-GitHub-Event": delivery.event,
        "X-GitHub-Delivery": delivery.id,
        "X-Hub-Signature-256": sign(delivery.body, secret),
        "Content-Type": "application/json",
    }


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll a condition of another process."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)


class Service:
    """``python -m examples.github_webhooks`` with its own database, for a ``with`` block.

    Leaving the block stops it as Ctrl-C or a supervisor would, unless that was done before.
    """

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self._arguments = arguments
        self.database = directory / "feed.db"
        self.printed = ""
        self._stderr = directory / "stderr"
        self._environment = {
            **os.environ,
            "WEBHOOK_SECRET": SECRET,
            "DATABASE": str(self.database),
            "PORT": "0",
            "NOTIFY_SECONDS": "0.01",
            **environment,
        }

    def __enter__(self) -> Self:
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "examples.github_webhooks", *self._arguments],
                cwd=ROOT,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout
        try:
            for line in self.process.stdout:
                self.printed += line
                if line.startswith("Ctrl-C"):
                    break
            found = re.search(r"Look at (http://\S+:(\d+))/ ", self.printed)
            assert found, self.printed + self.stderr
        except BaseException:
            self._end()
            raise
        self.url, self.port = found[1], int(found[2])
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def send(self, delivery: Delivery) -> int:
        response = self.http.post(
            "/webhooks/github", content=delivery.body, headers=headers(delivery)
        )
        return response.status_code

    def stats(self, name: str) -> dict[str, Any]:
        rows = self.http.get("/stats").json()["subscriptions"]
        found: dict[str, Any] = next(row for row in rows if row["name"] == name)
        return found

    def is_listening(self) -> bool:
        try:
            httpx.get(self.url + "/page.css", trust_env=False)
        except httpx.TransportError:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        out, _ = self.process.communicate(timeout=DEADLINE_S)
        self.printed += out
        return self.process.returncode

    def stored(self) -> dict[str, tuple[str, bytes]]:
        """Event name and body by delivery id, from the database file."""
        with closing(sqlite3.connect(self.database)) as connection:
            rows = connection.execute("SELECT delivery, event, body FROM feed").fetchall()
        return {delivery: (event, body) for delivery, event, body in rows}
