"""The producer of the client library, and the thread that hears what became of its records."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from eventflow.brokers.kafka._errors import is_distrust
from eventflow.lifecycle.waiters import Waiters

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    from confluent_kafka import Producer

    from eventflow.brokers.kafka._wire import Headers
    from eventflow.messaging import Message

__all__ = ("UNKNOWN", "Call", "ProducerThread", "Trust")

POLL_S = 0.1
FLUSH_S = 2.0
"""Seconds that a close waits for what is on its way; the rest is refused."""
PURGE_S = 1.0
SWEEP_S = 0.5
"""Seconds between two looks for calls whose time is over; the library looks once per second."""
UNKNOWN = object()
END_S = FLUSH_S + PURGE_S + 1.0


class Call:
    """One call of ``publish``: what was sent, and what became of it.

    Attributes:
        until: Loop time by which it has to end.
        ended: Done when the fate of every message is known, or time is over.
        verdicts: What became of each: ``None`` is stored, `UNKNOWN` may be.
        sent: How many were handed to the library.
        has_failed: Whether any was not stored, or may not be.
    """

    __slots__ = ("_left", "ended", "has_failed", "messages", "sent", "topic", "until", "verdicts")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        topic: str,
        messages: Sequence[Message],
        *,
        until: float,
    ) -> None:
        self.topic = topic
        self.messages = messages
        self.until = until
        self.verdicts: list[KafkaError | object | None] = [UNKNOWN] * len(messages)
        self.sent = 0
        self.has_failed = False
        self.ended: asyncio.Future[None] = loop.create_future()
        self._left = len(messages)

    def reported(self, at: int, error: KafkaError | None) -> bool:
        """What became of one of them is known. Whether that was the last."""
        self.verdicts[at] = error
        if error is not None:
            self.has_failed = True
        self._left -= 1
        if self._left:
            return False
        if not self.ended.done():
            self.ended.set_result(None)
        return True

    def expire(self) -> None:
        """Nothing more will be heard, or not in time."""
        self.has_failed = True
        if not self.ended.done():
            self.ended.set_result(None)


class Trust:
    """Hears from the client library which brokers and we do not trust each other.

    Args:
        hosts: Those that were named.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = tuple(hosts)
        self._refused: dict[str, KafkaError] = {}

    def heard(self, error: KafkaError) -> None:
        """The library's callback for errors that are not of one call."""
        if is_distrust(error):
            for host in self._hosts:
                if f"//{host}/" in error.str():
                    self._refused[host] = error

    def forget(self) -> None:
        """One of them has answered."""
        self._refused.clear()

    @property
    def refusal(self) -> KafkaError | None:
        """Why, once all of them have refused: then trying again is of no use."""
        if len(self._refused) < len(set(self._hosts)):
            return None
        return next(iter(self._refused.values()))


class ProducerThread:
    """Sends records, and tells the event loop of their end, many at a time.

    Attributes:
        room: Those who wait for the library's queue to have room.
        is_broken: Whether the library has given up for good; another one is needed.
        trust: What its client has heard.
    """

    def __init__(self, client: Producer, trust: Trust, loop: asyncio.AbstractEventLoop) -> None:
        self.room = Waiters()
        self.is_broken = False
        self.trust = trust
        self._loop = loop
        self._outbox: list[tuple[Call, int, KafkaError | None]] = []
        self._is_ending = False
        self._abandoning: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = loop.create_future()
        self._calls: dict[Call, None] = {}  # that have not ended, oldest first
        self._sweeper: asyncio.TimerHandle | None = None
        self._producer = client
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
        heard = partial(self._heard, call, call.sent)
        try:
            self._producer.produce(call.topic, value, key, headers=headers, on_delivery=heard)
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError._FATAL:
                self.is_broken = True
            raise
        call.sent += 1
        if call.sent == 1:
            self._calls[call] = None
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """End the calls whose time is over."""
        self._sweeper = None
        now = self._loop.time()
        while self._calls and (oldest := next(iter(self._calls))).until <= now:
            del self._calls[oldest]
            oldest.expire()
        if self._calls:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def look(self, topic: str | None, within: float) -> Any:
        """The cluster's metadata; blocks. Called in a thread.

        Raises:
            KafkaException: It did not come in time.
        """
        try:
            if topic is None:
                found = self._producer.list_topics(timeout=within)
            else:
                found = self._producer.list_topics(topic, timeout=within)
            self.trust.forget()
            return found
        except KafkaException:
            if self.trust.refusal is not None:  # they would say the same each time
                raise KafkaException(self.trust.refusal) from None
            raise

    def end(self) -> asyncio.Future[None]:
        """Wait for what is on its way, refuse the rest, and end.

        Returns:
            What is done then; bounded.
        """
        if not (self._is_ending or self._over.done()):
            self._is_ending = True
            self._abandoning = self._loop.call_later(END_S, self._ended)
        return self._over

    # In the thread

    def _heard(self, call: Call, at: int, error: KafkaError | None, _: object) -> None:
        self._outbox.append((call, at, error))

    def _run(self) -> None:
        producer, patience = self._producer, FLUSH_S
        try:
            while not self._is_ending:
                producer.poll(POLL_S)
                self._hand_over()
        except KafkaException:
            # It has given up for good: what it has not told yet comes with the purge.
            patience = 0.0
            self._tell(self._give_up)
        try:
            producer.flush(patience)
            producer.purge()
            producer.flush(PURGE_S)
        except KafkaException:
            pass  # the same one, again; whatever was not heard of is unknown
        finally:
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

    def _give_up(self) -> None:
        self.is_broken = True

    def _report(self, heard: list[tuple[Call, int, KafkaError | None]]) -> None:
        for call, at, error in heard:
            if call.reported(at, error):
                self._calls.pop(call, None)
            if error is not None and error.fatal():
                self.is_broken = True
        if self.room:
            self.room.wake_all()

    def _ended(self) -> None:
        """It is closed, or was abandoned: what it has not told it will not tell."""
        for timer in (self._abandoning, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._sweeper = None
        calls, self._calls = self._calls, {}
        for call in calls:
            call.expire()
        if not self._over.done():
            self._over.set_result(None)
        self.room.wake_all()
