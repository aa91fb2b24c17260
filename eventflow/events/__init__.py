"""Events: what they are, how they are written and read."""

from eventflow.events.canonical import canonical_json
from eventflow.events.event import Event, event_name
from eventflow.events.integers import BigInt, Int64String
from eventflow.events.mapping import FrozenMapping
from eventflow.events.part import Part
from eventflow.events.publisher import EventPublisher
from eventflow.events.raw import RawJson
from eventflow.events.topics import is_pattern, validate_pattern, validate_topic

__all__ = (
    "BigInt",
    "Event",
    "EventPublisher",
    "FrozenMapping",
    "Int64String",
    "Part",
    "RawJson",
    "canonical_json",
    "event_name",
    "is_pattern",
    "validate_pattern",
    "validate_topic",
)
