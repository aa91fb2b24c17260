"""The producer of the client library, and how the event loop hears what became of its records.

The library tells it to whoever asks. The event loop does so by itself: a thread that waited for it
would need the interpreter's lock for each single record, and beside a loop that is never idle it
may not get it for seconds (a loop that turns within 5 ms starts the wait for it anew each time).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from contextvars import Context
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from eventflow.lifecycle.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from confluent_kafka import Producer

    from eventflow.brokers.kafka._trust import Trust
    from eventflow.brokers.kafka._wire import Headers
    from eventflow.messaging import Message

    Step = tuple[str, int]
    Extra = tuple[bytes | None, Headers, Step | None]

__all__ = ("Call", "Sender")

TURNS = 64
"""Turns of the loop after any news in which the library is asked each time: a millisecond of one
that does nothing else."""
ASK_S = 0.001
"""Seconds until it is asked again after that.

Later where there has been no news for a while: whatever comes is heard a tenth later at most."""
LONGEST_ASK_S = 0.05
IDLE_S = 0.25
"""The same where nothing is on its way; also what is wrong with a connection is heard so."""
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
        "_sender",
        "ended",
        "has_failed",
        "messages",
        "sent",
        "topic",
        "until",
        "verdicts",
    )

    def __init__(
        self, sender: Sender, topic: str, messages: Sequence[Message], until: float
    ) -> None:
        self._sender = sender
        self.topic = topic
        self.messages = messages
        self.until = until
        self.verdicts: dict[int, KafkaError | None] = {}
        self.sent = 0
        self._left = len(messages)
        self.has_failed = False
        self.ended: asyncio.Future[None] = asyncio.Future(loop=sender.loop)

    # Where the library is asked

    def heard(self, error: KafkaError | None, _: object) -> None:
        """The library's callback, for the only message."""
        if error is not None:
            self.verdicts[0] = error
            self.has_failed = True
        self._sender.outbox.append(self)

    def heard_of(self, at: int, error: KafkaError | None, _: object) -> None:
        """The same for one of several."""
        self.verdicts[at] = error
        if error is not None:
            self.has_failed = True
        self._left -= 1
        if not self._left:
            self._sender.outbox.append(self)

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


