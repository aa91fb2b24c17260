"""The producer of the client library, and the thread that hears what became of its records."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer

from eventflow.lifecycle.waiters import Waiters

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from confluent_kafka import KafkaError

    from eventflow.brokers.kafka._wire import Headers
    from eventflow.messaging import Message

__all__ = ("Call", "ProducerThread")

POLL_S = 0.1
FLUSH_S = 2.0
"""Seconds that a close waits for what is on its way; the rest is refused."""
PURGE_S = 1.0
END_S = FLUSH_S + PURGE_S + 1.0


class Call:
    """One call of ``publish``: what was sent, and what became of it.

    Attributes:
        ended: Done when the fate of every message is known.
        errors: Of those that failed, by their place.
        sent: How many were handed to the library.
    """

    __slots__ = ("_left", "ended", "errors", "messages", "sent", "topic")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, topic: str, messages: Sequence[Message]
    ) -> None:
        self.topic = topic
        self.messages = messages
        self.errors: dict[int, KafkaError] = {}
        self.sent = 0
        self.ended: asyncio.Future[None] = loop.create_future()
        self._left = len(messages)

    def reported(self, at: int, error: KafkaError | None) -> None:
        """What became of one of them is known."""
        if error is not None:
            self.errors[at] = error
        self._left -= 1
        if not self._left and not self.ended.done():
            self.ended.set_result(None)


class ProducerThread:
    """Sends records, and tells the event loop of their end, many at a time.

    Attributes:
        room: Those who wait for the library's queue to have room.
        is_broken: Whether the library has given up for good; another one is needed.
    """

    def __init__(self, config: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.room = Waiters()
        self.is_broken = False
        self._loop = loop
        self._outbox: list[tuple[Call, int, KafkaError | None]] = []
        self._is_ending = False
        self._abandoning: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = loop.create_future()
        self._most = int(config["queue.buffering.max.messages"])
        self._producer = Producer(dict(config))
        self._thread = threading.Thread(target=self._run, name="eventflow:kafka", daemon=True)
        self._thread.start()

    # On the event loop

    def send(
        self,
        call: Call,
        value: bytes,
        key: bytes | None,
        headers: Headers,
    ) -> None:
        """Hand the next record of a call to the library.

        Raises:
            BufferError: It has no room.
            KafkaException: It refuses the record.
        """
        self._producer.produce(
            call.topic,
            value,
            key,
            headers=headers,
            on_delivery=partial(self._heard, call, call.sent),
        )
        call.sent += 1

    def has_room(self) -> bool:
        """Whether the library takes records again."""
        return len(self._producer) < self._most

    def look(self, topic: str | None, within: float) -> Any:
        """The cluster's metadata; blocks. Called in a thread.

        Raises:
            KafkaException: It did not come in time.
        """
        if topic is None:
            return self._producer.list_topics(timeout=within)
        return self._producer.list_topics(topic, timeout=within)

    def end(self) -> asyncio.Future[None]:
        """Wait for what is on its way, refuse the rest, and end.

        Returns:
            What is done then; bounded.
        """
        if not self._is_ending:
            self._is_ending = True
            self._abandoning = self._loop.call_later(END_S, self._ended)
        return self._over

    # In the thread

    def _heard(self, call: Call, at: int, error: KafkaError | None, _: object) -> None:
        self._outbox.append((call, at, error))

    def _run(self) -> None:
        producer = self._producer
        while not self._is_ending:
            producer.poll(POLL_S)
            self._hand_over()
        producer.flush(FLUSH_S)
        producer.purge()
        producer.flush(PURGE_S)
        self._hand_over()
        producer.close()
        self._tell(self._ended)

    def _hand_over(self) -> None:
        if self._outbox:
            heard, self._outbox = self._outbox, []
            self._tell(self._report, heard)

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed: nobody is left to be told
            self._is_ending = True

    # On the event loop again

    def _report(self, heard: list[tuple[Call, int, KafkaError | None]]) -> None:
        for call, at, error in heard:
            call.reported(at, error)
            if error is not None and error.fatal():
                self.is_broken = True
        if self.room:
            self.room.wake_all()

    def _ended(self) -> None:
        if self._abandoning is not None:
            self._abandoning.cancel()
        if not self._over.done():
            self._over.set_result(None)
        self.room.wake_all()
