"""What is subscribed to what: checked when it is said, started when the bus is entered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventflow.bus._options import SUBSCRIBE_OPTIONS, Options
from eventflow.errors import InvalidTopicError
from eventflow.events import Event, validate_pattern
from eventflow.lifecycle.callables import check_handler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ("Binding", "check_selector", "selector_name")

Selector = type[Event] | str


@dataclass(frozen=True, slots=True)
class Binding:
    """A handler, what it is subscribed to, and how it is run.

    Attributes:
        selector: What it is subscribed to.
        handler: The handler.
        options: How it is run.
        given: The options that were given; the others are defaults.
    """

    selector: Selector
    handler: Callable[..., Any]
    options: Options
    given: Mapping[str, object]

    @classmethod
    def check(
        cls, selector: object, handler: Callable[..., Any], options: Mapping[str, object]
    ) -> Binding:
        """A binding, or a `ConfigurationError` that says what is wrong with it."""
        checked = Options.check(options, allowed=SUBSCRIBE_OPTIONS)
        arguments = ("event",) if checked.resources is None else ("event", "resource")
        check_handler(handler, arguments=arguments)
        return cls(check_selector(selector), handler, checked, dict(options))


def check_selector(selector: object) -> Selector:
    """An event class, topic or pattern, or `InvalidTopicError`."""
    if isinstance(selector, type) and issubclass(selector, Event):
        return selector
    if isinstance(selector, str):
        return validate_pattern(selector)
    raise InvalidTopicError(
        f"subscribe to a subclass of Event, a topic or a pattern, not {selector!r}"
    )


def selector_name(selector: Selector) -> str:
    """For names and messages."""
    return selector if isinstance(selector, str) else selector.__name__
