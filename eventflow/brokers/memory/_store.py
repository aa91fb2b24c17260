"""The topics of a memory broker, and who waits for what."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from eventflow.brokers.memory._log import Log
from eventflow.errors import BrokerClosedError, InvalidMessageError
from eventflow.events import validate_topic
from eventflow.lifecycle.waiters import Waiters
from eventflow.messaging import Message
from eventflow.messaging.metadata import DELAYED_UNTIL, delayed_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ("Store", "due_times")

_AT_ONCE: Mapping[int, float] = MappingProxyType({})


class Closable(Protocol):
    """A subscription, as far as the store has to know."""

    def close(self) -> None:
        """End it."""
        ...


class Topic:
    """One topic: its log, its readers and the publishers that wait for room."""

    __slots__ = ("log", "readers", "writers")

    def __init__(self, name: str, capacity: int) -> None:
        self.readers = Waiters()
        self.writers = Waiters()
        self.log = Log(name, capacity, on_room=self.writers.wake_all)


class Store:
    """Topics by name; they stay when the broker is left, and are there when it is entered again.

    Attributes:
        is_open: Whether the broker is entered.
        capacity: Most messages of a topic.
        max_payload_bytes: Largest payload; ``None`` for no bound.
        topics: The topics that were named so far.
        subscriptions: Those that are open.
    """

    def __init__(self, name: str, *, capacity: int, max_payload_bytes: int | None) -> None:
        self.is_open = False
        self.capacity = capacity
        self.max_payload_bytes = max_payload_bytes
        self.subscriptions: dict[Closable, None] = {}
        self._name = name
        self.topics: dict[str, Topic] = {}

    def check_open(self) -> None:
        """Raise unless the broker is entered."""
        if not self.is_open:
            raise BrokerClosedError(
                f"broker {self._name!r} is not open: use it inside `async with broker:`"
            )

    def topic(self, name: str) -> Topic:
        """A topic; made when it is first named.

        Raises:
            InvalidTopicError: The name is none.
        """
        found = self.topics.get(name)
        if found is None:
            found = self.topics[validate_topic(name)] = Topic(name, self.capacity)
        return found

    def close(self) -> None:
        """End every subscription, as if it were left, and every publish that waits."""
        self.is_open = False
        while self.subscriptions:
            self.subscriptions.popitem()[0].close()
        for topic in self.topics.values():
            topic.writers.wake_all()


def due_times(messages: Sequence[Message]) -> Mapping[int, float]:
    """Loop times before which some messages are not delivered, by their place."""
    for message in messages:
        if type(message) is not Message and not isinstance(cast("object", message), Message):
            raise InvalidMessageError(
                f"only messages are published, as Message(b'…'), not {type(message).__name__}"
            )
        if DELAYED_UNTIL in message.metadata:
            return _due_times(messages)
    return _AT_ONCE


def _due_times(messages: Sequence[Message]) -> dict[int, float]:
    found: dict[int, float] = {}
    for at, message in enumerate(messages):
        until = delayed_until(message.metadata)
        left = 0.0 if until is None else (until - datetime.now(UTC)).total_seconds()
        if left > 0:
            found[at] = asyncio.get_running_loop().time() + left
    return found
