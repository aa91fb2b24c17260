"""Listeners that a module offers, as handlers of a router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from eventflow.bus import Listeners
from eventflow.bus.matching import Matcher
from eventflow.errors import InvalidOptionError, InvalidTopicError
from eventflow.lifecycle.callables import handler_name
from eventflow.messaging._binding import Binding
from eventflow.messaging._options import BUS_ONLY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventflow.bus._binding import Binding as Listener
    from eventflow.events import Event
    from eventflow.failure import FailurePolicy
    from eventflow.messaging.protocols import Subscriber

__all__ = ("bindings_of",)


def bindings_of(
    listeners: Listeners,
    *,
    subscriber: Subscriber | Callable[[str], Subscriber],
    events: tuple[type[Event], ...],
    options: Mapping[str, object],
    default_policy: FailurePolicy,
    is_taken: Callable[[str], bool],
) -> list[Binding]:
    """The bindings of a router that stand for a collection's; see `Router.include`."""
    if not isinstance(cast("object", listeners), Listeners):
        raise InvalidOptionError(
            f"include takes a collection of Listeners, not {listeners!r}", option="listeners"
        )
    made: list[Binding] = []
    names: set[str] = set()
    for listener in listeners:
        name = _free_name(listener, lambda wanted: is_taken(wanted) or wanted in names)
        names.add(name)
        own = listener.given
        for option in own.keys() & BUS_ONLY:
            raise InvalidOptionError(
                f"listener {name!r} has the option {option}, which belongs to the buffer of an "
                "in-process bus; a router reads from a broker, whose messages wait there. Leave "
                "it on an EventBus, and bring the events to that with Bridge(subscriber, bus)",
                option=option,
            )
        place: Any = subscriber
        if callable(place):
            place = cast("Callable[[str], Subscriber]", place)(name)
        made.append(
            Binding.check(
                name,
                _classes(listener.selector, events, name),
                listener.handler,
                subscriber=place,
                publisher=None,
                publish_topic=None,
                options={
                    **options,
                    **{option: value for option, value in own.items() if option != "name"},
                },
                default_policy=default_policy,
            )
        )
    return made


def _free_name(listener: Listener, is_taken: Callable[[str], bool]) -> str:
    given = listener.options.name
    if given is not None:
        return given
    default = name = handler_name(listener.handler)
    number = 1
    while is_taken(name):
        number += 1
        name = f"{default}-{number}"
    return name


def _classes(
    selector: type[Event] | str, events: Sequence[type[Event]], name: str
) -> tuple[type[Event], ...]:
    """The classes with a topic that a listener is bound to."""
    own = (selector,) if not isinstance(selector, str) and selector.topic is not None else ()
    matcher: Matcher[str] = Matcher()
    matcher.add(selector, name)
    found = tuple(dict.fromkeys((*own, *(event for event in events if matcher.match(event)))))
    if not found:
        wanted = selector if isinstance(selector, str) else selector.__name__
        raise InvalidTopicError(
            f"listener {name!r} is bound to {wanted!r}, and a broker can't be asked which classes "
            "that stands for: name them, as in include(…, events=[OrderPlaced, OrderPaid])"
        )
    return found
