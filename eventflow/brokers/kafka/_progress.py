"""What a group has done beyond the offset that it commits, as text that goes with the commit.

Kafka keeps one offset for a group and partition: everything before it is done. What was handled
out of turn lies beyond it, and would come again after a restart. So each commit carries, as its
metadata, which of the offsets from there on were open: the lengths of runs, open and done in
turn, as base-128 numbers (LEB128) in base64. What others have written there means nothing here.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("MAX_TEXT", "Ranges", "done_beyond", "from_text", "to_text")

MARK = "eventflow1:"
MAX_TEXT = 3_000
"""Most characters of the text; a broker takes 4,095 unless it is configured otherwise."""
MAX_RUN = 1 << 40


Ranges = tuple[tuple[int, int], ...]
"""Offsets, in order: the first and one past the last of each run."""


def done_beyond(committed: int, open_offsets: Iterable[int], end: int) -> Ranges:
    """What is done from ``committed`` up to ``end``, where these, in order, are open."""
    found: list[tuple[int, int]] = []
    at = committed
    for offset in open_offsets:
        if offset > at:
            found.append((at, offset))
        at = offset + 1
    if end > at:
        found.append((at, end))
    return tuple(found)


def to_text(done: Ranges, committed: int) -> str:
    """The metadata of a commit; empty where nothing is done beyond it.

    Ranges that find no room are left out: what is in them comes again.
    """
    room = MAX_TEXT - len(MARK)
    raw = bytearray()
    at = committed
    for first, end in done:
        more = _number(first - at) + _number(end - first)
        if (len(raw) + len(more) + 2) // 3 * 4 > room:
            break
        raw += more
        at = end
    return MARK + base64.b64encode(raw).decode() if raw else ""


def from_text(text: str | None, committed: int) -> Ranges:
    """What is done beyond a commit, by its metadata; a text that is none of ours says nothing."""
    if not text or len(text) > MAX_TEXT or not text.startswith(MARK):
        return ()
    try:
        raw = base64.b64decode(text[len(MARK) :], validate=True)
    except ValueError:
        return ()
    runs = _numbers(raw)
    if runs is None or len(runs) % 2:
        return ()
    found: list[tuple[int, int]] = []
    at = committed
    for skipped, length in zip(runs[::2], runs[1::2], strict=True):
        first = at + skipped
        at = first + length
        found.append((first, at))
    return tuple(found)


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _numbers(raw: bytes) -> list[int] | None:
    """The numbers of a text; ``None`` if it ends in the middle of one, or one is absurd."""
    found: list[int] = []
    value = shift = 0
    for byte in raw:
        value |= (byte & 127) << shift
        if byte & 128:
            shift += 7
            if shift > 40:
                return None
            continue
        if value > MAX_RUN:
            return None
        found.append(value)
        value = shift = 0
    return None if shift else found
