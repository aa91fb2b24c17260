"""Events: what they are, how they are written and read."""

from eventflow.events.event import Event, event_name
from eventflow.events.publisher import EventPublisher
from eventflow.events.topics import is_pattern, validate_pattern, validate_topic

__all__ = (
    "Event",
    "EventPublisher",
    "event_name",
    "is_pattern",
    "validate_pattern",
    "validate_topic",
)
