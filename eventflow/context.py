"""What belongs to one publication of an event, as its handler sees it: `current()`.

An event says what happened and can be published twice. Who caused this publication, which
attempt at handling it this is, and how long that may take travel beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from eventflow.errors import InvalidOptionError, NotInHandlerError

if TYPE_CHECKING:
    from eventflow.events import Event

__all__ = ("EventContext", "current", "publishing")

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


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


class Lane(Protocol):
    """What an attempt needs to know of where it runs."""

    @property
    def name(self) -> str: ...

    @property
    def timeout(self) -> float | None: ...


# (event or envelope, where it runs, number of the attempt, loop time at its start). A plain
# tuple: it is made for every attempt. Each attempt sets a new one, so that a task that
# outlives its handler keeps the event it was started for.
Attempt = tuple["Event | Envelope", Lane, int, float]


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


# One variable for both, so that a publish looks in one place.
current_cause: ContextVar[Attempt | Origin | None] = ContextVar("eventflow_cause", default=None)


def current_attempt() -> Attempt | None:
    """The attempt that the running code belongs to."""
    cause = current_cause.get()
    return cause.attempt if isinstance(cause, Origin) else cause


def event_of(item: Event | Envelope) -> Event:
    """The event inside an item of a buffer."""
    return item.event if type(item) is Envelope else item  # type: ignore[return-value]


def envelope(event: Event, cause: Attempt | Origin) -> Envelope:
    """Put beside an event what its publication carries on from where it is published."""
    origin = cause if isinstance(cause, Origin) else None
    attempt = cause.attempt if isinstance(cause, Origin) else cause
    causation = None if attempt is None else event_of(attempt[0])
    correlation: Event | str | None = None if origin is None else origin.correlation
    if correlation is None and attempt is not None:
        item = attempt[0]
        correlation = (item.correlation if type(item) is Envelope else None) or causation
    return Envelope(event, correlation, causation, None if origin is None else origin.metadata)


@contextmanager
def publishing(
    *, correlation_id: str | None = None, metadata: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Give the events published inside the block something to carry.

    A publisher needs no arguments for it, so a service that only knows `EventPublisher` can
    be called inside such a block, by a web framework's middleware for example. Blocks nest:
    what the inner one does not name, it has from the outer one. Works in the task that
    enters it and in what that starts.

    Args:
        correlation_id: Id of the first cause, such as a request id; one character or more.
            Default: inside a handler that of the event being handled, else the event's own id.
        metadata: Custom texts, read by handlers as ``current().metadata``.

    Raises:
        InvalidOptionError: An empty correlation id, or metadata that is not text to text.

    Example::

        with publishing(correlation_id=request_id):
            await bus.publish(OrderPlaced(order_id="A-1", amount_cents=1990))
    """
    if correlation_id is not None and not (isinstance(correlation_id, str) and correlation_id):
        raise InvalidOptionError(
            f"correlation_id must be a text of one character or more, not {correlation_id!r}",
            option="correlation_id",
        )
    texts = None if metadata is None else dict(metadata)
    if texts and not all(isinstance(text, str) for pair in texts.items() for text in pair):
        raise InvalidOptionError("metadata must map texts to texts", option="metadata")
    outer = current_cause.get()
    correlation: Event | str | None = correlation_id
    inherited: Mapping[str, str] | None = None
    if isinstance(outer, Origin):
        correlation = correlation or outer.correlation
        inherited = outer.metadata
    merged = MappingProxyType({**(inherited or {}), **texts}) if texts else inherited
    token = current_cause.set(Origin(current_attempt(), correlation, merged))
    try:
        yield
    finally:
        current_cause.reset(token)


def _id_of(source: Event | str | None) -> str | None:
    return source if source is None or isinstance(source, str) else source.id


@dataclass(frozen=True, slots=True)
class EventContext:
    """The publication that is being handled.

    Attributes:
        event: The event.
        subscription: Name of the subscription or handler.
        attempt: Number of this attempt, from 1.
        deadline: Time of the event loop's clock (`asyncio.loop.time`) at which this attempt
            times out; ``None`` without a timeout.
        metadata: Custom metadata given to `publishing`; read-only, empty by default.
    """

    event: Event
    subscription: str
    attempt: int
    deadline: float | None
    metadata: Mapping[str, str]
    _correlation: Event | str | None
    _causation: Event | str | None

    @property
    def event_id(self) -> str:
        """Id of the event."""
        return self.event.id

    @property
    def topic(self) -> str:
        """Topic of the event."""
        return self.event.topic or ""

    @property
    def correlation_id(self) -> str:
        """Id shared by all that one first cause led to: the first event's id, unless given."""
        return _id_of(self._correlation) or self.event.id

    @property
    def causation_id(self) -> str | None:
        """Id of the event whose handler published this one; ``None`` for a first cause."""
        return _id_of(self._causation)


def context_of(attempt: Attempt) -> EventContext:
    """What `current()` returns for an attempt."""
    item, lane, number, started = attempt
    deadline = None if lane.timeout is None else started + lane.timeout
    if type(item) is Envelope:
        return EventContext(
            item.event,
            lane.name,
            number,
            deadline,
            item.metadata or _NO_METADATA,
            item.correlation,
            item.causation,
        )
    return EventContext(item, lane.name, number, deadline, _NO_METADATA, None, None)  # type: ignore[arg-type]


def current() -> EventContext:
    """The publication being handled by the code that asks.

    Works in a handler, in what it awaits, in tasks it starts (which keep it, also beyond the
    handler's end) and in the threads of sync handlers.

    Raises:
        NotInHandlerError: Nothing is being handled here.

    Example::

        async def charge(event: OrderPlaced) -> None:
            log.info("charging", correlation_id=current().correlation_id)
    """
    attempt = current_attempt()
    if attempt is None:
        raise NotInHandlerError(
            "no event is being handled here: current() works inside handlers and what they start"
        )
    return context_of(attempt)
