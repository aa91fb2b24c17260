"""Who reacts to what. Nothing starts here: a bus includes the collection, and then it does."""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING

import anyio

from eventflow import EventPublisher, FailurePolicy, Listeners, Overflow, Retry
from examples.github_webhooks.events import Activity, WebhookReceived, activity_of
from examples.github_webhooks.feed import Feed, entry_of, open_feed

if TYPE_CHECKING:
    from examples.github_webhooks.settings import Settings

WORK = ("store", "decode")
"""The listeners that workers run, where there are some; the others are for the page's process."""


class Board:
    """What the listeners keep in memory, for the page. Gone when the process ends."""

    def __init__(self) -> None:
        self.repositories: dict[str, Counter[str]] = {}
        self.notified: deque[str] = deque(maxlen=5)


def listeners_for(publisher: EventPublisher, settings: Settings, board: Board) -> Listeners:
    """Put together the listeners of the service with what they need."""
    listeners = Listeners()

    # A database that is locked or slow is worth another try; anything else is a mistake of ours.
    patient = FailurePolicy(retry=Retry(attempts=5, on=(sqlite3.OperationalError,)))

    @listeners.on(
        WebhookReceived, resources=partial(open_feed, settings.database), on_failure=patient
    )
    def store(received: WebhookReceived, feed: Feed) -> None:
        """Keep every delivery. A plain function: SQLite blocks, so it runs in a thread."""
        feed.add(entry_of(received), bytes(received.body))

    @listeners.on(WebhookReceived)
    async def decode(received: WebhookReceived) -> None:
        """Announce what a delivery means. One that can't be read counts as failed, here only."""
        activity = activity_of(received)
        if activity is not None:
            await publisher.publish(activity)

    @listeners.on(Activity)
    async def count(activity: Activity) -> None:
        """Count per repository. On the event loop, so no lock is needed."""
        counter = board.repositories.setdefault(activity.where, Counter())
        counter[activity.topic or ""] += 1

    # A chat API takes its time. When there is more news than it can take, old news goes first,
    # counted and logged; and nobody else waits for it.
    @listeners.on("github.*", overflow=Overflow.DROP_OLDEST, capacity=10)
    async def notify(activity: Activity) -> None:
        """Tell the team's chat; here it only takes as long as that would."""
        await anyio.sleep(settings.notify_s)
        board.notified.appendleft(activity.describe())

    return listeners
