"""A structlog processor that puts the event being handled on each log line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow._cause import current_attempt
from eventflow.context import EventContext

if TYPE_CHECKING:
    import structlog

__all__ = ("add_event_context", "is_own")

_NO_EVENT: Any = None


def add_event_context(
    logger: Any, method_name: str, event_dict: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """A structlog processor: event id, topic, correlation id, subscription on a handler's lines.

    Put it anywhere before the renderer. Keys that a line already has are left alone, and
    lines written outside handlers pass unchanged. Works in what a handler awaits, in the
    tasks it starts and in the threads of sync handlers. eventflow's own lines pass unchanged
    too: they say themselves which event and which subscription they are about.

    Example::

        structlog.configure(processors=[add_event_context, structlog.processors.JSONRenderer()])
    """
    attempt = current_attempt()
    # A worker between two events has an attempt without one; key functions run there.
    if attempt is not None and attempt.item is not _NO_EVENT and not is_own(event_dict):
        context = EventContext.of(attempt)
        event_dict.setdefault("event_id", context.event_id)
        event_dict.setdefault("topic", context.topic)
        event_dict.setdefault("correlation_id", context.correlation_id)
        event_dict.setdefault("subscription", context.subscription)
    return event_dict


def is_own(event_dict: structlog.typing.EventDict) -> bool:
    """Whether eventflow wrote the line."""
    event = event_dict.get("event")
    return isinstance(event, str) and event.startswith("eventflow.")
