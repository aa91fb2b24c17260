"""Publishing: from `publish` to the buffers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import time
from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage] # documented
from threading import get_ident
from typing import TYPE_CHECKING, Any

from eventflow._cause import current_attempt, current_cause, envelope, tell
from eventflow.bus._reports import log
from eventflow.bus._turns import Wait, deadlock_error, would_deadlock
from eventflow.bus._worker import Worker
from eventflow.bus.options import Overflow
from eventflow.errors import (
    BufferFullError,
    BusClosedError,
    BusNotEnteredError,
    DeadlockError,
    EventDefinitionError,
    PublishTimeoutError,
    WrongLoopError,
)
from eventflow.events import Event
from eventflow.lifecycle.home import process

if TYPE_CHECKING:
    from eventflow._cause import Attempt, Envelope
    from eventflow.bus._inbox import Inbox
    from eventflow.bus._scope import Scope

__all__ = ("Dispatch",)

CHECKPOINT_EVERY = 256
LOOK_EVERY_S = 0.5

# The thread that waits for a publish of `publish_from_thread`: it may be a handler's.
_waiting_thread: contextvars.ContextVar[int | None] = contextvars.ContextVar(
    "eventflow_waiting_thread", default=None
)


class Dispatch:
    """The publishing half of a bus."""

    __slots__ = (
        "__weakref__",
        "_forks",
        "_loop",
        "_name",
        "_noting_loop",
        "_routes",
        "_scope",
        "_until_checkpoint",
    )

    _name: str
    _scope: Scope | None
    # The scope's table; an empty one while not entered, so that one failed look-up leads
    # everything unusual to `_admit`.
    _routes: dict[type[Event], tuple[Inbox, ...]]
    _loop: asyncio.AbstractEventLoop | None
    # See `eventflow.lifecycle.home`.
    _noting_loop: Any
    _forks: int
    _until_checkpoint: int

    async def publish(self, event: Event) -> None:
        """Offer an event to everybody subscribed to it, and return without waiting for them.

        Subscribers with room have their copy before anyone waits. Then, where full ``BLOCK``
        subscribers exist, it waits for room in all of them together, each at most its
        ``block_timeout``. Nothing tells whether anyone listens. Publishing is a checkpoint
        (others get to run, a cancellation is delivered) at least every 256 calls. If it is
        cancelled, who has a copy keeps it, and for the others it counts as rejected.

        Correlation and causation ids follow by themselves; see `publishing` for others.

        Args:
            event: An instance of a class with a topic.

        Raises:
            BufferFullError: A ``BLOCK`` subscriber had no room in time, or a ``RAISE``
                subscriber had none; in the second case nobody has the event.
            PublishDeadlockError: The wait could only end by itself: see there.
            BusNotEnteredError: The bus has not been entered.
            BusClosedError: The bus stops, or was left.
            WrongLoopError: Called from another event loop, thread or process.
            EventDefinitionError: Not an event, or of a class without a topic.
        """
        inboxes = self._routes.get(type(event))
        if inboxes is None or (
            _get_running_loop() is not self._loop
            if (loop := self._noting_loop) is None
            else get_ident() != loop._thread_id or process.forks != self._forks
        ):
            inboxes = self._admit(event)
        cause = current_cause.get()
        item = event if cause is None else envelope(event, cause)
        full: list[Inbox] | None = None
        for inbox in inboxes:
            queue = inbox.queue
            if len(queue) < inbox.limit:
                queue.append(item)
                inbox.offered += 1
                if inbox.idle:
                    inbox.wake()
            elif full is None:
                full = [inbox]
            else:
                full.append(inbox)
        if full is not None:
            await self._wait_for_room(full, event, item)
        self._until_checkpoint -= 1
        if not self._until_checkpoint:
            self._until_checkpoint = CHECKPOINT_EVERY
            await asyncio.sleep(0)

    def publish_nowait(self, event: Event) -> None:
        """Offer an event without ever waiting: a full ``BLOCK`` subscriber rejects it.

        The others have it all the same.

        Raises:
            BufferFullError: A ``BLOCK`` or ``RAISE`` subscriber had no room.
            BusNotEnteredError: The bus has not been entered.
            BusClosedError: The bus stops, or was left.
            WrongLoopError: Called from another event loop, thread or process.
            EventDefinitionError: Not an event, or of a class without a topic.
        """
        inboxes = self._routes.get(type(event))
        if inboxes is None or _get_running_loop() is not self._loop:
            inboxes = self._admit(event)
        cause = current_cause.get()
        item = event if cause is None else envelope(event, cause)
        full: Inbox | None = None
        for inbox in inboxes:
            if len(inbox.queue) < inbox.limit:
                inbox.append(item)
            elif inbox.closed:
                continue
            elif inbox.options.overflow is Overflow.BLOCK:
                inbox.reject(item)
                full = inbox
            else:
                inbox.overflow(item)
        if full is not None:
            raise _full(event, full, "publish_nowait does not wait for it")

    def publish_from_thread(self, event: Event, *, timeout: float = 30.0) -> None:
        """`publish`, from a thread that is not the event loop's; blocks until it is done.

        Contextvars of the thread come along, so that in a sync handler causation follows.

        Args:
            event: As for `publish`.
            timeout: Longest wait in seconds, for the loop as well as for room.

        Raises:
            PublishTimeoutError: Not done in time. Whoever has a copy by then keeps it.
            DeadlockError: Called on the event loop's own thread, which it would block.
            BusNotEnteredError: The bus has not been entered.
            BusClosedError: The bus stops, or was left.
            Exception: Whatever else `publish` raises.
        """
        scope = self._entered()
        if _get_running_loop() is scope.loop:
            raise DeadlockError(
                "publish_from_thread would block the event loop it waits for; "
                "write `await bus.publish(event)` here"
            )
        context = contextvars.copy_context()
        context.run(_waiting_thread.set, get_ident())
        outcome: concurrent.futures.Future[None] = concurrent.futures.Future()
        tasks: list[asyncio.Task[None]] = []

        def start() -> None:
            if outcome.cancelled():
                return
            if scope.state == "closed":
                outcome.set_exception(scope.closed_error())
                return
            task = scope.supervisor.spawn(self.publish(event), "publish_from_thread", context)
            tasks.append(task)
            task.add_done_callback(finish)

        def finish(task: asyncio.Task[None]) -> None:
            error = scope.closed_error() if task.cancelled() else task.exception()
            if outcome.set_running_or_notify_cancel():
                if error is None:
                    outcome.set_result(None)
                else:
                    outcome.set_exception(error)

        try:
            scope.loop.call_soon_threadsafe(start)
        except RuntimeError:
            raise scope.closed_error() from None
        until = time.monotonic() + timeout
        while not outcome.done() and (left := until - time.monotonic()) > 0:
            if scope.loop.is_closed():
                raise scope.closed_error()  # it will never run what waits for it
            concurrent.futures.wait([outcome], min(left, LOOK_EVERY_S))
        if not outcome.done() and outcome.cancel():
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                scope.loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            raise PublishTimeoutError(
                f"publishing event {event.id} on {event.topic!r} was not done within {timeout:g} s",
                topic=event.topic or "",
                event_id=event.id,
                waited_s=timeout,
            )
        outcome.result()

    # Everything unusual

    def _entered(self) -> Scope:
        if self._scope is None:
            raise BusNotEnteredError(
                f"bus {self._name!r} has not been entered; publish inside `async with bus:`"
            )
        if self._scope.state == "closed":
            raise BusClosedError(f"bus {self._name!r} was left; nobody would get the event")
        if self._scope.pid != os.getpid():
            raise WrongLoopError(
                f"bus {self._name!r} was entered in the process that this one was forked from"
            )
        return self._scope

    def _admit(self, event: Event) -> tuple[Inbox, ...]:
        """The inboxes for an event that the fast path knows nothing of, or an error."""
        scope = self._entered()
        if _get_running_loop() is not scope.loop:
            raise WrongLoopError(
                f"bus {self._name!r} belongs to the event loop it was entered in; from a thread, "
                "use `bus.publish_from_thread(event)`"
            )
        if not isinstance(event, Event):
            raise EventDefinitionError(
                f"publish takes an instance of a subclass of Event, not {type(event).__name__}"
            )
        event_class = type(event)
        if event_class.topic is None:
            raise EventDefinitionError(
                f"{event_class.__name__} has no topic, so it is a base class to subscribe to; "
                f'publish a class made with `class {event_class.__name__}(…, topic="…")`',
                event=event_class.__name__,
            )
        if scope.state != "open" and not (scope.taking_in and scope.runs(current_attempt())):
            raise scope.closed_error()
        inboxes = scope.matcher.match(event_class)
        refusing = [i for i in inboxes if i.options.overflow is Overflow.RAISE]
        if not refusing and scope.state == "open":
            scope.routes[event_class] = inboxes
        if full := [inbox for inbox in refusing if not inbox.has_room]:
            for inbox in full:
                inbox.reject(event)
            raise _full(event, full[0], "so nobody got it")
        return inboxes

    async def _wait_for_room(self, full: list[Inbox], event: Event, item: Event | Envelope) -> None:
        """Offer to those without room: by their policy, or by waiting in turn."""
        scope = self._scope
        assert scope is not None
        cause = current_attempt()
        worker = _waiting_worker(cause)
        blocked: list[Inbox] = []
        unheard: list[Inbox] = []
        deadlock = False
        for inbox in full:
            if inbox.closed:
                tell(item, done=False)
            elif inbox.options.overflow is Overflow.BLOCK:
                if worker is not None and would_deadlock(worker, inbox):
                    inbox.reject(item)
                    deadlock = True
                else:
                    blocked.append(inbox)
            elif inbox.fresh and inbox.would_drop(item):
                unheard.append(inbox)  # had no chance to run: let it, before dropping
            else:
                inbox.overflow(item)
        from_handler = scope.runs(cause)
        wait = Wait(blocked, item, from_handler=from_handler, loop=scope.loop) if blocked else None
        if worker is not None:
            worker.blocked_on = None if wait is None else wait.blocked_on
        try:
            if unheard:
                await asyncio.sleep(0)
                if not scope.taking_in:
                    for _ in unheard:
                        tell(item, done=False)
                    raise scope.closed_error()  # their buffers are closed: nobody counts it
                while unheard:
                    unheard.pop().overflow(item)
            if wait is not None:
                await wait.wait()
        except asyncio.CancelledError:
            for inbox in unheard:
                if inbox.closed:
                    tell(item, done=False)  # left meanwhile: its counts are final
                else:
                    inbox.reject(item)
            if wait is not None:
                wait.cancel()
            raise
        finally:
            if worker is not None:
                worker.blocked_on = None
        if deadlock:
            log.error(
                "eventflow.publish_deadlock",
                bus=self._name,
                subscription=None if cause is None else cause.lane.name,
                event_id=event.id,
                topic=event.topic,
            )
            raise deadlock_error(event)


def _full(event: Event, inbox: Inbox, consequence: str) -> BufferFullError:
    return BufferFullError(
        f"a subscriber of {event.topic!r} ({inbox.options.bound}) has no room for event "
        f"{event.id}, and {consequence}; "
        "its name is in the log and in bus.statistics()",
        topic=event.topic or "",
        event_id=event.id,
    )


def _waiting_worker(cause: Attempt | None) -> Worker | None:
    """The worker that can do nothing until this publish returns, if there is one.

    A task that a handler started may publish while the handler goes on, so only the worker's
    own task counts, or the thread of its handler.
    """
    if cause is None:
        return None
    task, thread = asyncio.current_task(), _waiting_thread.get()
    for reader in getattr(cause.lane, "readers", ()):
        if isinstance(reader, Worker) and reader.attempt is cause:
            in_thread = reader.thread is not None and reader.thread.ident == thread is not None
            return reader if reader.task is task or in_thread else None
    return None
