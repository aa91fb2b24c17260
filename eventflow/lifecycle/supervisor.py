"""The owner of the tasks of a bus, a router or a service.

A scope may be entered in one task and left in another, as ASGI lifespans and pytest
fixtures do, and a handler may refuse to end. A task group in the caller's task can do
neither: it fails in the first case and waits for ever in the second. So each bus owns one
supervisor task, and the supervisor owns the workers, as plain asyncio tasks in a context of
their own. This is the one module of the project that makes tasks without a task group.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio

from eventflow._cause import current_cause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable

__all__ = ("Supervisor", "cancel_and_wait")

P = ParamSpec("P")
R = TypeVar("R")

LAST_WAIT_S = 0.2
"""What a task gets after its second cancellation, before it is given up."""


async def cancel_and_wait(
    tasks: Iterable[asyncio.Task[Any]], *, grace: float, spare_cancelled: bool = False
) -> set[asyncio.Task[Any]]:
    """Cancel tasks, once more after ``grace`` seconds, and return those that still run.

    asyncio's cancel, not a cancel scope: it is delivered once, so that a handler's clean-up
    may await. ``spare_cancelled`` passes over the first one where somebody was faster.
    """
    pending = {task for task in tasks if not task.done()}
    for wait in (grace, LAST_WAIT_S):
        if not pending:
            break
        for task in pending:
            if not (spare_cancelled and task.cancelling()):
                task.cancel()
        spare_cancelled = False
        _, pending = await asyncio.wait(pending, timeout=wait)
    return pending


class Supervisor:
    """Owns tasks from `start` to `stop`.

    ``stop(abort=False)`` may be called from any task of the loop, at any time, more than
    once. It runs ``on_stop`` in the supervisor's own task and returns when that has ended,
    even if the caller is cancelled meanwhile: a cancellation of a caller turns a drain into
    an abort. ``on_stop`` is called again if it is cancelled itself, so it can be repeated.
    """

    def __init__(self, name: str, *, on_stop: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._on_stop = on_stop
        self._tasks: set[asyncio.Task[Any]] = set()
        self._forget = self._tasks.discard
        self._loop = asyncio.get_running_loop()
        # The context of whoever enters the scope, without the event being handled there.
        self._context = contextvars.copy_context()
        self._context.run(current_cause.set, None)
        # One for all callbacks, which run one after another. Not the context of who calls: it
        # may be a handler's, which a callback would keep alive.
        self.callback_context = self._context.copy()
        self._stop: asyncio.Future[None] = self._loop.create_future()
        self.aborting: asyncio.Future[None] = self._loop.create_future()
        # Whoever cancels the supervisor has cancelled every task, as asyncio.run() does.
        self.cancelled = False
        self._main = self._new_task(self._run(), "supervisor", self.copy_context())

    def copy_context(self) -> contextvars.Context:
        """A fresh copy of the context that the scope was entered in."""
        return self._context.copy()

    def outside(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in a context that belongs to no handler, and forget what it binds."""
        return self._context.copy().run(function, *args, **kwargs)

    def _new_task(
        self, coro: Coroutine[Any, Any, Any], name: str, context: contextvars.Context
    ) -> asyncio.Task[Any]:
        # Not through the loop's task factory: an eager one would run the next worker inside
        # the one it replaces.
        return asyncio.Task(
            coro, loop=self._loop, name=f"eventflow:{self._name}:{name}", context=context
        )

    def spawn(
        self,
        coro: Coroutine[Any, Any, Any],
        name: str,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        """Start a task that belongs to this scope."""
        task = self._new_task(coro, name, context or self.copy_context())
        self._tasks.add(task)
        task.add_done_callback(self._forget, context=self.callback_context)
        return task

    @property
    def tasks(self) -> Collection[asyncio.Task[Any]]:
        """The tasks of the scope that have not ended, without the supervisor's own."""
        return self._tasks

    async def _run(self) -> None:
        try:
            await self._stop
        except asyncio.CancelledError:
            self.cancelled = True
            self.abort()
        while True:
            try:
                return await self._on_stop()
            except asyncio.CancelledError:
                # The loop is being shut down around us: no more draining, but the rest of
                # the stop still runs.
                self.cancelled = True
                self.abort()

    def abort(self) -> None:
        """End a drain, now or as soon as it begins."""
        if not self.aborting.done():
            self.aborting.set_result(None)

    @property
    def is_being_cancelled(self) -> bool:
        """Whether somebody cancels the supervisor, and with it every task of the loop."""
        return self.cancelled or self._main.cancelling() > 0

    def request_stop(self) -> asyncio.Future[None]:
        """Let ``on_stop`` run, without waiting for it; returns what is done then."""
        if not self._stop.done():
            self._stop.set_result(None)
        return self._main

    async def stop(self, *, abort: bool) -> None:
        """Run ``on_stop`` to its end; a cancellation while waiting turns into an abort."""
        if abort:
            self.abort()
        self.request_stop()
        cancelled: asyncio.CancelledError | None = None
        try:
            await asyncio.shield(self._main)
        except asyncio.CancelledError as exc:
            cancelled = exc
            self.abort()
        # anyio scopes cancel at every await; the shield makes that one cancellation again.
        with anyio.CancelScope(shield=True):
            while not self._main.done():
                try:
                    await asyncio.shield(self._main)
                except asyncio.CancelledError as exc:
                    cancelled = exc
                    self.abort()
        self._main.result()
        if cancelled is not None:
            raise cancelled
