"""A structlog processor that puts the event being handled on each log line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow._cause import current_attempt
from eventflow.context import EventContext

if TYPE_CHECKING:
    import structlog

__all__ = ("add_event_context",)


def add_event_context(
    logger: Any, method_name: str, event_dict: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """A structlog processor: event id, topic, correlation id on each line a handler writes.

    Put it anywhere before the renderer. Keys that a line already has are left alone, and
    lines written outside handlers pass unchanged. Works in what a handler awaits, in the
    tasks it starts and in the threads of sync handlers.

    Example::

        structlog.configure(processors=[add_event_context, structlog.processors.JSONRenderer()])
    """
    attempt = current_attempt()
    if attempt is not None:
        context = EventContext.of(attempt)
        event_dict.setdefault("event_id", context.event_id)
        event_dict.setdefault("topic", context.topic)
        event_dict.setdefault("correlation_id", context.correlation_id)
    return event_dict