class Sender:
    """Sends records, and ends the calls of whoever waits for them, many at a time.

    Args:
        client: The library's.
        trust: What it has heard.
        loop: The event loop.
        may_block: Whether asking the library may call what blocks, as a function for tokens may: a
            thread does it then.

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
        self._is_ending = self._is_purged = self._is_closing = False
        self._until = inf  # what is on its way is waited for
        self._abandoning: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = loop.create_future()
        self._calls: dict[Call, None] = {}  # that have not ended, oldest first
        self._sweeper: asyncio.TimerHandle | None = None
        self._producer = client
        self._context = Context()
        self._news = loop.time()  # when there was any, or something was sent after a while
        self._turns = 0  # in which the library is asked each time
        self._wait = 0.0  # until the library is asked again
        self._asking: asyncio.Handle | None = None
        if may_block:
            self._start(self._poll)
        else:
            self._ask_in(IDLE_S)

    def _start(self, function: Callable[[], None]) -> None:
        threading.Thread(target=function, name="eventflow:kafka", daemon=True).start()

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
        if self._is_purged:  # what came now would be left behind
            raise RuntimeError("it is being closed")
        produce, messages = self._producer.produce, call.messages
        self._calls[call] = None
        if self._sweeper is None:
            self._sweep_in(SWEEP_S)
        before = call.sent
        try:
            heard: Callable[[KafkaError | None, object], None] = call.heard
            at = before
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
        finally:
            if self._wait > ASK_S and call.sent > before:
                self._news = self.loop.time()  # as it was idle: what comes now comes soon
                self._ask_in(ASK_S)

    def _sweep_in(self, seconds: float) -> None:
        self._sweeper = self.loop.call_later(seconds, self._sweep, context=self._context)

    def late(self, call: Call) -> None:
        """End a call whose time is over, and of which nothing was heard."""
        self._hear()
        if call in self._calls:
            del self._calls[call]
            self._expire([call])

    def _sweep(self) -> None:
        """End the calls whose time is over, and of which nothing was heard."""
        try:
            self._hear()
        except BaseException:
            self._sweep_in(0)
            raise
        now, late = self.loop.time(), list[Call]()
        while self._calls and (oldest := next(iter(self._calls))).until <= now:
            del self._calls[oldest]
            late.append(oldest)
        # Before anybody goes on, who may begin another one.
        self._sweeper = None
        if self._calls:
            self._sweep_in(SWEEP_S)
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
            self._until = min(self._until, self.loop.time() + FLUSH_S)
            self._abandoning = self.loop.call_later(END_S, self._ended)
            if not self._may_block:
                self._ask_in(0)
        return self._over

    def _ask_in(self, seconds: float) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._wait = seconds
        # Not in the context of whoever has sent something: that would live as long as this goes on.
        if seconds:
            self._asking = self.loop.call_later(seconds, self._ask, context=self._context)
        else:
            self._asking = self.loop.call_soon(self._ask, context=self._context)

    def _ask(self) -> None:
        """Ask the library, and again as long as it may have anything to say."""
        if self._is_closing:
            return
        try:
            has_heard, now = self._hear(), self.loop.time()
        except BaseException:
            self._ask_in(0)
            raise
        if has_heard:
            self._news, self._turns = now, TURNS
        if self._has_said_all(now):
            self._close_soon()
        elif self._calls and self._turns:
            self._turns -= 1
            self._ask_in(0)
        elif self._calls or self._until < inf:
            self._ask_in(min(max(ASK_S, (now - self._news) / 10), LONGEST_ASK_S))
        else:
            self._news = now
            self._ask_in(IDLE_S)

    def _hear(self) -> bool:
        """End the calls of which the library says something. Whether it did."""
        if self._may_block or self._is_closing:
            return False
        try:
            self._producer.poll(0)
        except KafkaException:  # it has given up for good
            self.is_sound = False
            self._until = 0.0
        return self._end(self.outbox)

    def _has_said_all(self, now: float) -> bool:
        """Whether it is the end; what is not stored by then is taken back, and heard of."""
        if self._until == inf:
            return False
        if not len(self._producer):
            return True
        if now < self._until:
            return False
        if not self._is_purged:
            self._is_purged = True
            self._until = now + PURGE_S
            self._producer.purge()
            return False
        return True

    def _close_soon(self) -> None:
        """Close the client in a thread: that may wait for a broker that is away."""
        if not (self._is_closing or self._may_block):
            self._is_closing = True
            self._start(self._close)

    # In a thread

    def _poll(self) -> None:
        producer, patience = self._producer, FLUSH_S
        try:
            while not self._is_ending:
                producer.poll(IDLE_S)
                if self.outbox:
                    self._tell(self._end, self.outbox)
        except KafkaException:  # what it has not told yet comes with the purge
            self.is_sound, patience = False, 0.0
        with suppress(KafkaException):
            producer.flush(patience)
        try:
            producer.purge()
            producer.flush(PURGE_S)
        except KafkaException:
            pass  # the same one, again; whatever was not heard of is unknown
        finally:
            self._tell(self._end, self.outbox)
            self._close()

    def _close(self) -> None:
        try:
            self._producer.close()
        finally:
            self._tell(self._ended)

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed: nobody is left to be told
            self._is_ending = True

    # On the event loop again

    def _end(self, heard: deque[Call]) -> bool:
        """End calls, each forgotten before the next begins. Whether there were any.

        Whoever is woken may begin another one at once; a collector has fewer to visit.
        """
        calls, has_some = self._calls, bool(heard)
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
        if has_some and self.room:
            self.room.wake_all()
        return has_some

    def _expire(self, calls: list[Call]) -> None:
        """Of these nothing more will be heard, or not in time."""
        for call in calls:
            call.has_failed = True
        self._end(deque(calls))

    def _ended(self) -> None:
        """It is closed, or was abandoned: what it has not told it will not tell."""
        for timer in (self._abandoning, self._sweeper, self._asking):
            if timer is not None:
                timer.cancel()
        self._sweeper = None
        self._close_soon()
        if not self._over.done():
            self._over.set_result(None)
        self.room.wake_all()
        calls, self._calls = [*self._calls], {}
        self._expire(calls)
