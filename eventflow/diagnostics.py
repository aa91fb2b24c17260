"""A watchdog that names what blocks the event loop, while it does.

Nothing on the loop can say that the loop is blocked, so the watchdog is a thread. It looks a
few times per threshold at what the loop's thread is doing. If that is waiting for something to
do, all is well, and the loop is not woken. If a callback runs, the loop is sent one of its own
(`loop.call_soon_threadsafe`); as long as that is not run, the loop is blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import sys
import threading
import time
import traceback
from contextvars import Context
from typing import TYPE_CHECKING, Any, Self, cast

from eventflow._cause import Origin, current_cause, event_of
from eventflow._log import EventLogger
from eventflow.errors import ConfigurationError, InvalidOptionError

if TYPE_CHECKING:
    from types import CodeType, FrameType, TracebackType

    from eventflow._cause import Envelope
    from eventflow.events import Event

__all__ = ("Watchdog",)

LOOKS = 4
"""Looks per threshold."""

FRAMES = 40
"""Most frames of a stack that are written, the innermost ones."""

JOIN_S = 0.5

_RUN_ONCE: CodeType | None = getattr(
    getattr(asyncio.BaseEventLoop, "_run_once", None), "__code__", None
)
_RUN_CALLBACK: CodeType | None = getattr(getattr(asyncio.Handle, "_run", None), "__code__", None)

log = EventLogger("eventflow.diagnostics")


class Watchdog:
    """Logs what blocks the event loop it is entered in; an async context manager.

    While the loop has not run for ``threshold`` seconds, it logs ``eventflow.loop_blocked``, a
    warning, with

    - ``blocked_s``, for how long at least, so far;
    - ``task``, the name of the task that runs, if one does; and where that handles an event, or
      was started by a handler, ``bus``, ``subscription``, ``event_id`` and ``topic``;
    - ``stack``, the stack of the loop's thread as text, innermost call last.

    It does so once per blockage, and again each time that has become twice as long. When the
    loop runs again, ``eventflow.loop_resumed`` says for how long it did not.

    A C function that keeps the interpreter's lock stops the watchdog as well. That, or the whole
    process having been stopped, is ``eventflow.watchdog_late``, with ``late_s`` and the stack found
    afterwards.

    It costs nothing where it is not used. Where it is, it is one daemon thread that wakes four
    times per threshold, and a callback on the loop each time it finds it busy; a loop that waits
    is not woken (on uvloop, where that can't be seen, it is). It holds no task and no timer, so a
    virtual clock is not held up; seconds are always real ones. The thread ends with the block, or
    with the loop if that is closed first. Enter it outside the bus or service, so that it watches
    the stop too.

    Args:
        threshold: Seconds that the loop may go without running; above 0. A blockage is noticed
            within 1.5 times this.

    Example::

        async with Watchdog(threshold=0.2), EventBus() as bus: ...
    """

    def __init__(self, *, threshold: float = 0.5) -> None:
        given: object = threshold
        if (
            isinstance(given, bool)
            or not isinstance(given, (int, float))
            or not 0 < given < threading.TIMEOUT_MAX
        ):
            raise InvalidOptionError(
                f"threshold must be a number of seconds, finite and above 0, not {given!r}",
                option="threshold",
            )
        self._threshold = float(threshold)
        self._watch: _Watch | None = None

    async def __aenter__(self) -> Self:
        """Start watching the running loop.

        Raises:
            ConfigurationError: It is watching already.
        """
        if self._watch is not None and self._watch.thread.is_alive():
            raise ConfigurationError(
                "this watchdog is watching already; make another one for another event loop"
            )
        self._watch = _Watch(asyncio.get_running_loop(), self._threshold)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop watching."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.leave()


class _Watch:
    """One stay, and its thread.

    ``_sent`` is when the callback was sent that has not run yet; what the loop does before it
    answers is the blockage. ``_facts`` are those of the last report on it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threshold: float) -> None:
        # Owned and not inherited from: which names `Thread` uses for itself changes.
        self.thread = threading.Thread(target=self._run, name="eventflow:watchdog", daemon=True)
        self._loop = loop
        self._threshold = threshold
        self._period = threshold / LOOKS
        self._loop_thread = threading.get_ident()
        self._leaving = threading.Event()
        self._sent: float | None = None
        self._answered = math.inf
        self._handle: asyncio.Handle | None = None
        self._facts: dict[str, Any] | None = None
        self._report_at = threshold
        self.thread.start()

    # On the loop

    def _answer(self) -> None:
        self._loop_thread = threading.get_ident()
        self._answered = min(self._answered, time.monotonic())

    def leave(self) -> None:
        """End the thread; called by the loop, which runs, then."""
        self._answer()
        self._leaving.set()
        if self._handle is not None:
            self._handle.cancel()
        self.thread.join(JOIN_S)

    # In the thread

    def _run(self) -> None:
        """Look, until left or until the loop is closed."""
        looked = time.monotonic()
        while not self._leaving.wait(self._period):
            if self._loop.is_closed():
                self._answered = min(self._answered, time.monotonic())
                break
            late = time.monotonic() - looked - self._period
            # Whatever fails here, a log processor that raises SystemExit for one, must not
            # end the watch.
            with contextlib.suppress(BaseException):
                self._look(late)
            looked = time.monotonic()
        with contextlib.suppress(BaseException):
            self._settle()

    def _look(self, late: float) -> None:
        now = time.monotonic()
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] # documented
        frame = frames.get(self._loop_thread)
        if not self._loop.is_running():
            frame = None
            self._answered = min(self._answered, now)
        busy = frame if _runs_callback(frame) else None
        if self._answered < math.inf:
            self._settle()
        if self._sent is None:
            if late >= self._threshold:
                found = {} if busy is None else _facts(self._loop) | {"stack": _stack(busy)}
                log.warning("eventflow.watchdog_late", late_s=round(late, 3), **found)
            if busy is not None:
                self._send(now)
        elif busy is not None and (blocked := now - self._sent) >= self._report_at:
            self._report_at = 2 * blocked
            facts = self._facts = _facts(self._loop)
            log.warning(
                "eventflow.loop_blocked",
                blocked_s=round(blocked, 3),
                **facts,
                stack=_stack(busy),
            )

    def _send(self, now: float) -> None:
        self._sent = now
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._handle = self._loop.call_soon_threadsafe(self._answer)

    def _settle(self) -> None:
        """The loop has answered, or won't any more."""
        sent, facts = self._sent, self._facts
        answered, self._answered = self._answered, math.inf
        self._sent = self._facts = self._handle = None
        self._report_at = self._threshold
        if sent is not None and facts is not None:
            log.warning("eventflow.loop_resumed", blocked_s=round(answered - sent, 3), **facts)


