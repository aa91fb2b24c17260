"""Says who would get an event, and why: `EventBus.explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, assert_never

from eventflow.bus.explanation import ExplainedSubscription, Explanation
from eventflow.bus.options import Overflow
from eventflow.errors import InvalidTopicError
from eventflow.events import Event, validate_topic
from eventflow.events.topics import is_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventflow.bus._inbox import Inbox
    from eventflow.bus._options import Options
    from eventflow.bus._scope import Scope
    from eventflow.bus.explanation import BusHindrance, Hindrance, Reason
    from eventflow.bus.subscription import Subscription

__all__ = ("explain",)


class _Member(NamedTuple):
    name: str
    kind: Literal["subscription", "stream"]
    selector: type[Event] | str
    options: Options
    inbox: Inbox | None = None
    stopping: bool = False


class _Subject(NamedTuple):
    event_class: type[Event] | None
    topic: str | None

    @classmethod
    def check(cls, given: object) -> _Subject:
        if isinstance(given, str):
            return cls(None, validate_topic(given))
        event_class = given if isinstance(given, type) else type(given)
        if not issubclass(event_class, Event):
            raise InvalidTopicError(
                f"explain takes an event, a subclass of Event or a topic, not {given!r}"
            )
        return cls(event_class, event_class.topic)


def explain(
    given: object, *, bus: str, state: str, declared: tuple[Subscription, ...], scope: Scope | None
) -> Explanation:
    """Explain for the members of an open scope; without one, for what is declared."""
    subject = _Subject.check(given)
    members = _running(scope) if scope is not None else _to_come(declared)
    rows = tuple(_row(subject, member) for member in members)
    return Explanation(
        bus=bus,
        state=state,
        event=None if subject.event_class is None else subject.event_class.__name__,
        topic=subject.topic,
        subscriptions=rows,
        hindrance=_bus_hindrance(subject, state, rows),
    )


def _to_come(declared: tuple[Subscription, ...]) -> Iterator[_Member]:
    for subscription in declared:
        binding = subscription.binding
        yield _Member(subscription.name, "subscription", binding.selector, binding.options)


def _running(scope: Scope) -> Iterator[_Member]:
    for consumer in tuple(scope.consumers.values()):
        inbox = consumer.inbox
        stopping = consumer.stopping or inbox.closed
        yield _Member(inbox.name, "subscription", consumer.selector, inbox.options, inbox, stopping)
    for stream in tuple(scope.streams.values()):
        inbox = stream.inbox
        yield _Member(inbox.name, "stream", stream.selector, inbox.options, inbox, inbox.closed)


def _bus_hindrance(
    subject: _Subject, state: str, rows: tuple[ExplainedSubscription, ...]
) -> BusHindrance | None:
    if subject.event_class is not None and subject.topic is None:
        return "no_topic"
    if state == "new":
        return "not_entered"
    if state == "closing":
        return "closing"
    if state == "closed":
        return "closed"
    return "refused" if any(row.hindrance == "refuses" for row in rows) else None


def _row(subject: _Subject, member: _Member) -> ExplainedSubscription:
    matches, reason, text = _match(subject, member.selector)
    hindrance, hindered = _hindrance(member) if matches else (None, "")
    return ExplainedSubscription(
        name=member.name,
        kind=member.kind,
        selector=member.selector,
        matches=matches,
        reason=reason,
        hindrance=hindrance,
        text=text + hindered,
    )


def _match(subject: _Subject, selector: type[Event] | str) -> tuple[bool | None, Reason, str]:
    event_class, topic = subject
    if not isinstance(selector, str):
        name = selector.__name__
        if event_class is None:
            here = ", whose own topic this is" if selector.topic == topic else ""
            return None, "depends_on_class", f"if it is of class {name}{here}"
        if event_class is selector:
            return True, "class", f"it is subscribed to class {name}"
        if issubclass(event_class, selector):
            return True, "subclass", f"{event_class.__name__} is a subclass of {name}"
        return False, "other_class", f"it is subscribed to class {name}"
    if topic is None:
        what = "pattern" if is_pattern(selector) else "topic"
        return None, "depends_on_topic", f"if the subclass's topic fits {what} {selector!r}"
    if selector == topic:
        return True, "topic", f"it is subscribed to topic {topic!r}"
    if is_pattern(selector):
        if fits(selector, topic):
            return True, "pattern", f"pattern {selector!r} fits topic {topic!r}"
        return False, "other_topic", f"pattern {selector!r} does not fit topic {topic!r}"
    return False, "other_topic", f"it is subscribed to topic {selector!r}"


def fits(pattern: str, topic: str) -> bool:
    """Whether a topic is one of those that a pattern stands for; `Matcher` has the same rule."""
    wanted, segments = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(segments) <= len(wanted):
            return False
        segments = segments[: len(wanted)]
    return len(wanted) == len(segments) and all(
        want in ("*", segment) for want, segment in zip(wanted, segments, strict=True)
    )


def _hindrance(member: _Member) -> tuple[Hindrance | None, str]:
    inbox, options = member.inbox, member.options
    if inbox is None:
        return None, ""
    if member.stopping:
        return "closing", "; but it is closing and takes nothing in"
    if inbox.has_room:
        return None, ""
    full = f"; but its buffer is full ({inbox.buffered:,} of {options.capacity:,}), so "
    match options.overflow:
        case Overflow.BLOCK:
            wait = f"publish waits for room, at most {options.block_timeout:g} s"
            return "blocks", full + wait
        case Overflow.DROP_NEWEST:
            return "drops_it", full + "this event is dropped"
        case Overflow.DROP_OLDEST:
            return "drops_another", full + "its oldest event is dropped for this one"
        case Overflow.KEEP_LATEST:
            return "drops_another", full + "one with the same key, or else its oldest, makes way"
        case Overflow.RAISE:
            return "refuses", full + "publish raises BufferFullError and nobody gets it"
        case _:
            assert_never(options.overflow)
