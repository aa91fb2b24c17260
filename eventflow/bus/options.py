"""What can be said of a subscription."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar

from eventflow.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from eventflow.failure import FailurePolicy

__all__ = ("Overflow", "StreamOptions", "SubscribeOptions")

E = TypeVar("E", bound=Event)


class Overflow(enum.Enum):
    """What happens to an event when a subscriber's buffer is full."""

    BLOCK = "block"
    """The publisher waits for room, at most ``block_timeout``; then `BufferFullError`."""
    DROP_NEWEST = "drop_newest"
    """The event is dropped for this subscriber, logged and counted."""
    DROP_OLDEST = "drop_oldest"
    """The oldest event in the buffer is dropped for it, logged and counted."""
    RAISE = "raise"
    """The publish raises `BufferFullError`, and nobody gets the event."""
    KEEP_LATEST = "keep_latest"
    """An event takes the place of the one with the same ``latest_key``; that one is dropped."""


class StreamOptions(TypedDict, Generic[E], total=False):
    """Options of `EventBus.stream`; see `SubscribeOptions`."""

    name: str
    capacity: int
    overflow: Overflow
    block_timeout: float
    latest_key: Callable[[E], Hashable]


class SubscribeOptions(StreamOptions[E], Generic[E], total=False):
    """Options of `EventBus.subscribe`, `EventBus.on` and `Listeners.on`.

    Keys:
        name: Name in logs and in the ledger; unique on a bus. Default: the handler's name.
        capacity: Most events that wait in the buffer; 1 or more. Default 1024.
        overflow: What happens beyond that. Default `Overflow.BLOCK`.
        block_timeout: Longest wait of a publisher for room, in seconds. Default 5.
        latest_key: For `Overflow.KEEP_LATEST`: events with equal keys replace each other.
            Runs in the publisher. Default: every event replaces the one before.
        concurrency: Most events handled at once; 1 or more. Default 1, which is FIFO.
        order_key: With ``concurrency`` above 1: events with equal keys are handled in order,
            one at a time. With 1 everything is in order, and it is not called.
        timeout: Seconds an attempt may take, ``None`` for no limit. Default 30.
        on_failure: What happens when an attempt fails. Default ``FailurePolicy.log()``.
    """

    concurrency: int
    order_key: Callable[[E], Hashable]
    timeout: float | None
    on_failure: FailurePolicy
