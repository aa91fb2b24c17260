"""The ladder of waits: few of them, because some brokers need a queue for each."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ("LADDER_S", "step_for")

LADDER_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)
"""Seconds that a message waits on each step."""


def step_for(delay: float) -> int:
    """The first step on which a message waits ``delay`` seconds or more; else the last one."""
    return min(bisect_left(LADDER_S, delay), len(LADDER_S) - 1)
