"""What belongs to one publication of an event, as its handler sees it: `current()`.

An event says what happened and can be published twice. Who caused this publication, which
attempt at handling it this is, and how long that may take travel beside it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from eventflow._cause import Carrier, Origin, Undecoded, current_attempt, current_cause
from eventflow._texts import check_texts, is_text
from eventflow.errors import InvalidOptionError, NotInHandlerError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from eventflow._cause import Attempt
    from eventflow.events import Event

__all__ = ("EventContext", "current", "publishing")

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


@contextmanager
def publishing(
    *, correlation_id: str | None = None, metadata: Mapping[str, str] | None = None
) -> Generator[None]:
    """Give the events published inside the block something to carry.

    A publisher needs no arguments for it, so a service that only knows `EventPublisher` can
    be called inside such a block, by a web framework's middleware for example. Blocks nest:
    what the inner one does not name, it has from the outer one. Works in the task that
    enters it and in what that starts.

    Args:
        correlation_id: Id of the first cause, such as a request id; one character or more.
            Default: inside a handler that of the event being handled, else the event's own id.
        metadata: Custom texts, read by handlers as ``current().metadata``. Names that mean
            something to eventflow or to Watermill (``name``, ``correlation_id``,
            ``causation_id``, ``eventflow_…``, ``_watermill_…``) can't be given.

    Raises:
        InvalidOptionError: An empty correlation id, or metadata that is not text to text, or
            has a name that is taken.

    Example::

        with publishing(correlation_id=request_id):
            await bus.publish(OrderPlaced(order_id="A-1", amount_cents=1990))
    """
    given: object = correlation_id
    if given is not None and not (given and is_text(given)):
        raise InvalidOptionError(
            f"correlation_id must be a text of one character or more, not {correlation_id!r}",
            option="correlation_id",
        )
    texts = None if metadata is None else check_texts(metadata)
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
        subscription: Name of the subscription or handler.
        attempt: Number of this attempt, from 1.
        deadline: Time of the event loop's clock (`asyncio.loop.time`) at which this attempt
            times out; ``None`` without a timeout.
        metadata: Custom metadata given to `publishing`; read-only, empty by default.
    """

    subscription: str
    attempt: int
    deadline: float | None
    metadata: Mapping[str, str]
    _event: Event
    _correlation: Event | str | None
    _causation: Event | str | None

    @classmethod
    def of(cls, attempt: Attempt) -> EventContext:
        """The context of an attempt."""
        item, lane, number = attempt.item, attempt.lane, attempt.number
        deadline = None if lane.timeout is None else attempt.started + lane.timeout
        if isinstance(item, Carrier):
            came = item.carried
            metadata, causes = came.metadata or _NO_METADATA, (came.correlation, came.causation)
            return cls(lane.name, number, deadline, metadata, came.event, *causes)
        return cls(lane.name, number, deadline, _NO_METADATA, item, None, None)

    @property
    def event(self) -> Event:
        """The event.

        Raises:
            NotInHandlerError: The handler is bound to a topic of a router by name: it gets the
                message as it came, and no event was made of it.
        """
        if isinstance(cast("object", self._event), Undecoded):
            raise NotInHandlerError(
                f"{self.subscription} is bound to a topic by name: it gets messages, and there is "
                "no event; event_id and topic are those of the message"
            )
        return self._event

    @property
    def event_id(self) -> str:
        """Id of the event, or of the message."""
        return self._event.id

    @property
    def topic(self) -> str:
        """Topic of the event."""
        return self._event.topic or ""

    @property
    def correlation_id(self) -> str:
        """Id shared by all that one first cause led to: the first event's id, unless given."""
        return _id_of(self._correlation) or self._event.id

    @property
    def causation_id(self) -> str | None:
        """Id of the event whose handler published this one; ``None`` for a first cause."""
        return _id_of(self._causation)


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
    return EventContext.of(attempt)
