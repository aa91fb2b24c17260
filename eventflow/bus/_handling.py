"""How the events of one subscription are handled: on the loop or in a thread, with its resource."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from eventflow.lifecycle.callables import is_async

if TYPE_CHECKING:
    import asyncio

    from eventflow.bus._inbox import Inbox
    from eventflow.bus._worker import Worker
    from eventflow.events import Event
    from eventflow.lifecycle.threads import ThreadRunner

__all__ = ("Handling",)

Call = Callable[["Event"], Awaitable[object]]


class Handling:
    """How the events of one subscription are handled: what its workers share.

    Attributes:
        inbox: Where the events come from.
        loop: The event loop.
        cancel_grace: Seconds between a handler's first and second cancellation.
        new_context: Makes the context of a worker's task: a copy of the one at bus entry.
        timer_context: The context of the workers' timers.
        replace: Called by a worker whose context is used up, with its successor.
    """

    __slots__ = (
        "_handler",
        "_resource",
        "_threads",
        "cancel_grace",
        "inbox",
        "loop",
        "new_context",
        "replace",
        "timer_context",
    )

    def __init__(
        self,
        inbox: Inbox,
        handler: Callable[..., Any],
        *,
        loop: asyncio.AbstractEventLoop,
        threads: ThreadRunner,
        cancel_grace: float,
        new_context: Callable[[], contextvars.Context],
        replace: Callable[[Worker, Worker], None],
    ) -> None:
        self.inbox = inbox
        self.loop = loop
        self.cancel_grace = cancel_grace
        self.new_context = new_context
        self.timer_context = contextvars.Context()
        self.replace = replace
        self._threads = threads
        self._handler = handler
        self._resource: tuple[object, ...] = ()

    def use_resource(self, value: object) -> None:
        """From now on, handlers get this as second argument."""
        self._resource = (value,)

    def call_for(self, worker: Worker) -> Call:
        """How ``worker`` calls the handler with an event."""
        handler, resource = self._handler, self._resource
        if is_async(handler):
            if not resource:
                return handler
            return lambda event: handler(event, *resource)
        return lambda event: worker.call_in_thread(self._threads, handler, event, *resource)
