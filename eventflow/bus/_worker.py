"""A worker: the task that takes events out of an inbox and runs the handler on them.

The loop in `Worker.run` is the hot path of the bus. What it does for every event: set the
event's context variable, call the handler, compare the cancel count and the context, count.
No task, scope, timer or lock is made per event.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, cast

from eventflow._cause import Attempt, Envelope, event_of, tell
from eventflow._log import shown
from eventflow.bus._reports import log
from eventflow.failure import CallOnFailure
from eventflow.lifecycle.worker import HandlerWorker, changed

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Hashable

    from eventflow.bus._handling import Handling
    from eventflow.bus._inbox import Inbox
    from eventflow.events import Event

__all__ = ("Worker",)

SLICE_S = 0.005
"""Time after which a worker that never waits lets others run."""


class _Returned(BaseException):
    """The handler returned; not an error."""


class Worker(HandlerWorker):
    """Runs the handler of one subscription on one event after another.

    Attributes:
        blocked_on: Inboxes in which its handler waits for room, while it does.
    """

    __slots__ = (
        "_call",
        "_handling",
        "_inbox",
        "_key",
        "_keyed",
        "_sampled",
        "_takeover",
        "blocked_on",
    )

    def __init__(
        self, handling: Handling, takeover: tuple[Hashable, Event | Envelope, int] | None = None
    ) -> None:
        inbox = handling.inbox
        super().__init__(
            inbox,
            cancel_grace=handling.cancel_grace,
            loop=handling.loop,
            timer_context=handling.timer_context,
            context=handling.new_context(),
        )
        self._handling = handling
        self._inbox = inbox
        self._call = handling.call_for(self)
        self._takeover = takeover
        self._key: Hashable = None if takeover is None else takeover[0]
        self._keyed = takeover is not None
        self._sampled: float | None = None  # when it began, if its time is to be kept
        self.blocked_on: set[Inbox] | None = None

    @property
    def holds(self) -> bool:
        """Whether it holds an event that has not ended."""
        return not self.abandoned and (self.attempt is not None or self._takeover is not None)

    @property
    def is_free(self) -> bool:
        """Whether it could start another event."""
        return self.attempt is None and not self._keyed

    @property
    def item(self) -> Event | Envelope | None:
        """The event it holds."""
        if self._takeover is not None:
            return self._takeover[1]
        return None if self.attempt is None else cast("Event | Envelope", self.attempt.item)

    def begin(self, attempt: Attempt) -> None:
        """Start an attempt: from here on it can time out, and `current()` tells of it."""
        super().begin(attempt)
        if self._sampled is not None:
            self._sampled = attempt.started

    async def run(self) -> None:
        """Take and handle events until cancelled, or replaced by a worker with a fresh context."""
        task = self.bind()
        inbox = self._inbox
        queue, plain = inbox.queue, inbox.limit >= 0 and inbox.lanes is None
        pop, call, clock, cancelling = queue.popleft, self._call, self.clock, task.cancelling
        context, envelope, references = self.context, Envelope, sys.getrefcount
        sample = inbox.sample
        cell, before = cast("Any", None), context
        item: Any
        failure: BaseException | None
        tree: object = None
        of_tree = of_cell = 0
        try:
            inbox.fresh = False
            if self._takeover is not None and not await self._take_over():
                return
            now = clock()
            # `mark`: when to look up, at the end of the slice or after an event that is sampled.
            mark = slice_end = now if inbox.buffered else now + SLICE_S
            while True:
                if now >= mark:
                    if self._sampled is not None:
                        self._keep(now)
                    if now >= slice_end:
                        if now > slice_end:
                            self.attempt = None
                            inbox.fresh = True
                            await asyncio.sleep(0)
                            inbox.fresh = False
                            now = clock()
                        # The timer runs out only while the worker waits: here is often enough.
                        if self.timer is None:
                            self.arm(now)
                        if not cell:
                            cell, before, tree = self.isolate(inbox.handled)
                            of_tree = references(tree) if tree is not None else -1
                            of_cell = references(cell)
                        else:
                            self.attempt = cell
                        slice_end = now + SLICE_S
                    mark = slice_end
                    if now >= sample.due:
                        mark = self._sampled = now
                if plain and queue:
                    item = pop()
                elif not plain and self._take(cell):
                    item = cell.item
                else:
                    item = self.attempt = self._sampled = None
                    if cell:
                        cell.item = None  # an idle worker keeps no event alive
                    await self._idle()
                    now = mark = slice_end = clock()
                    continue
                cell.item, cell.started = item, now
                if inbox.turns:
                    inbox.admit()
                try:
                    if type(item) is not envelope:
                        await call(item)
                    elif item.receipt is None:
                        await call(item.event)
                    else:
                        await self._call_for_bridge(item.event)
                except BaseException as exc:  # noqa: BLE001 - judged in _ended
                    failure = exc
                else:
                    failure = None
                if failure is None and cancelling() == self.expected:
                    # `attempt` stays until the worker waits: nobody looks in between.
                    inbox.handled += 1
                elif not await self._ended(failure, before):
                    return
                else:
                    failure = None  # no cycle through the traceback's frame
                    if changed(self.context, before):
                        # Another attempt has bound the variable; that the cell is gone from
                        # the context would not show in the counts if a copy still has it.
                        self._release()
                        break
                    self.attempt = cell
                    if self.timer is None:
                        self.arm(clock())
                if not plain:
                    self._release()
                now = clock()
                if references(tree) != of_tree or references(cell) != of_cell:
                    if changed(self.context, before):
                        break  # the handler bound a variable: this context is used up
                    # Somebody keeps a copy of the context, and with it this cell.
                    cell, before, tree = self.isolate(inbox.handled)
                    of_tree = references(tree) if tree is not None else -1
                    of_cell = references(cell)
            if self._sampled is not None:
                self._keep(now)
            self._hand_over(None)
        finally:
            failure = None
            self.disarm()
            if not self._loop.is_closed():
                self._release()

    def _keep(self, now: float) -> None:
        """The attempt that is sampled has ended."""
        assert self._sampled is not None
        self._inbox.sample.add(now - self._sampled, now)
        self._sampled = None

    def _take(self, cell: Any) -> bool:
        """Take an event whose key, if it has one, is free. The user's functions run in here."""
        self.attempt = None
        taken = self._inbox.take()
        if taken is None:
            return False
        self._key, cell.item = taken
        self._keyed = True
        self.attempt = cell
        return True

    async def _call_for_bridge(self, event: Event) -> None:
        """Call the handler, and end in `_ended` in any case, where a bridge is told.

        So the plain way has nothing to ask about after an event was handled.
        """
        await self._call(event)
        raise _Returned

    def _release(self) -> None:
        if self._keyed:
            self._keyed = False
            self._inbox.release(self._key)
            self._key = None

    async def _idle(self) -> None:
        inbox = self._inbox
        inbox.went_idle()
        if inbox.closed:
            # The handler took back the stop's cancellation with `uncancel()`.
            raise asyncio.CancelledError
        future = self._loop.create_future()
        inbox.idle.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future in inbox.idle:
                inbox.idle.remove(future)
            elif not inbox.closed:
                inbox.wake()  # the event that woke us is for another worker
            raise
        inbox.fresh = False

    def _hand_over(self, takeover: tuple[Hashable, Event | Envelope, int] | None) -> None:
        """Let a worker with a fresh context go on."""
        self.replaced = True
        if takeover is not None:
            self._keyed = False  # the successor has the key now
        successor = Worker(self._handling, takeover)
        if takeover is not None:
            successor._sampled = self._sampled
        self._handling.replace(self, successor)
        self.attempt = None

    async def _take_over(self) -> bool:
        """Go on with the event of a predecessor whose context was used up."""
        assert self._takeover is not None
        _, item, number = self._takeover
        self.begin(Attempt(item, self._inbox, number, self.clock()))
        self._takeover = None
        before = self.context.copy()
        error = await self._try(item)
        if not await self._ended(error, before):
            return False
        self._release()
        if changed(self.context, before):
            self._hand_over(None)
            return False
        return True

    async def _try(self, item: Event | Envelope) -> BaseException | None:
        try:
            await self._call(event_of(item))
        except BaseException as exc:  # noqa: BLE001 - judged in _ended
            return exc
        return None

    async def _ended(self, error: BaseException | None, before: contextvars.Context) -> bool:
        """Settle an attempt, with further ones as the policy says. Whether this worker goes on.

        Raises the cancellation where the attempt, or the worker with it, was stopped.
        """
        if isinstance(error, _Returned):
            error = None
        assert self.attempt is not None
        item = cast("Event | Envelope", self.attempt.item)
        while True:
            number = self.attempt.number
            ended_at = self.clock()
            stopped, timed_out = self.judge(error)
            if stopped and isinstance(error, asyncio.CancelledError):
                self._cut(item)
                raise error
            if self._sampled is not None:
                self._inbox.sample.add(ended_at - self._sampled, ended_at)
            if error is None and not timed_out:
                self._inbox.handled += 1
                self.attempt = None
                tell(item, done=True)
                break
            if timed_out or error is None:
                error = self.timeout_error(error)
            delay = self._delay(error, number)
            if delay is None or stopped:
                await self._give_up(
                    item, error, number, timed_out=timed_out, cut_short=delay is not None
                )
                if isinstance(error, (SystemExit, KeyboardInterrupt)):
                    raise error
                error = None  # as below
                break
            await self._wait_to_retry(item, delay)
            error = None  # no cycle: since 3.12 a traceback's frames hold their callers
            if changed(self.context, before):
                self._hand_over((self._key, item, number + 1))
                return False
            self.begin(Attempt(item, self._inbox, number + 1, self.clock()))
            before = self.context.copy()
            error = await self._try(item)
        self._sampled = None
        if stopped:
            raise asyncio.CancelledError
        await self.thread_ended()
        return True

    def _delay(self, error: BaseException, number: int) -> float | None:
        retry = self._inbox.options.on_failure.retry
        return None if retry is None else retry.delay(error, number)

    async def _wait_to_retry(self, item: Event | Envelope, delay: float) -> None:
        self._inbox.retried += 1
        self.paused = True
        try:
            await self.thread_ended()
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self._cut(item)
            raise
        finally:
            self.paused = False

    def _cut(self, item: Event | Envelope) -> None:
        """A stop cut the handler."""
        self._inbox.cancelled += 1
        self.attempt = None
        tell(item, done=False)
        event = event_of(item)
        log.warning(
            "eventflow.handler_cancelled",
            subscription=self._inbox.name,
            event_id=event.id,
            topic=event.topic,
        )

    def ended_unstarted(self) -> None:
        """Settle what a cancellation before the first step left behind."""
        if self._takeover is not None and not self.abandoned:
            item, self._takeover = self._takeover[1], None
            self._cut(item)
            self._release()

    async def _give_up(
        self,
        item: Event | Envelope,
        error: BaseException,
        attempts: int,
        *,
        timed_out: bool,
        cut_short: bool,
    ) -> None:
        """Log, call whom the policy names, and count.

        Where a stop cut the policy short, whoever was to be called did not return, or the process
        is to end, then who brought the event is told that it was lost here.
        """
        inbox = self._inbox
        event = event_of(item)
        facts = {
            "subscription": inbox.name,
            "event_id": event.id,
            "topic": event.topic,
            "attempts": attempts,
        }
        log.error("eventflow.handler_failed", error=error, **facts)
        stopped = False
        done = not cut_short and not isinstance(error, (SystemExit, KeyboardInterrupt))
        fatal: BaseException | None = None
        if isinstance(then := inbox.options.on_failure.then, CallOnFailure):
            self.begin(Attempt(item, inbox, attempts, self.clock()))
            failure: BaseException | None = None
            try:
                await then.callback(event, error, attempts)
            except BaseException as exc:  # noqa: BLE001 - reported below
                failure = exc
            if isinstance(failure, GeneratorExit) and (
                asyncio._get_running_loop() is not self._loop
            ):
                raise failure  # as in _ended
            ended = self.settle()
            stopped = ended in ("stopped", "timed_out_and_stopped")
            if failure is None and ended in ("timed_out", "timed_out_and_stopped"):
                failure = self.timeout_error(None)
            if failure is not None:
                done = False
                log.error(
                    "eventflow.failure_callback_failed", error=failure, reason=shown(error), **facts
                )
            if isinstance(failure, (SystemExit, KeyboardInterrupt)):
                fatal = failure
            failure = None  # no cycle through the traceback's frame
        if self.abandoned:
            raise asyncio.CancelledError
        inbox.failed += 1
        inbox.timed_out += timed_out
        self.attempt = None
        tell(item, done=done)
        if fatal is not None:
            raise fatal
        if stopped:
            raise asyncio.CancelledError
