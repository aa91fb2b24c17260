"""Who caused a publication: what travels beside an event, and where running code finds it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventflow.events import Event

__all__ = (
    "Attempt",
    "Carrier",
    "Cause",
    "Envelope",
    "Lane",
    "Origin",
    "Receipt",
    "Undecoded",
    "current_attempt",
    "current_cause",
    "envelope",
    "event_of",
    "tell",
)


class Receipt:
    """What becomes of one event at every subscription that it was offered to; for bridges.

    Each of them tells once. No I/O, and nothing of it is visible to who publishes on the bus.

    Attributes:
        is_done: Whether all that have told are done with the event: they handled it, or their
            failure policy went through. ``False`` once one has lost it.
    """

    __slots__ = ("_open", "_watcher", "is_done")

    def __init__(self) -> None:
        self._open = 0
        self._watcher: asyncio.Future[None] | None = None
        self.is_done = True

    def expect(self, count: int) -> None:
        """So many subscriptions will tell."""
        self._open = count

    def end(self, *, done: bool) -> None:
        """Tell that one subscription is done with the event, or has lost it."""
        self._open -= 1
        self.is_done = self.is_done and done
        watcher = self._watcher
        if not self._open and watcher is not None and not watcher.done():
            watcher.set_result(None)

    async def wait(self) -> None:
        """Wait until every subscription has told."""
        if self._open:
            self._watcher = asyncio.get_running_loop().create_future()
            await self._watcher


class Carrier:
    """What brings an event to a handler, and knows what came along with it."""

    __slots__ = ()

    @property
    def carried(self) -> Envelope:
        """The event, and what came along with it."""
        raise NotImplementedError


class Envelope(Carrier):
    """An event on its way, with what belongs to this publication.

    Only publications that carry something need one: those from inside a handler, and those
    with metadata. The others travel as the bare event. Ids are held as the events they are
    ids of, so that nobody pays for making an id which nobody reads.

    Attributes:
        receipt: Of an event that a bridge brought from a broker; else ``None``.
    """

    __slots__ = ("causation", "correlation", "event", "metadata", "receipt")

    def __init__(
        self,
        event: Event,
        correlation: Event | str | None,
        causation: Event | str | None,
        metadata: Mapping[str, str] | None,
        receipt: Receipt | None = None,
    ) -> None:
        self.event = event
        self.correlation = correlation
        self.causation = causation
        self.metadata = metadata
        self.receipt = receipt

    @property
    def carried(self) -> Envelope:
        return self


class Undecoded:
    """Stands in the place of the event where a handler gets the message as it came.

    It is known by the message's id and topic, in logs and as the cause of what is published.
    """

    __slots__ = ("id", "topic")

    def __init__(self, message_id: str, topic: str) -> None:
        self.id = message_id
        self.topic = topic


class Lane(Protocol):
    """What an attempt needs to know of where it runs."""

    @property
    def bus(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def timeout(self) -> float | None: ...


class Attempt:
    """One attempt at handling an event.

    A worker writes one event after another into the same object, as long as nobody but the
    worker refers to it: see `eventflow.lifecycle.isolation`. So whoever holds it may take it
    for immutable.

    Attributes:
        item: The event, or what carries it; ``None`` in a cell between two events.
        lane: Where it runs.
        number: Number of the attempt, from 1.
        started: Loop time at its start.
    """

    __slots__ = ("item", "lane", "number", "started")

    def __init__(self, item: Event | Carrier, lane: Lane, number: int, started: float) -> None:
        self.item = item
        self.lane = lane
        self.number = number
        self.started = started


class Origin:
    """What `publishing` adds to the publications made inside it."""

    __slots__ = ("attempt", "correlation", "metadata")

    def __init__(
        self,
        attempt: Attempt | None,
        correlation: Event | str | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self.attempt = attempt
        self.correlation = correlation
        self.metadata = metadata


Cause = Attempt | Origin

# One variable for all, so that a publish looks in one place.
current_cause: ContextVar[Cause | None] = ContextVar("eventflow_cause", default=None)


def current_attempt() -> Attempt | None:
    """The attempt that the running code belongs to."""
    cause = current_cause.get()
    attempt = cause.attempt if isinstance(cause, Origin) else cause
    if attempt is None:
        return None
    # Between two events a worker's cell is empty, against its type; finalizers can run there.
    return None if cast("object", attempt.item) is None else attempt


def event_of(item: Event | Carrier) -> Event:
    """The event inside an item of a buffer."""
    return item.carried.event if isinstance(item, Carrier) else item


def tell(item: Event | Carrier, *, done: bool) -> None:
    """Tell who waits for it that a subscription is done with an item, or has lost it."""
    if isinstance(item, Envelope) and item.receipt is not None:
        item.receipt.end(done=done)


def envelope(event: Event, cause: Cause) -> Envelope:
    """Put beside an event what its publication carries on from where it is published."""
    origin = cause if isinstance(cause, Origin) else None
    attempt = cause.attempt if isinstance(cause, Origin) else cause
    causation = None if attempt is None else event_of(attempt.item)
    correlation: Event | str | None = None if origin is None else origin.correlation
    if correlation is None and attempt is not None:
        item = attempt.item
        correlation = (item.carried.correlation if isinstance(item, Carrier) else None) or causation
    return Envelope(event, correlation, causation, None if origin is None else origin.metadata)
