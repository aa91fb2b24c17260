"""The metadata of a commit that has to tell all that is done: it came with what was published.

Elsewhere a range that finds no room is done again. Here its outputs would be stored again, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.brokers.kafka._progress import MAX_TEXT, Progress, from_text, to_text

if TYPE_CHECKING:
    from eventflow.brokers.kafka._progress import Ranges

__all__ = ("covers", "exact_text")

SLACK = 64
"""Characters that new ranges leave free, so that those there are find room again."""


def exact_text(progress: Progress, committed: int, told: Ranges) -> tuple[str, Ranges]:
    """The metadata, and the ranges that it tells: all, or as many as find room, the first first.

    Args:
        progress: What there is to tell. Where there is not room for all ranges, no count is told.
        committed: The offset that is committed.
        told: Ranges that earlier commits have told: these are told again in any case.
    """
    done = progress.done
    text = to_text(progress, committed)
    if len(text) < MAX_TEXT - SLACK:
        return text, done
    told = _both(told, done)
    some, many = 0, len(done)
    while some < many:
        middle = (some + many + 1) // 2
        text = to_text(Progress(progress.openings, {}, _either(done[:middle], told)), committed)
        found = len(text) < MAX_TEXT - SLACK
        some, many = (middle, many) if found else (some, middle - 1)
    text = to_text(Progress(progress.openings, {}, _either(done[:some], told)), committed)
    return text, from_text(text, committed).done


def covers(told: Ranges, offset: int) -> bool:
    """Whether an offset is in one of the ranges."""
    return any(first <= offset < end for first, end in told)


def _both(some: Ranges, others: Ranges) -> Ranges:
    """What is in both."""
    cut = ((max(a, c), min(b, d)) for a, b in some for c, d in others if a < d and c < b)
    return tuple(sorted(cut))


def _either(some: Ranges, others: Ranges) -> Ranges:
    """What is in either."""
    found: list[tuple[int, int]] = []
    for first, end in sorted((*some, *others)):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    return tuple(found)
