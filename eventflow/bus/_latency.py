"""How long handlers take, from a sample of their attempts.

Keeping what each event took would cost as much as counting it does. The worker looks at the
clock once after each event anyway, and this module says which of these looks are kept.

Keeping the events that run across some moment would keep the long ones: those are more often
running when the moment comes. So events are chosen before they start, in runs: from the first
look 50 ms after the last run began, the next few are kept, whatever they turn out to take. A
run of one would keep nothing but followers of long events, and of two kinds that alternate
only one. At up to 150 events a second that is every event.
"""

from __future__ import annotations

import math
from array import array

from eventflow.bus.statistics import LatencyStatistics

__all__ = ("Sample",)

KEPT = 512
EVERY_S = 0.05
RUN = 8
LONG_RUN = 32
LONG_EVERY = 8
"""Every eighth run reaches deeper into a burst."""


class Sample:
    """The last 512 sampled attempts of one subscription; memory is taken with the first.

    Attributes:
        due: An event that starts at this loop time or later is to be kept.
    """

    __slots__ = ("_began", "_left", "_next", "_runs", "_times", "due")

    def __init__(self) -> None:
        self.due = -math.inf
        self._times: array[float] | None = None
        self._next = 0
        self._began: float | None = None
        self._left = RUN
        self._runs = 1

    def add(self, seconds: float, now: float) -> None:
        """Keep what an attempt took that ends now, in loop time."""
        if self._began is None:
            self._began = now - seconds
            self.due = -math.inf
        self._left -= 1
        if not self._left:
            self.due = self._began + EVERY_S
            self._began = None
            self._runs += 1
            self._left = RUN if self._runs % LONG_EVERY else LONG_RUN
        times = self._times
        if times is None:
            times = self._times = array("d")
        if len(times) < KEPT:
            times.append(seconds)
        else:
            times[self._next] = seconds
            self._next = (self._next + 1) % KEPT

    def read(self) -> LatencyStatistics | None:
        """The figures; ``None`` before the first sample."""
        if self._times is None:
            return None
        times = sorted(self._times)
        count = len(times)
        return LatencyStatistics(
            count=count,
            mean=math.fsum(times) / count,
            p50=times[math.ceil(0.50 * count) - 1],
            p99=times[math.ceil(0.99 * count) - 1],
            longest=times[-1],
        )
