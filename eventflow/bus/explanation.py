"""What `EventBus.explain` says: who would get an event, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from eventflow.events import Event

__all__ = ("ExplainedSubscription", "Explanation")

Reason = Literal[
    "class",
    "subclass",
    "topic",
    "pattern",
    "other_class",
    "other_topic",
    "depends_on_class",
    "depends_on_topic",
]
Hindrance = Literal["closing", "blocks", "drops_it", "drops_another", "refuses"]
BusHindrance = Literal["not_entered", "closing", "closed", "no_topic", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedSubscription:
    """Whether one subscription or stream gets an event, and why.

    Attributes:
        name: Its name.
        kind: What it is.
        selector: The class, topic or pattern it is subscribed to.
        matches: Whether it is subscribed to such events; ``None`` where that depends on what
            was not said: the class for a topic, the topic for a class without one.
        reason: Why: it has the event's own ``class``, a base of it (``subclass``), its
            ``topic`` or a ``pattern`` of it; or ``other_class``, ``other_topic``; or
            ``depends_on_class``, ``depends_on_topic``.
        hindrance: What stands in its way although it matches. It is ``closing``; or its buffer is
            full, so that it ``blocks`` the publisher for at most its ``block_timeout``,
            ``drops_it``, ``drops_another`` for it, or ``refuses`` it for all (``RAISE``).
        text: All of this for people.
    """

    name: str
    kind: Literal["subscription", "stream"]
    selector: type[Event] | str
    matches: bool | None
    reason: Reason
    hindrance: Hindrance | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Who would get an event if it were published now, and why. ``str()`` of it is for people.

    Attributes:
        bus: Name of the bus.
        state: ``new``, ``open``, ``closing`` or ``closed``.
        event: Name of the event's class; ``None`` if a topic was asked about.
        topic: The topic; ``None`` for a class without one.
        subscriptions: All there are, streams too, in the order they were made. While the bus is
            not entered: those that start with the next entry.
        hindrance: What keeps everybody from it. The bus is ``not_entered``, ``closing`` (it takes
            only what its running handlers publish) or ``closed``; the class has ``no_topic``; or
            a full ``RAISE`` subscription has it ``refused``.
    """

    bus: str
    state: str
    event: str | None
    topic: str | None
    subscriptions: tuple[ExplainedSubscription, ...]
    hindrance: BusHindrance | None

    @property
    def matching(self) -> tuple[str, ...]:
        """Names of those that are subscribed to it, whatever stands in the way."""
        return tuple(row.name for row in self.subscriptions if row.matches)

    @property
    def receivers(self) -> tuple[str, ...]:
        """Names of those that would get it now; one that blocks counts: it may find room."""
        if self.hindrance is not None:
            return ()
        return tuple(
            row.name
            for row in self.subscriptions
            if row.matches and row.hindrance not in ("closing", "drops_it")
        )

    def __getitem__(self, name: str) -> ExplainedSubscription:
        """The row of a subscription, by name; `KeyError` if there is none."""
        for row in self.subscriptions:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        """Who gets it, who does not and where it depends, a line each with the reason."""
        what = f"an event on {self.topic!r}" if self.event is None else self.event
        if self.event is not None and self.topic is not None:
            what += f" on {self.topic!r}"
        lines = [f"{what}, published on bus {self.bus!r} ({self.state})"]
        if self.hindrance is not None:
            lines.append(f"  nobody gets it now: {_BUS_TEXTS[self.hindrance]}")
        width = max((len(row.name) for row in self.subscriptions), default=0)
        for title, matches in (("goes to", True), ("depends", None), ("not to", False)):
            lines += [
                f"  {title:8} {row.name:{width}}  {row.text}"
                for row in self.subscriptions
                if row.matches is matches
            ]
        if not self.subscriptions:
            lines.append("  nobody is subscribed to anything")
        return "\n".join(lines)


_BUS_TEXTS: dict[BusHindrance, str] = {
    "not_entered": "the bus has not been entered; these would start with it",
    "closing": "the bus is stopping and takes only what its running handlers publish",
    "closed": "the bus was left; these would start with its next entry",
    "no_topic": "the class has no topic, so only its subclasses that have one can be published",
    "refused": "a full subscription has overflow=Overflow.RAISE, so publish raises BufferFullError",
}
