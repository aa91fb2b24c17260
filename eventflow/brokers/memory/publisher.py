"""`MemoryPublisher`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.brokers.memory._store import due_times
from eventflow.errors import (
    MessageTooLargeError,
    PublishError,
    PublishTimeoutError,
)
from eventflow.events import validate_topic

if TYPE_CHECKING:
    from eventflow.brokers.memory._store import Store
    from eventflow.messaging import Features, Message

__all__ = ("MemoryPublisher",)

CHECKPOINT_EVERY = 256


class MemoryPublisher:
    """Stores messages in a `MemoryBroker`; all messages of a call or none.

    Where a group still needs all of a full topic's messages, a publish waits for room, at most
    the broker's ``publish_timeout``.
    """

    def __init__(self, store: Store, features: Features, *, timeout: float) -> None:
        self._store = store
        self._features = features
        self._timeout = timeout
        self._until_checkpoint = CHECKPOINT_EVERY

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._features

    async def publish(self, topic: str, *messages: Message) -> None:
        """Store messages; see `eventflow.messaging.Publisher`."""
        store, count = self._store, len(messages)
        if not store.is_open:
            store.check_open()
        found = store.topics.get(topic) or store.topic(topic)
        due = due_times(messages)
        if count != 1 or store.max_payload_bytes is not None:
            if not count:
                return
            self._check(topic, messages)
        self._until_checkpoint -= 1
        if self._until_checkpoint <= 0:
            self._until_checkpoint = CHECKPOINT_EVERY
            await asyncio.sleep(0)
            store.check_open()
        log = found.log
        if log.end + count > log.room_until and not log.has_room(count):
            await self._wait_for_room(topic, messages)
        log.append(messages, due)
        if found.readers:
            found.readers.wake_all()

    def _check(self, topic: str, messages: tuple[Message, ...]) -> None:
        limit = self._store.max_payload_bytes
        if limit is not None:
            for message in messages:
                if len(message.payload) > limit:
                    raise MessageTooLargeError(
                        f"message {message.id!r} has a payload of {len(message.payload):,} bytes; "
                        f"the broker takes {limit:,}",
                        topic=topic,
                        message_id=message.id,
                        size=len(message.payload),
                        limit=limit,
                        not_stored=tuple(message.id for message in messages),
                    )
        if len(messages) > self._store.capacity:
            raise PublishError(
                f"{len(messages):,} messages at once never fit into a topic of "
                f"{self._store.capacity:,}; publish them in parts",
                topic=topic,
                not_stored=tuple(message.id for message in messages),
            )

    async def _wait_for_room(self, topic: str, messages: tuple[Message, ...]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = self._store.topic(topic)
        while not found.log.has_room(len(messages)):
            if loop.time() >= began + self._timeout:
                raise PublishTimeoutError(
                    f"topic {topic!r} was full for {self._timeout:g} s: a group does not keep up",
                    topic=topic,
                    waited_s=loop.time() - began,
                    not_stored=tuple(message.id for message in messages),
                )
            await found.writers.wait(began + self._timeout)
            self._store.check_open()

    async def prepare(self, topic: str) -> None:
        """Nothing has to exist before; the topic is checked."""
        self._store.check_open()
        if topic not in self._store.topics:
            validate_topic(topic)