def _runs_callback(frame: FrameType | None) -> bool:
    """Whether a loop's thread runs a callback, and not the loop itself, which mostly waits.

    asyncio's loops are Python code and can be told apart; others count as running one.
    """
    at = frame
    while at is not None:
        if at.f_code is _RUN_CALLBACK:
            return True
        if at.f_code is _RUN_ONCE:
            return False
        at = at.f_back
    return frame is not None


def _stack(frame: FrameType) -> str:
    """The calls of the callback that runs, as text."""
    inner: list[tuple[FrameType, int]] = []
    at: FrameType | None = frame
    while at is not None and at.f_code is not _RUN_CALLBACK and len(inner) < FRAMES:
        inner.append((at, at.f_lineno))
        at = at.f_back
    return "".join(traceback.StackSummary.extract(iter(inner[::-1])).format())


def _facts(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """What runs: its task, and the event being handled there, as far as they are known."""
    task = asyncio.current_task(loop)
    if task is None:
        return {}
    facts: dict[str, Any] = {"task": task.get_name()}
    context = _context_of(task)
    cause = None if context is None else context.get(current_cause)
    attempt = cause.attempt if isinstance(cause, Origin) else cause
    if attempt is not None:
        facts |= {"bus": attempt.lane.bus, "subscription": attempt.lane.name}
        # Between two events a worker's cell is empty, against its type.
        item = cast("Event | Envelope | None", attempt.item)
        if item is not None:
            event = event_of(item)
            facts |= {"event_id": event.id, "topic": event.topic}
    return facts


def _context_of(task: asyncio.Task[Any]) -> Context | None:
    if sys.version_info >= (3, 12):
        return task.get_context()
    # CPython 3.11 has the context but no method for it. The collector sees it, before that of
    # a callback of the task (TaskObj_traverse in Modules/_asynciomodule.c).
    return next((it for it in gc.get_referents(task) if isinstance(it, Context)), None)
