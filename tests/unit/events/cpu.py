"""How long a call keeps this thread's processor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PROMISED_S = 0.05
"""A hostile body is refused within this (INP-02)."""

SLACK = 5
"""How much slower than promised a busy or slow machine may be."""


def cpu_s(call: Callable[[], object]) -> float:
    """The least CPU time of three calls: the garbage collector seldom comes by three times."""
    taken: list[float] = []
    for _ in range(3):
        started = time.thread_time()
        call()
        taken.append(time.thread_time() - started)
    return min(taken)
