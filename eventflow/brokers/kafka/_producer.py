"""The producer of the client library, and who hears what became of its records.

The library tells it to whoever asks. That is a thread, which can wait, as long as little is
published. Where much is, the event loop asks by itself, once in each of its turns, and the thread
stands back: it would need the interpreter's lock for each single record, and get it only when the
loop has nothing to do, or after 5 ms.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from eventflow.brokers.kafka._errors import is_distrust
from eventflow.lifecycle.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from confluent_kafka import Producer

    from eventflow.brokers.kafka._wire import Headers
    from eventflow.messaging import Message

    Step = tuple[str, int]
    Extra = tuple[bytes | None, Headers, Step | None]

__all__ = ("Call", "ProducerThread", "Trust")

POLL_S = 0.1
ASIDE_S = 1.0
"""Seconds that the thread leaves the asking to an event loop that does not say it is done."""
FLUSH_S = 2.0
"""Seconds that a close waits for what is on its way; the rest is refused."""
PURGE_S = 1.0
SWEEP_S = 0.5
"""Seconds between two looks for calls whose time is over; the library looks once per second."""
END_S = FLUSH_S + PURGE_S + 1.0


class Call:
    """One call of ``publish``: what was sent, and what became of it.

    Attributes:
        topic: Where it goes.
        messages: What goes there.
        until: Loop time by which it has to end.
        verdicts: What became of those that were heard of, by their places, where not all were
            stored: ``None`` is stored. Any other may be.
        sent: How many were handed to the library.
        has_failed: Whether any was not stored, or may not be.
        ended: Done at its end.
    """

    __slots__ = (
        "_left",
        "_thread",
        "ended",
        "has_failed",
        "messages",
        "sent",
        "topic",
        "until",
        "verdicts",
    )

    def __init__(
        self, thread: ProducerThread, topic: str, messages: Sequence[Message], until: float
    ) -> None:
        self._thread = thread
        self.topic = topic
        self.messages = messages
        self.until = until
        self.verdicts: dict[int, KafkaError | None] = {}
        self.sent = 0
        self._left = len(messages)
        self.has_failed = False
        self.ended: asyncio.Future[None] = asyncio.Future(loop=thread.loop)

    # In the library's thread

    def heard(self, error: KafkaError | None, _: object) -> None:
        """The library's callback, for the only message."""
        if error is not None:
            self.verdicts[0] = error
            self.has_failed = True
        self._thread.outbox.append(self)

    def heard_of(self, at: int, error: KafkaError | None, _: object) -> None:
        """The same for one of several."""
        self.verdicts[at] = error
        if error is not None:
            self.has_failed = True
        self._left -= 1
        if not self._left:
            self._thread.outbox.append(self)

    # On the event loop

    def end(self) -> None:
        """All is known that will be: go on with whoever waits.

        At once: the future alone would have the event loop make a handle for each, and the loop is
        told of many ends together.
        """
        ended = self.ended
        if ended.done():  # whoever waited was cancelled
            return
        waiting: Any = ended._callbacks or ()
        if len(waiting) != 1:  # nobody waits yet, or somebody looks on
            ended.set_result(None)
            return
        waiter, context = waiting[0]
        ended.remove_done_callback(waiter)
        ended.set_result(None)
        context.run(waiter, ended)


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
        loop: The event loop.
        outbox: Calls whose end was heard of, and that do not know it yet.
        room: Those who wait for the library's queue to have room.
        is_sound: Whether the library has not given up for good; else another one is needed.
        trust: What its client has heard.
    """

    def __init__(
        self,
        client: Producer,
        trust: Trust,
        loop: asyncio.AbstractEventLoop,
        *,
        may_block: bool = False,
    ) -> None:
        self.room = Waiters()
        self.is_sound = True
        self.trust = trust
        self.loop = loop
        self.outbox: deque[Call] = deque()
        self._may_block = may_block
        self._has_sent = False
        self._is_asking = False
        self._turn = threading.Event()
        self._is_given_up = False
        self._is_ending = False
        self._abandoning: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = loop.create_future()
        self._calls: dict[Call, None] = {}  # that have not ended, oldest first
        self._sweeper: asyncio.TimerHandle | None = None
        self._producer = client
        self._thread = threading.Thread(target=self._run, name="eventflow:kafka", daemon=True)
        self._thread.start()

    # On the event loop

    def send(self, call: Call, extras: Sequence[Extra]) -> None:
        """Hand the rest of a call's records to the library.

        Args:
            call: The call.
            extras: Of each of its messages the key, the headers, and where it waits, if it does:
                the topic and partition that it goes to instead.

        Raises:
            BufferError: It has no room for the next one.
            KafkaException: It refuses the next one.
            RuntimeError: It is closed.
        """
        produce, messages = self._producer.produce, call.messages
        self._calls[call] = None
        self._has_sent = True
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
        try:
            heard: Callable[[KafkaError | None, object], None] = call.heard
            at = call.sent
            for key, headers, step in extras if not at else extras[at:]:
                value = messages[at].payload
                if len(messages) > 1:
                    heard = partial(call.heard_of, at)
                if step is None:
                    produce(call.topic, value, key, headers=headers, on_delivery=heard)
                else:
                    produce(step[0], value, key, step[1], headers=headers, on_delivery=heard)
                call.sent = at = at + 1
        except Exception as exc:
            if not call.sent:
                del self._calls[call]  # nothing is on its way
            if isinstance(exc, KafkaException) and exc.args[0].code() == KafkaError._FATAL:
                self.is_sound = False
            raise

    def _sweep(self) -> None:
        """End the calls whose time is over."""
        now, late = self.loop.time(), list[Call]()
        while self._calls and (oldest := next(iter(self._calls))).until <= now:
            del self._calls[oldest]
            late.append(oldest)
        # Before anybody goes on, who may begin another one.
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep) if self._calls else None
        self._expire(late)

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
            self._turn.set()
            self._abandoning = self.loop.call_later(END_S, self._ended)
        return self._over

    # In the thread

    def _run(self) -> None:
        producer, patience = self._producer, FLUSH_S
        try:
            while not (self._is_ending or self._is_given_up):
                producer.poll(POLL_S)
                if self.outbox:
                    self._turn.clear()
                    self._tell(self._report)
                    self._turn.wait(ASIDE_S)
        except KafkaException:
            self._is_given_up = True
        if self._is_given_up:  # what it has not told yet comes with the purge
            patience = 0.0
            self._tell(self._give_up)
        try:
            producer.flush(patience)
            producer.purge()
            producer.flush(PURGE_S)
        except KafkaException:
            pass  # the same one, again; whatever was not heard of is unknown
        finally:
            self._tell(self._end, self.outbox)
            producer.close()
            self._tell(self._ended)

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed: nobody is left to be told
            self._is_ending = True

    # On the event loop again

    def _give_up(self) -> None:
        self.is_sound = False

    def _report(self) -> None:
        """End calls, and ask for more as long as there is anything to do; then the thread does."""
        self._has_sent = False
        is_busy = bool(self.outbox)
        self._end(self.outbox)
        if self._may_block or self._is_ending or not (is_busy or self._has_sent):
            self._turn.set()
        elif not self._is_asking:
            self._is_asking = True
            self.loop.call_soon(self._ask)

    def _ask(self) -> None:
        self._is_asking = False
        try:
            self._producer.poll(0)
        except KafkaException:
            self._is_given_up = True  # the thread ends it
            self._turn.set()
        except RuntimeError:
            pass  # closed meanwhile
        else:
            self._report()

    def _end(self, heard: deque[Call]) -> None:
        """End calls, each forgotten before the next begins.

        Whoever is woken may begin another one at once; a collector has fewer to visit.
        """
        calls = self._calls
        try:
            while heard:
                call = heard.popleft()
                calls.pop(call, None)
                if call.has_failed and any(e and e.fatal() for e in call.verdicts.values()):
                    self.is_sound = False
                call.end()
        except BaseException:  # of a task that ends the program: others have their ends yet
            self.loop.call_soon(self._end, heard)
            raise
        if self.room:
            self.room.wake_all()

    def _expire(self, calls: list[Call]) -> None:
        """Of these nothing more will be heard, or not in time."""
        for call in calls:
            call.has_failed = True
        self._end(deque(calls))

    def _ended(self) -> None:
        """It is closed, or was abandoned: what it has not told it will not tell."""
        for timer in (self._abandoning, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._sweeper = None
        if not self._over.done():
            self._over.set_result(None)
        self.room.wake_all()
        calls, self._calls = [*self._calls], {}
        self._expire(calls)
