"""Daemon threads for sync handlers, under a limit of their own.

anyio's and asyncio's pools are not used on purpose: their limit belongs to the web
framework, which 40 stuck handlers would stop, and asyncio's threads are joined at exit, so
that one stuck handler would keep the interpreter alive.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Job", "ThreadRunner")

_JOIN_S = 0.1


class _HoldsClock(Protocol):
    """A virtual clock that must stand still while a thread is out."""

    def hold_clock(self) -> None: ...

    def release_clock(self) -> None: ...


class Job:
    """One call in a thread.

    Attributes:
        name: What runs, for reports.
        ended: Done when the thread has returned, whatever it returned.
    """

    __slots__ = ("_call", "ended", "error", "ident", "name", "result")

    def __init__(self, name: str, call: Callable[[], object], ended: asyncio.Future[None]) -> None:
        self.name = name
        self.ended = ended
        self.result: object = None
        self.error: BaseException | None = None
        self.ident: int | None = None
        self._call = call

    def run(self) -> None:
        """Run in the thread; never raises."""
        self.ident = threading.get_ident()
        try:
            self.result = self._call()
        except BaseException as exc:  # noqa: BLE001 - carried to the worker, whatever it is
            self.error = exc


class _Thread(threading.Thread):
    def __init__(self, runner: ThreadRunner, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._runner = runner

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            job.run()
            self._runner.returned(self, job)
            del job


class ThreadRunner:
    """Runs functions in daemon threads; used from one event loop.

    Up to ``limit`` threads exist; they start on first use and are kept for the next call.
    A call beyond the limit waits its turn. A function that runs can't be stopped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, limit: int, name: str) -> None:
        self._loop = loop
        self._limit = limit
        self._name = name
        self._idle: list[_Thread] = []
        self._busy: dict[Job, _Thread] = {}
        self._turns: deque[asyncio.Future[None]] = deque()
        self._clock = cast("_HoldsClock", loop) if hasattr(loop, "hold_clock") else None
        self._started = 0

    def has_room(self) -> bool:
        """Whether a call would start at once."""
        return len(self._busy) < self._limit

    async def wait_for_room(self) -> None:
        """Wait until a call would start at once; in turn."""
        while not self.has_room():
            turn = self._loop.create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._pass_on()  # perhaps it was our turn already
                raise

    def start(self, name: str, function: Callable[..., object], *args: Any) -> Job:
        """Start a call in a thread, in a copy of the caller's context. Needs room."""
        assert self.has_room()
        context = contextvars.copy_context()
        job = Job(name, lambda: context.run(function, *args), self._loop.create_future())
        if self._idle:
            thread = self._idle.pop()
        else:
            self._started += 1
            thread = _Thread(self, f"eventflow:{self._name}-{self._started}")
            thread.start()
        self._busy[job] = thread
        if self._clock is not None:
            self._clock.hold_clock()
        thread.jobs.put(job)
        return job

    def returned(self, thread: _Thread, job: Job) -> None:
        """Report the end of a job; called in the thread."""
        try:
            self._loop.call_soon_threadsafe(self._ended, thread, job)
        except RuntimeError:
            # The loop was closed while the job ran: nobody is left to tell, and nobody to
            # let this thread go later.
            thread.jobs.put(None)

    def _ended(self, thread: _Thread, job: Job) -> None:
        if self._clock is not None:
            self._clock.release_clock()
        self._busy.pop(job, None)
        if self._limit:
            self._idle.append(thread)
        if not job.ended.done():
            job.ended.set_result(None)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._turns and self.has_room():
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def close(self) -> tuple[str, ...]:
        """Let the threads go; returns the names of those that still run something.

        Those go when it returns, and need no event loop for that: theirs may be over by then.
        """
        self._limit = 0
        idle, self._idle = self._idle, []
        for thread in (*idle, *self._busy.values()):
            thread.jobs.put(None)
        for thread in idle:
            thread.join(_JOIN_S)
        return tuple(f"{thread.name} in {job.name}" for job, thread in self._busy.items())
