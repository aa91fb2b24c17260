"""An event loop whose time is a number: timers fire at once, in order, and repeatably."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import random
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast

from eventflow.testing._describe import describe_task
from eventflow.testing._selector import IdleSelector
from eventflow.testing._timers import OrderedTimer, latest_of_first_slot
from eventflow.testing._workers import busy_anyio_workers
from eventflow.testing.errors import VirtualClockDeadlockError

if TYPE_CHECKING:
    import contextvars
    import selectors
    from collections import deque
    from collections.abc import Callable, Coroutine, Generator

    from eventflow.testing._selector import Ready

__all__ = ("VirtualClockLoop", "run_virtual")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# A wait for the real world looks up this often (s), in case the wake-up it waits for gives no sign:
# a stopped worker thread of anyio ends without a word to the loop.
_LOOK_UP_EVERY = 0.02


class _Submitted:
    """Stands in for an executor for one call, to get hold of the future of its thread."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.future: Future[Any] | None = None

    def submit(self, func: Callable[..., T], *args: Any) -> Future[T]:
        self.future = future = self._executor.submit(func, *args)
        return future


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with virtual time, for tests of code that waits.

    ``loop.time()`` starts at `start` and stands still while callbacks run. When nothing is ready,
    it jumps to the next timer, so ``asyncio.sleep(3600)`` takes no real time. Everything that asks
    the loop for the time works: `asyncio.timeout`, `asyncio.wait_for`, anyio's scopes and sleeps.
    ``time.monotonic()`` and the wall clock are not touched.

    Order, always the same for the same program and seed:

    - Timers fire in the order of their due time; times that agree to the nanosecond are the same.
    - Timers due at the same time fire in the order they were scheduled in, or, with a seed, in an
      order shuffled by it.
    - Callbacks of ``call_soon`` run in the order they were scheduled in, with or without a seed.
    - Time never goes back, and never moves while anything is ready to run.

    Worker threads: time stands still while one is out, from the call to the delivery of its
    result, and for as long as the thread runs if nobody waits for it any more. That covers
    `run_in_executor`, `asyncio.to_thread`, `anyio.to_thread.run_sync`, and whoever calls
    `hold_clock` and `release_clock`; threads nobody announced in one of these ways are not waited
    for while a timer is pending. The order in which several threads come back is theirs, and no
    seed repeats it. A thread that waits for time to pass on this loop waits in vain.

    Real I/O is polled before every jump and otherwise not waited for: while sockets or
    subprocesses matter, use `clock_held`.

    Args:
        seed: Seed of the order of timers due at the same time; ``None`` for scheduling order.
        start: The time at the beginning, in seconds; 0 by default.
        real_wait: Real seconds (default 1) to wait when nothing is ready and no timer is pending,
            for a signal, another thread or I/O to wake the loop, before
            `VirtualClockDeadlockError`. Not waited at all where none of them exists.
        hold_limit: Real seconds (default 30) to wait for a worker thread or another holder of the
            clock, with nothing else to do, before `VirtualClockDeadlockError`; ``None`` for no
            limit.

    Example::

        async def main() -> float:
            await asyncio.sleep(3600)
            return asyncio.get_running_loop().time()

        assert run_virtual(main) == 3600.0
    """

    if TYPE_CHECKING:
        _ready: deque[asyncio.Handle]
        _scheduled: list[OrderedTimer]
        _clock_resolution: float
        _default_executor: ThreadPoolExecutor | None
        _signal_handlers: dict[int, asyncio.Handle]

        def _check_closed(self) -> None: ...
        def _check_thread(self) -> None: ...
        def _check_callback(self, callback: object, method: str) -> None: ...
        def _check_default_executor(self) -> None: ...

    def __init__(
        self,
        *,
        seed: int | None = None,
        start: float = 0.0,
        real_wait: float = 1.0,
        hold_limit: float | None = 30.0,
    ) -> None:
        self._now = float(start)
        self._seed = seed
        self._random = None if seed is None else random.Random(seed)  # noqa: S311 - not a secret
        self._sequence = itertools.count()
        self._real_wait = real_wait
        self._hold_limit = math.inf if hold_limit is None else hold_limit
        self._holds = 0
        selector = IdleSelector()
        super().__init__(selector)
        selector.idle = self._idle
        self._set_resolution()

    # -- the clock ---------------------------------------------------------------------------

    @property
    def seed(self) -> int | None:
        """Seed of the order of timers due at the same time; ``None`` for scheduling order."""
        return self._seed

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self._now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback at a virtual time; see the class for the order.

        Raises:
            ValueError: `when` is not a number.
        """
        if math.isnan(when):
            raise ValueError("a timer can't be due at NaN")
        self._check_closed()
        if self.get_debug():
            self._check_thread()
            self._check_callback(callback, "call_at")
        timer = OrderedTimer(
            when,
            callback,
            args,
            self,
            context,
            tie_break=0.0 if self._random is None else self._random.random(),
            sequence=next(self._sequence),
        )
        timer.push(self._scheduled)
        return timer

    def hold_clock(self) -> None:
        """Stop the clock until `release_clock` was called as often as this.

        Call it on the loop's thread, before the work leaves it.

        Raises:
            RuntimeError: Called in another thread.
        """
        self._check_thread()
        self._holds += 1

    def release_clock(self) -> None:
        """Take back one `hold_clock`.

        Call it on the loop's thread, when the result has been delivered: in the same callback, or
        in one scheduled behind it.

        Raises:
            RuntimeError: There is nothing to take back, or called in another thread.
        """
        self._check_thread()
        if not self._holds:
            raise RuntimeError("release_clock() without hold_clock()")
        self._holds -= 1

    @contextlib.contextmanager
    def clock_held(self) -> Generator[None]:
        """Hold the clock for a block, as for real I/O."""
        self.hold_clock()
        try:
            yield
        finally:
            self.release_clock()

    # -- worker threads ----------------------------------------------------------------------

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a function in a thread, and hold the clock until its result has been delivered."""
        self._check_closed()
        if executor is None:
            self._check_default_executor()
            if self._default_executor is None:
                self.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
            executor = self._default_executor
            assert executor is not None
        submitted = _Submitted(executor)
        # The base class asks for no more than `submit`.
        result = super().run_in_executor(cast("Executor", submitted), func, *args)
        assert submitted.future is not None
        self.hold_clock()
        # Behind the callback by which the base class delivers the result, so released after it.
        # On the thread's future, not on `result`: that one is done as soon as it is cancelled,
        # while the thread is still out.
        submitted.future.add_done_callback(self._post_release)
        return result

    def _post_release(self, _: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed under the thread
            self.call_soon_threadsafe(self.release_clock)

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the threads of the default executor; the clock is held meanwhile."""
        with self.clock_held():
            await super().shutdown_default_executor(*args, **kwargs)

    # -- when nothing is ready ---------------------------------------------------------------

    def _idle(self, selector: selectors.BaseSelector) -> Ready:
        # Looked at before the poll: a worker that reports in between is then seen by the poll.
        out = self._out()
        events = selector.select(0)
        if events or self._ready:  # another thread fills _ready first and wakes the selector next
            return events
        if out:
            return self._wait(selector, self._hold_limit, until=lambda: not self._out())
        if self._scheduled and self._scheduled[0].when() < math.inf:
            self._now = max(self._now, latest_of_first_slot(self._scheduled))
            self._set_resolution()
            return events
        wait = self._real_wait if self._can_be_woken(selector) else 0.0
        return self._wait(selector, wait, until=lambda: False)

    def _out(self) -> int:
        return self._holds + busy_anyio_workers(self)

    def _can_be_woken(self, selector: selectors.BaseSelector) -> bool:
        own_pipe = 1
        return (
            threading.active_count() > 1
            or len(selector.get_map()) > own_pipe
            or bool(self._signal_handlers)
        )

    def _wait(
        self, selector: selectors.BaseSelector, limit: float, *, until: Callable[[], bool]
    ) -> Ready:
        start = time.monotonic()
        while (left := start + limit - time.monotonic()) > 0:
            events = selector.select(min(left, _LOOK_UP_EVERY))
            if events or self._ready or until():
                return events
        raise self._deadlock(limit)

    def _deadlock(self, waited: float) -> VirtualClockDeadlockError:
        tasks = tuple(sorted(describe_task(task) for task in asyncio.all_tasks(self)))
        held = self._out()
        if held:
            why = (
                f"the clock is held {held} time(s), by worker threads or hold_clock(), and nobody "
                f"came back within {waited:g} s of real time"
            )
        else:
            why = "no callback is ready, no timer is pending, no worker thread is out, and " + (
                f"nothing else woke it within {waited:g} s of real time"
                if waited
                else "there is no other thread, no I/O and no signal handler"
            )
        lines = [f"nothing can wake the loop at virtual time {self._now:g} s: {why}"]
        lines += ["waiting tasks:", *(f"  {line}" for line in tasks)] if tasks else []
        return VirtualClockDeadlockError(
            "\n".join(lines), time_s=self._now, waited_s=waited, held=held, tasks=tasks
        )

    def _set_resolution(self) -> None:
        # asyncio fires what is due before time + resolution. With the distance to the next float
        # that is: due now or earlier, and never nothing, however large the time is.
        self._clock_resolution = math.ulp(self._now)


def run_virtual(
    main: Callable[[], Coroutine[Any, Any, T]],
    *,
    seed: int | None = None,
    start: float = 0.0,
    real_wait: float = 1.0,
    hold_limit: float | None = 30.0,
    debug: bool | None = None,
) -> T:
    """Run a coroutine function on a new `VirtualClockLoop` and return its result.

    The loop is closed at the end; tasks still running are cancelled first, as `asyncio.run` does.

    Args:
        main: Called without arguments; what it returns is awaited.
        seed: See `VirtualClockLoop`, as for `start`, `real_wait` and `hold_limit`.
        start: The time at the beginning, in seconds.
        real_wait: Real seconds to wait for the outside world.
        hold_limit: Real seconds to wait for a worker thread.
        debug: asyncio's debug mode; ``None`` leaves it as the interpreter was started.

    Raises:
        VirtualClockDeadlockError: Nothing could wake the loop any more.
    """
    factory = functools.partial(
        VirtualClockLoop, seed=seed, start=start, real_wait=real_wait, hold_limit=hold_limit
    )
    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        return runner.run(main())
