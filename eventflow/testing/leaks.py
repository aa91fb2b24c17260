"""Find the tasks, threads and timers that code left behind."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from eventflow.testing._describe import callback_name, describe_task, describe_thread
from eventflow.testing._workers import is_idle_anyio_worker
from eventflow.testing.errors import LeakError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

__all__ = ("no_leaks",)

# Named so by `loop.run_in_executor`; the threads stay with the loop until it is closed.
_DEFAULT_EXECUTOR_PREFIX = "asyncio_"
_OUR_THREADS_PREFIX = "eventflow"


@contextlib.contextmanager
def no_leaks(*, allow: Iterable[str] = (), thread_grace: float = 1.0) -> Generator[None]:
    """Fail if a block leaves tasks, threads or timers that were not there before it.

    Looked at when the block ends, without giving the loop another turn:

    - **tasks** of the running loop that are not done, a task that was cancelled but not awaited
      included;
    - **timers** of the running loop that were not cancelled, except those a task sleeps or
      waits with (loops that don't show their timers, such as uvloop's, are not asked);
    - **threads** that are alive and would keep the interpreter from ending, and daemon threads
      whose name starts with ``eventflow``. Threads that wait for work in anyio's pool or in the
      loop's default executor are left alone; a worker of anyio's that is still working is not.

    Without a running loop only threads are looked at. A block that raises is not looked at, so
    the error that matters is the one seen.

    Args:
        allow: Patterns (``fnmatch``) of what may stay: names of tasks, of their coroutine
            functions, of threads, of timers' callbacks (``module.qualified_name``).
        thread_grace: Real seconds, default 1, that a thread gets to end; waited only when one
            is there, and the loop stands still meanwhile.

    Raises:
        LeakError: Something was left; the message has one line for each.

    Example::

        async def test_nothing_is_left() -> None:
            with no_leaks():
                async with EventBus() as bus:
                    ...
    """
    before = _Snapshot.take()
    yield
    before.check(allow=tuple(allow), thread_grace=thread_grace)


@dataclass(frozen=True)
class _Snapshot:
    """What was there at one moment. Keeps it alive, so that identities stay unique."""

    tasks: frozenset[asyncio.Task[Any]]
    timers: tuple[asyncio.TimerHandle, ...]
    threads: frozenset[threading.Thread]

    @classmethod
    def take(cls) -> _Snapshot:
        """Look at the running loop, if there is one, and at the threads."""
        loop = _running_loop()
        return cls(
            tasks=frozenset() if loop is None else frozenset(asyncio.all_tasks(loop)),
            timers=() if loop is None else _timers(loop),
            threads=frozenset(threading.enumerate()),
        )

    def check(self, *, allow: Sequence[str], thread_grace: float) -> None:
        """Raise `LeakError` for what is there now, was not there then, and is not allowed."""
        loop = _running_loop()
        tasks: tuple[str, ...] = ()
        timers: tuple[str, ...] = ()
        if loop is not None:
            tasks = self._new_tasks(loop, allow)
            timers = self._new_timers(loop, allow)
        threads = self._new_threads(allow, thread_grace)
        if not (tasks or timers or threads):
            return
        lines = [
            *(f"task {line}" for line in tasks),
            *(f"thread {line}" for line in threads),
            *(f"timer {line}" for line in timers),
        ]
        raise LeakError(
            "\n  ".join((f"{len(lines)} left behind:", *lines)),
            tasks=tasks,
            threads=threads,
            timers=timers,
        )

    def _new_tasks(self, loop: asyncio.AbstractEventLoop, allow: Sequence[str]) -> tuple[str, ...]:
        own = {asyncio.current_task(loop)}
        return tuple(
            sorted(
                describe_task(task)
                for task in asyncio.all_tasks(loop) - self.tasks - own
                if not _allowed(
                    allow, task.get_name(), getattr(task.get_coro(), "__qualname__", "")
                )
            )
        )

    def _new_timers(self, loop: asyncio.AbstractEventLoop, allow: Sequence[str]) -> tuple[str, ...]:
        # By identity: two timers are equal when their time and callback are.
        known = {id(timer) for timer in self.timers}
        tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        lines: list[str] = []
        for timer in sorted(_timers(loop), key=asyncio.TimerHandle.when):
            name = callback_name(getattr(timer, "_callback", None))
            if id(timer) in known or _owned_by_one_of(tasks, timer) or _allowed(allow, name):
                continue
            lines.append(f"{name}, due in {timer.when() - loop.time():g} s")
        return tuple(lines)

    def _new_threads(self, allow: Sequence[str], grace: float) -> tuple[str, ...]:
        suspects = [
            thread
            for thread in threading.enumerate()
            if thread not in self.threads
            and thread is not threading.current_thread()
            and (not thread.daemon or thread.name.startswith(_OUR_THREADS_PREFIX))
            and not thread.name.startswith(_DEFAULT_EXECUTOR_PREFIX)
            and not is_idle_anyio_worker(thread)
            and not _allowed(allow, thread.name)
        ]
        deadline = time.monotonic() + grace
        for thread in suspects:  # one that has done its work may still be on its way out
            thread.join(max(0.0, deadline - time.monotonic()))
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
        return tuple(
            describe_thread(thread, frames.get(thread.ident or 0))
            for thread in suspects
            if thread.is_alive()
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _timers(loop: asyncio.AbstractEventLoop) -> tuple[asyncio.TimerHandle, ...]:
    scheduled: Iterable[asyncio.TimerHandle] = getattr(loop, "_scheduled", ())
    return tuple(timer for timer in scheduled if not timer.cancelled())


def _owned_by_one_of(tasks: set[asyncio.Task[Any]], timer: asyncio.TimerHandle) -> bool:
    """Whether a timer ends a wait or a timeout of one of these tasks.

    The task is reported, or was there before, or is allowed; its timer is no news then.
    """
    # What a sleep, or a wait with a timeout, will wake.
    waited_for = {id(getattr(task, "_fut_waiter", None)) for task in tasks}
    args: tuple[object, ...] = getattr(timer, "_args", None) or ()
    if any(id(arg) in waited_for for arg in args if arg is not None):
        return True
    # asyncio.Timeout and anyio.CancelScope.
    scope = getattr(getattr(timer, "_callback", None), "__self__", None)
    owners = {getattr(scope, "_task", None), getattr(scope, "_host_task", None)}
    return not tasks.isdisjoint(owners)


def _allowed(patterns: Sequence[str], *names: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
