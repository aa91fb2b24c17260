"""A publisher that keeps what was published, for assertions."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from eventflow.errors import EventDefinitionError
from eventflow.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.events import EventPublisher

__all__ = ("EventCapture",)

E = TypeVar("E", bound=Event)

_MAX_VALUE = 60  # characters of one field
_MAX_LINE = 200  # characters of one event
_MAX_EVENTS = 50  # events in one message


class EventCapture:
    """An `EventPublisher` that records every event, in the order of the calls.

    Give it to the code under test in place of a bus, or in front of one. It keeps every event
    until `clear`: it is made for tests and has no bound.

    Asking for a class gives its subclasses too, as a subscription does.

    Args:
        forward_to: Where each event goes after it was recorded; ``None`` for nowhere. An error
            from there reaches the caller, and the event stays recorded.

    Example::

        capture = EventCapture()
        await Checkout(capture).place_order("o-1")
        capture.assert_published(OrderPlaced, where=lambda e: e.order_id == "o-1", times=1)
    """

    def __init__(self, forward_to: EventPublisher | None = None) -> None:
        self._forward_to = forward_to
        self._events: list[Event] = []

    def __repr__(self) -> str:
        return f"<EventCapture of {len(self._events)} event(s)>"

    async def publish(self, event: Event) -> None:
        """Record an event, and hand it on if there is somewhere to.

        Raises:
            EventDefinitionError: Not an event, or of a class without a topic, which no publisher
                takes; nothing was recorded.
        """
        if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
            name = type(event).__name__
            raise EventDefinitionError(f"{name} is not an Event", event=name)
        if event.topic is None:
            name = type(event).__name__
            raise EventDefinitionError(
                f"{name} has no topic, so it is a base class; publish one of its subclasses, or "
                f"give it a topic: class {name}(Event, topic=...)",
                event=name,
            )
        self._events.append(event)
        if self._forward_to is not None:
            await self._forward_to.publish(event)

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything recorded, oldest first."""
        return tuple(self._events)

    def clear(self) -> None:
        """Forget everything recorded."""
        self._events.clear()

    def published(
        self, event_type: type[E], *, where: Callable[[E], bool] | None = None
    ) -> tuple[E, ...]:
        """The recorded events of a class, oldest first.

        Args:
            event_type: The class; subclasses count.
            where: Keeps those it is true for; ``None`` keeps all.
        """
        of_type = (event for event in self._events if isinstance(event, event_type))
        return tuple(event for event in of_type if where is None or where(event))

    def assert_published(
        self,
        event_type: type[E],
        *,
        where: Callable[[E], bool] | None = None,
        times: int | None = None,
    ) -> tuple[E, ...]:
        """Check that events of a class were published.

        Args:
            event_type: The class; subclasses count.
            where: What else must be true of them.
            times: How many, exactly; ``None`` for one or more.

        Returns:
            The events that were found, oldest first.

        Raises:
            AssertionError: It is not so; the message lists what was published.
        """
        __tracebackhide__ = True
        found = self.published(event_type, where=where)
        if len(found) == times or (times is None and found):
            return found
        wanted = "at least once" if times is None else f"{times} time(s)"
        raise AssertionError(
            self._report(
                f"expected {event_type.__name__} to be published {wanted}, "
                f"found {self._count(event_type, where, len(found))}"
            )
        )

    def assert_not_published(
        self, event_type: type[E] | None = None, *, where: Callable[[E], bool] | None = None
    ) -> None:
        """Check that no event of a class was published.

        Args:
            event_type: The class; subclasses count. ``None`` for no event at all.
            where: Only those it is true for count.

        Raises:
            AssertionError: There was one; the message lists what was published.
        """
        __tracebackhide__ = True
        # `where` then takes any event, which is what E is without a class.
        wanted: type[E] = Event if event_type is None else event_type  # type: ignore[assignment]
        found = self.published(wanted, where=where)
        if found:
            name = "nothing" if event_type is None else f"no {event_type.__name__}"
            count = self._count(wanted, where, len(found))
            raise AssertionError(self._report(f"expected {name} to be published, found {count}"))

    def assert_published_in_order(self, *expected: type[Event] | Event) -> None:
        """Check that events were published one after another; others may stand between them.

        Args:
            *expected: Classes (subclasses count) or events (equal by their fields).

        Raises:
            AssertionError: One did not come, or came too early; the message names it and lists
                what was published.
        """
        __tracebackhide__ = True
        rest = iter(self._events)
        for number, wanted in enumerate(expected, start=1):
            if not any(_fits(event, wanted) for event in rest):
                after = "" if number == 1 else f" after {_name(expected[number - 2])}"
                raise AssertionError(
                    self._report(
                        f"expected {', '.join(map(_name, expected))} in this order; "
                        f"number {number}, {_name(wanted)}, did not come{after}"
                    )
                )

    def _count(self, event_type: type[E], where: Callable[[E], bool] | None, found: int) -> str:
        text = str(found) if found else "none"
        if where is None:
            return text
        return f"{text} that fit(s) `where`, of {len(self.published(event_type))}"

    def _report(self, problem: str) -> str:
        return "\n".join((problem, *_listed(self._events)))


def _fits(event: Event, wanted: type[Event] | Event) -> bool:
    return isinstance(event, wanted) if isinstance(wanted, type) else event == wanted


def _name(wanted: type[Event] | Event) -> str:
    return wanted.__name__ if isinstance(wanted, type) else _describe(wanted)


def _listed(events: Sequence[Event]) -> list[str]:
    if not events:
        return ["nothing was published"]
    lines = [f"published, oldest first ({len(events)}):"]
    lines += [
        f"  {number}. {_describe(event)}"
        for number, event in enumerate(events[:_MAX_EVENTS], start=1)
    ]
    if len(events) > _MAX_EVENTS:
        lines.append(f"  … and {len(events) - _MAX_EVENTS} more")
    return lines


def _describe(event: Event) -> str:
    fields = ", ".join(
        f"{name}={_cut(repr(getattr(event, name)), _MAX_VALUE)}"
        for name in type(event).model_fields
    )
    return _cut(f"{type(event).__name__} ({event.topic}) {fields}".rstrip(), _MAX_LINE)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
