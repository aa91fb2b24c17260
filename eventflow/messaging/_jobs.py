"""What waits for a handler, and which of it may start next."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from eventflow.lifecycle.lanes import NO_LANES, Lanes
from eventflow.messaging._pauses import Pauses
from eventflow.messaging.settlement import SettlementState

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Hashable, Iterable

    from eventflow.messaging.delivery import Delivery

__all__ = ("Jobs",)

_PENDING = SettlementState.PENDING


class Jobs:
    """The jobs of one handler, from when it took them in to their end.

    Jobs in one lane start one after another, and the next waits for the end of the one before,
    its retries included. Where ``is_serial``, what waits for a retry holds up all.

    A worker takes the next one itself, without a call of `take`, where nothing is special. So it
    knows what these are of, which stay the same objects:

    Attributes:
        queue: Jobs that may start.
        due: Those that start before them: their wait for a retry is over.
        held: Those that hold up all others, by identity, until their wait for a retry is over.
        paused: Why the handler is paused, by whoever has done that.
        idle: Workers that wait for a job.
        in_flight: Jobs that were taken and have not ended.
        lapsed: Jobs that were settled, or given back, before they started.
        pauses: Who has paused the handler.
        is_closed: Who waits for a job gets none any more.
        idle_watchers: Those who wait for it to have nothing to do.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        is_serial: bool,
        timer_context: contextvars.Context,
        on_probe: Callable[[], None],
    ) -> None:
        self.in_flight = 0
        self.lapsed = 0
        self.pauses = Pauses()
        self.paused = self.pauses.reasons
        self.is_closed = False
        self._loop = loop
        self._is_serial = is_serial
        self._timer_context = timer_context
        self._on_probe = on_probe
        # Those that may start, those behind others in their lane, and those before a retry: due
        # now, waiting for it, and holding up all others meanwhile.
        self.queue: deque[Delivery] = deque()
        self._lanes: Lanes = NO_LANES
        self.due: deque[Delivery] = deque()
        # By identity: a backend's deliveries may be equal, or have no hash.
        self._waiting: dict[int, tuple[Delivery, asyncio.TimerHandle]] = {}
        self.held: dict[int, None] = {}
        self.idle: deque[asyncio.Future[None]] = deque()
        self.idle_watchers: dict[asyncio.Future[None], None] = {}
        self._overdue: dict[asyncio.Future[None], None] = {}

    @property
    def buffered(self) -> int:
        """Jobs that wait for their first attempt."""
        return len(self.queue) + len(self._lanes)

    def put(self, job: Delivery) -> None:
        """Let a job wait, behind what is there."""
        self.queue.append(job)
        if self.idle:
            self.wake()

    def put_in_lane(self, job: Delivery, lane: Hashable) -> None:
        """Let it wait for what is in its lane, too; raises what the hash of the lane raises."""
        if self._lanes is NO_LANES:
            self._lanes = Lanes()
        if self._lanes.start(lane, job) is None:
            self.put(job)
        job.held_lane, job.in_lane = lane, True

    def take(self) -> Delivery | None:
        """The next job to start; ``None`` if there is none, or the handler is paused."""
        if self.due or self.paused or self.held:
            if self.pauses.hold:
                return None
            if self.due:
                if self.paused:
                    self._count_probe()
                return self.due.popleft()
            if self.held:
                return None
        while True:
            if self.queue:
                job = self.queue.popleft()
            else:
                ready = self._lanes.next_ready()
                if ready is None:
                    return None
                job = ready[1]
            if job.state is _PENDING:
                self.in_flight += 1
                if self.paused:
                    self._count_probe()
                return job
            self.lapse(job)

    def lapse(self, job: Delivery) -> None:
        """Let go of one that was never started, and is settled.

        Its subscription broke, so it was given back; or a middleware has settled it.
        """
        self.lapsed += 1
        if job.in_lane:
            self.leave_lane(job)
        self.look_whether_idle()

    def _count_probe(self) -> None:
        self.pauses.started()
        self._on_probe()

    async def wait(self) -> None:
        """Wait until there may be a job."""
        if self.is_closed:
            raise asyncio.CancelledError  # the handler took back the stop's cancellation
        future = self._loop.create_future()
        self.idle.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.wake()  # the job that woke us is for another worker
            raise
        finally:
            with suppress(ValueError):
                self.idle.remove(future)

    async def wait_until(self, until: float) -> bool:
        """The same until loop time ``until``. Whether there may be one."""
        try:
            async with asyncio.timeout_at(until):
                await self.wait()
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        """Wake one that waits for a job."""
        while self.idle:
            future = self.idle.popleft()
            if not future.done():
                future.set_result(None)
                return

    def retry_in(self, delay: float, job: Delivery, lapsed: Callable[[Delivery], None]) -> None:
        """Let a job start again after ``delay`` seconds, unless it is settled by then."""
        if self._is_serial and not job.in_lane:
            self.held[id(job)] = None
        timer = self._loop.call_later(delay, self._retry, job, lapsed, context=self._timer_context)
        self._waiting[id(job)] = job, timer

    def _retry(self, job: Delivery, lapsed: Callable[[Delivery], None]) -> None:
        self._waiting.pop(id(job), None)
        self.held.pop(id(job), None)
        if job.state is _PENDING:
            self.due.append(job)
        else:
            lapsed(job)
        self.wake()  # also for those that it held up

    def end(self, job: Delivery) -> None:
        """A job that was taken has ended."""
        self.in_flight -= 1
        if job.in_lane:
            self.leave_lane(job)
        if self.idle_watchers:
            self.look_whether_idle()

    def leave_lane(self, job: Delivery) -> None:
        """Let the next one of its lane start."""
        job.in_lane = False
        if self._lanes.release(job.held_lane):
            self.wake()

    def clear(self) -> tuple[list[Delivery], list[Delivery]]:
        """Take everything away: what was never started, and what waited for a retry."""
        unstarted = [*self.queue, *self._lanes.clear()]
        for job in unstarted:
            job.in_lane = False  # the lanes of those that run are released by them
        again = [*self.due, *(job for job, _ in self._waiting.values())]
        for _, timer in self._waiting.values():
            timer.cancel()
        self.queue.clear()
        self.due.clear()
        self._waiting.clear()
        self.held.clear()
        return unstarted, again

    # Whether there is nothing to do

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs, no thread included."""
        return not (self.in_flight or self.buffered or self._overdue)

    def watch_idle(self) -> asyncio.Future[None]:
        """Done when it may have become idle."""
        watcher: asyncio.Future[None] = self._loop.create_future()
        self.idle_watchers[watcher] = None
        return watcher

    def look_whether_idle(self) -> None:
        """Tell those who watch, if it is."""
        if self.is_idle:
            for watcher in self.idle_watchers:
                watcher.set_result(None)
            self.idle_watchers.clear()

    @property
    def overdue(self) -> Iterable[asyncio.Future[None]]:
        """The ends of threads that outlived their attempt."""
        return tuple(self._overdue)

    def wait_for_thread(self, ended: asyncio.Future[None], context: contextvars.Context) -> None:
        """Count a thread that outlived its attempt as running, until ``ended`` is done."""
        self._overdue[ended] = None
        ended.add_done_callback(self._returned, context=context)

    def _returned(self, ended: asyncio.Future[None]) -> None:
        self._overdue.pop(ended, None)
        self.look_whether_idle()
