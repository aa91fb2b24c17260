"""`EventStream`: events as an async iterator, handled in the reader's own task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

from eventflow._cause import event_of, tell
from eventflow.bus._binding import Selector, selector_name
from eventflow.bus._reports import log
from eventflow.errors import BusError, BusNotEnteredError
from eventflow.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from eventflow._cause import Attempt, Envelope
    from eventflow.bus._inbox import Inbox
    from eventflow.bus._options import Options
    from eventflow.bus._scope import Scope

__all__ = ("EventStream",)

E = TypeVar("E", bound=Event)


class EventStream(AsyncIterator[E], Generic[E]):
    """Events of one class, topic or pattern, for one ``async for``.

    Made by `EventBus.stream`. Subscribed from entering the block to leaving it. An event
    counts as handled when the next one is asked for, or the block is left normally; as
    failed when the block is left by an error, as cancelled when by a cancellation. The
    iteration ends when the bus stops: what is buffered then is still delivered while the bus
    drains.

    Read by one task at a time.
    """

    def __init__(
        self, open_scope: Callable[[], Scope], selector: Selector, options: Options
    ) -> None:
        self.selector = selector
        self._open_scope = open_scope
        self._options = options
        self._scope: Scope | None = None
        self._inbox: Inbox | None = None
        self._held: Event | Envelope | None = None
        self._reading = False

    @property
    def inbox(self) -> Inbox:
        """Its buffer and counts."""
        if self._inbox is None:
            raise BusNotEnteredError(
                "enter the stream first: `async with bus.stream(…) as events:`"
            )
        return self._inbox

    @property
    def attempt(self) -> Attempt | None:
        """Always ``None``: no handler runs."""
        return None

    @property
    def holds(self) -> bool:
        """Whether the reader has an event that it has not finished."""
        return self._held is not None

    async def __aenter__(self) -> Self:
        """Subscribe.

        Raises:
            BusNotEnteredError: The bus is not open.
            BusClosedError: It is stopping, or was left.
            BusError: The stream was entered before; make a new one.
        """
        if self._inbox is not None:
            raise BusError("a stream is entered once; call bus.stream(…) again for another")
        scope = self._scope = self._open_scope()
        name = scope.names.find(self._options.name, f"stream({selector_name(self.selector)})")
        inbox = self._inbox = scope.new_inbox(name, self._options)
        inbox.readers.add(self)
        scope.streams[name] = self
        scope.route(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unsubscribe. Events still buffered are counted and logged as released."""
        assert self._scope is not None
        inbox = self.inbox
        if self._held is not None:
            event = event_of(self._held)
            tell(self._held, done=exc is None or isinstance(exc, (Exception, GeneratorExit)))
            self._held = None
            if exc is None or isinstance(exc, GeneratorExit):
                # The latter: a generator around the stream was closed after it gave this event.
                inbox.handled += 1
            elif isinstance(exc, asyncio.CancelledError):
                inbox.cancelled += 1
                log.warning(
                    "eventflow.handler_cancelled",
                    subscription=inbox.name,
                    event_id=event.id,
                    topic=event.topic,
                )
            else:
                inbox.failed += 1
                log.error(
                    "eventflow.handler_failed",
                    error=exc,
                    subscription=inbox.name,
                    event_id=event.id,
                    topic=event.topic,
                    attempts=1,
                )
        inbox.unwanted = exc is None or isinstance(exc, GeneratorExit)
        if not inbox.closed:
            self._scope.unroute(self)
            self.end()
        self.finish()
        self._scope.forget(self)

    def __aiter__(self) -> Self:
        """The stream itself."""
        return self

    async def __anext__(self) -> E:
        """The next event; waits for it.

        Raises:
            StopAsyncIteration: The bus has stopped.
            BusError: Another task is reading.
        """
        inbox = self.inbox
        assert self._scope is not None
        if self._reading:
            raise BusError("a stream is read by one task at a time; open one for each")
        if self._held is not None:
            tell(self._held, done=True)
            self._held = None
            inbox.handled += 1
        inbox.fresh = False
        self._reading = True
        try:
            while not inbox.closed:
                taken = inbox.take()
                if taken is not None:
                    self._held = taken[1]
                    inbox.admit()
                    return cast("E", event_of(taken[1]))
                inbox.went_idle()
                future = self._scope.loop.create_future()
                inbox.idle.append(future)
                try:
                    await future
                finally:
                    if future in inbox.idle:
                        inbox.idle.remove(future)
                inbox.fresh = False
        finally:
            self._reading = False
        raise StopAsyncIteration

    def end(self) -> None:
        """Take nothing in any more; end the iteration."""
        self.inbox.close()
        self.inbox.wake()

    def finish(self) -> None:
        """Count what is left: an event still in the reader's hands is abandoned."""
        if self._held is not None:
            event = event_of(self._held)
            tell(self._held, done=False)
            self._held = None
            self.inbox.abandoned += 1
            log.error(
                "eventflow.reader_abandoned",
                subscription=self.inbox.name,
                event_id=event.id,
                topic=event.topic,
            )
        self.inbox.release_all()
        self.inbox.went_idle()
