"""Counts that add up, while a bus runs and after it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eventflow.lifecycle.counts import Row, Table

__all__ = ("BusStatistics", "LatencyStatistics", "SubscriptionStatistics")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyStatistics:
    """How long the attempts of one handler take, in seconds, over the last samples.

    An attempt lasts from the call of the handler to its end: its return, its error or its
    timeout. For a sync handler that is the time in its thread, without the wait for one. The wait
    before a retry belongs to no attempt, and attempts that a stop cut are left out. Up to about
    150 attempts a second are all sampled; above, runs of 8 to 32 successive ones are, 50 ms
    apart, whatever they take.

    Attributes:
        count: Samples that the figures are of: the last ones, at most 512.
        mean: Their mean.
        p50: Half of them took at most this.
        p99: 99 % of them took at most this; the longest where there are fewer than 100.
        longest: The longest of them.
    """

    count: int
    mean: float
    p50: float
    p99: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStatistics(Row):
    """What became of the events that were offered to one subscription.

    At every moment ``offered == handled + failed + dropped + rejected + cancelled + released
    + abandoned + buffered + in_flight``.

    Attributes:
        name: Name of the subscription.
        offered: Events that were buffered, dropped or rejected; each counted once.
        handled: The handler returned.
        failed: The last attempt raised or timed out.
        dropped: Dropped by the overflow policy; replaced ones included.
        rejected: The publisher gave up, was cancelled, or was refused.
        cancelled: A stop cut the handler.
        released: Still in the buffer when a stop ended.
        abandoned: The handler refused cancellation, or is a thread that did not return.
        buffered: In the buffer now; at most ``capacity``.
        in_flight: Being handled now, the wait before a retry included.
        waiting: Publishers that wait for room now; their events are not offered yet.
        timed_out: How many of ``failed`` had a last attempt that timed out.
        retried: Attempts after the first.
        restarts: Workers that ended while the subscription was open, and were replaced.
        latency: How long attempts take; ``None`` before the first has ended, for streams, in sums.
    """

    OUTCOMES: ClassVar[tuple[str, ...]] = (
        *("handled", "failed", "dropped", "rejected"),
        *("cancelled", "released", "abandoned", "buffered", "in_flight"),
    )

    name: str
    offered: int = 0
    handled: int = 0
    failed: int = 0
    dropped: int = 0
    rejected: int = 0
    cancelled: int = 0
    released: int = 0
    abandoned: int = 0
    buffered: int = 0
    in_flight: int = 0
    waiting: int = 0
    timed_out: int = 0
    retried: int = 0
    restarts: int = 0
    latency: LatencyStatistics | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BusStatistics(Table[SubscriptionStatistics]):
    """The counts of a bus: a snapshot while it runs, its ledger once it has stopped.

    Attributes:
        name: Name of the bus.
        state: ``new``, ``open``, ``closing`` or ``closed``.
        subscriptions: One row each, in the order they were made; those that ended before the
            bus come last, at most 1,000 of them, older ones summed up in a row ``(ended)``.
        abandoned: What could not be stopped: names of tasks and threads.
    """

    OWNER: ClassVar[str] = "bus"
    ROW: ClassVar[type[Row]] = SubscriptionStatistics
    ROWS: ClassVar[str] = "subscriptions"

    name: str
    state: str
    subscriptions: tuple[SubscriptionStatistics, ...] = ()
    abandoned: tuple[str, ...] = ()
