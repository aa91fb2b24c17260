"""Who caused a publication: what travels beside an event, and where running code finds it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventflow.events import Event

__all__ = (
    "Attempt",
    "Cause",
    "Envelope",
    "Lane",
    "Origin",
    "Undecoded",
    "current_attempt",
    "current_cause",
    "envelope",
    "event_of",
)


class Envelope:
    """An event on its way, with what belongs to this publication.

    Only publications that carry something need one: those from inside a handler, and those
    with metadata. The others travel as the bare event. Ids are held as the events they are
    ids of, so that nobody pays for making an id which nobody reads.
    """

    __slots__ = ("causation", "correlation", "event", "metadata")

    def __init__(
        self,
        event: Event,
        correlation: Event | str | None,
        causation: Event | str | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self.event = event
        self.correlation = correlation
        self.causation = causation
        self.metadata = metadata


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
        item: The event, or its envelope; ``None`` in a cell between two events.
        lane: Where it runs.
        number: Number of the attempt, from 1.
        started: Loop time at its start.
    """

    __slots__ = ("item", "lane", "number", "started")

    def __init__(self, item: Event | Envelope, lane: Lane, number: int, started: float) -> None:
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


def event_of(item: Event | Envelope) -> Event:
    """The event inside an item of a buffer."""
    return item.event if isinstance(item, Envelope) else item


def envelope(event: Event, cause: Cause) -> Envelope:
    """Put beside an event what its publication carries on from where it is published."""
    origin = cause if isinstance(cause, Origin) else None
    attempt = cause.attempt if isinstance(cause, Origin) else cause
    causation = None if attempt is None else event_of(attempt.item)
    correlation: Event | str | None = None if origin is None else origin.correlation
    if correlation is None and attempt is not None:
        item = attempt.item
        correlation = (item.correlation if isinstance(item, Envelope) else None) or causation
    return Envelope(event, correlation, causation, None if origin is None else origin.metadata)
