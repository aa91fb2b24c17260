"""Middlewares: what is put around handlers, one idea each."""

from eventflow.messaging.middleware.chaos import Chaos
from eventflow.messaging.middleware.circuit_breaker import CircuitBreaker
from eventflow.messaging.middleware.deduplicate import Deduplicate
from eventflow.messaging.middleware.deduplication import (
    DeduplicationStore,
    MemoryDeduplicationStore,
    Reservation,
)
from eventflow.messaging.middleware.duplicator import Duplicator
from eventflow.messaging.middleware.ignore_errors import IgnoreErrors
from eventflow.messaging.middleware.instant_ack import InstantAck
from eventflow.messaging.middleware.protocol import (
    CallNext,
    HandlerControls,
    Middleware,
    MiddlewareFactory,
)
from eventflow.messaging.middleware.throttle import Throttle

__all__ = (
    "CallNext",
    "Chaos",
    "CircuitBreaker",
    "Deduplicate",
    "DeduplicationStore",
    "Duplicator",
    "HandlerControls",
    "IgnoreErrors",
    "InstantAck",
    "MemoryDeduplicationStore",
    "Middleware",
    "MiddlewareFactory",
    "Reservation",
    "Throttle",
)
