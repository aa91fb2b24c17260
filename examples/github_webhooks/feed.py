"""The activity feed, in SQLite: one row a delivery, its body byte for byte."""

from __future__ import annotations

import sqlite3
import time
from contextlib import asynccontextmanager, closing
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from eventflow.errors import EventDecodeError
from examples.github_webhooks.events import Activity, WebhookReceived, activity_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

TRIES = 100

SCHEMA = """
CREATE TABLE IF NOT EXISTS feed (
    number INTEGER PRIMARY KEY,
    delivery TEXT NOT NULL UNIQUE,
    event TEXT NOT NULL,
    repository TEXT NOT NULL,
    summary TEXT NOT NULL,
    received_at TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT
"""


@dataclass(frozen=True)
class FeedEntry:
    """What people see of a delivery."""

    delivery: str
    event: str
    repository: str
    summary: str
    received_at: str


def entry_of(received: WebhookReceived) -> FeedEntry:
    """Say what a delivery is about, as far as this service understands it."""
    try:
        # Of events that nobody modelled, the base class reads who and where.
        activity = activity_of(received) or received.body.decode(Activity)
    except EventDecodeError:
        activity = Activity()  # Its row has the bytes all the same.
    return FeedEntry(
        received.delivery,
        received.event,
        activity.where,
        activity.describe(),
        received.occurred_at.isoformat(timespec="milliseconds"),
    )


class Feed:
    """A connection to the database."""

    def __init__(self, path: Path) -> None:
        # Handlers that are plain functions run in threads, one event at a time but not always
        # in the same thread; SQLite's own check would refuse the second one.
        self._connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
        self._write_ahead()  # Reading never waits for writing.
        self._connection.execute(SCHEMA)

    def _write_ahead(self) -> None:
        """Turn it on. Of processes that do so at once, SQLite refuses all but one, unasked."""
        for left in reversed(range(TRIES)):
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if not left:
                    raise
                time.sleep(0.01)
            else:
                return

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def add(self, entry: FeedEntry, body: bytes) -> None:
        """Store a delivery. One that is there already, as GitHub redelivered it, stays."""
        with self._connection:
            self._connection.execute(
                "INSERT INTO feed (delivery, event, repository, summary, received_at, body)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (delivery) DO NOTHING",
                (*astuple(entry), body),
            )

    def bodies(self) -> dict[str, bytes]:
        """Return the body of each delivery, by its id."""
        return dict(self._connection.execute("SELECT delivery, body FROM feed"))

    def latest(self, limit: int = 50) -> list[FeedEntry]:
        """Return the newest entries, newest first."""
        rows = self._connection.execute(
            "SELECT delivery, event, repository, summary, received_at"
            " FROM feed ORDER BY number DESC LIMIT ?",
            (limit,),
        )
        return [FeedEntry(*row) for row in rows]


@asynccontextmanager
async def open_feed(path: Path) -> AsyncGenerator[Feed]:
    """Open the database for as long as a subscription runs."""
    with closing(Feed(path)) as feed:
        yield feed
