"""Typed events for asyncio: announce a fact, and let others react.

Names are loaded on first use, so that importing eventflow loads no more than it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventflow.bus import EventBus, Listeners, Overflow
    from eventflow.context import current, publishing
    from eventflow.errors import EventFlowError, Permanent, RetryAfter
    from eventflow.events import Event, EventPublisher, Part, RawJson
    from eventflow.failure import CallOnFailure, FailurePolicy, Retry
    from eventflow.lifecycle.service import Service

__all__ = (
    "CallOnFailure",
    "Event",
    "EventBus",
    "EventFlowError",
    "EventPublisher",
    "FailurePolicy",
    "Listeners",
    "Overflow",
    "Part",
    "Permanent",
    "RawJson",
    "Retry",
    "RetryAfter",
    "Service",
    "current",
    "publishing",
)

_HOMES = {
    "CallOnFailure": "failure",
    "Event": "events",
    "EventBus": "bus",
    "EventFlowError": "errors",
    "EventPublisher": "events",
    "FailurePolicy": "failure",
    "Listeners": "bus",
    "Overflow": "bus",
    "Part": "events",
    "Permanent": "errors",
    "RawJson": "events",
    "Retry": "failure",
    "RetryAfter": "errors",
    "Service": "lifecycle.service",
    "current": "context",
    "publishing": "context",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
