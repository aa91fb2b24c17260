"""The topics of a memory broker, and who waits for what."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from eventflow.brokers.memory._log import Log
from eventflow.errors import BrokerClosedError
from eventflow.messaging import Message
from eventflow.messaging.metadata import DELAYED_UNTIL, FAILURES, delayed_until, failures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("Store", "Waiters")


class Waiters:
    """Futures of those who wait, in turn.

    Attributes:
        waiting: The futures; empty while nobody waits.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self, until: float | None = None) -> None:
        """Wait to be woken, or until loop time ``until``."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        try:
            if until is None:
                await future
            else:
                async with asyncio.timeout_at(until):
                    await future
        except TimeoutError:
            if future.done() and not future.cancelled():
                self.wake()
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.wake()  # it was our turn: pass it on
            raise
        finally:
            if future in self.waiting:
                self.waiting.remove(future)

    def wake(self, count: int | None = 1) -> None:
        """Wake the first ``count``; ``None``: all."""
        while self.waiting and count != 0:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(None)
                count = None if count is None else count - 1


class Topic:
    """One topic: its log, its readers and the publishers that wait for room."""

    __slots__ = ("log", "readers", "writers")

    def __init__(self, capacity: int) -> None:
        self.readers = Waiters()
        self.writers = Waiters()
        self.log = Log(capacity, on_ack=self._tell_writers)

    def _tell_writers(self) -> None:
        # All of them, and after every ack: the first may want more room than there is now.
        if self.writers.waiting and self.log.room() > 0:
            self.writers.wake(None)


class Store:
    """Topics by name; they stay when the broker is left, and are there when it is entered again.

    Attributes:
        is_open: Whether the broker is entered.
        capacity: Most messages of a topic.
        max_payload_bytes: Largest payload; ``None`` for no bound.
        subscriptions: How to end each subscription that is open.
    """

    def __init__(self, name: str, *, capacity: int, max_payload_bytes: int | None) -> None:
        self.is_open = False
        self.capacity = capacity
        self.max_payload_bytes = max_payload_bytes
        self._name = name
        self._topics: dict[str, Topic] = {}
        self.subscriptions: dict[object, Callable[[], None]] = {}

    def check_open(self) -> None:
        """Raise unless the broker is entered."""
        if not self.is_open:
            raise BrokerClosedError(
                f"broker {self._name!r} is not open: use it inside `async with broker:`"
            )

    def topic(self, name: str) -> Topic:
        """A topic; made when it is first named."""
        found = self._topics.get(name)
        if found is None:
            found = self._topics[name] = Topic(self.capacity)
        return found

    def close(self) -> None:
        """End every subscription, as if it were left, and every publish that waits."""
        self.is_open = False
        while self.subscriptions:
            self.subscriptions.popitem()[1]()
        for topic in self._topics.values():
            topic.writers.wake(None)

    def entries(self, messages: Sequence[Message]) -> list[tuple[Message, float, int]]:
        """Messages as they are stored: copies, with the time they are due in loop time."""
        stored: list[tuple[Message, float, int]] = []
        for message in messages:
            metadata = message.metadata.copy()
            due, recorded = 0.0, 0
            if DELAYED_UNTIL in metadata:
                until = delayed_until(metadata)
                if until is not None:
                    left = (until - datetime.now(UTC)).total_seconds()
                    due = asyncio.get_running_loop().time() + left if left > 0 else 0.0
            if FAILURES in metadata:
                recorded = failures(metadata)
            copy = Message.received(
                message.id, message.payload, metadata, key=message.key, headers=message.headers
            )
            stored.append((copy, due, recorded))
        return stored
