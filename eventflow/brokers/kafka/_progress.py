"""What a group knows of a partition beyond the offset that it commits, as text beside it.

Kafka keeps one offset for a group and partition: everything before it is done. What was handled
out of turn lies beyond it, and would come again after a restart; and nobody would know how often a
message was delivered before. So each commit carries metadata: how often the partition was opened
without any progress since, counts of messages that were delivered before, and which offsets from
the commit on were open, as lengths of runs, open and done in turn; all as base-128 numbers
(LEB128) in base64. What others have written there means nothing here.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = (
    "MAX_COUNT",
    "MAX_TEXT",
    "NEVER",
    "NOTHING",
    "Note",
    "Progress",
    "Ranges",
    "done_beyond",
    "from_text",
    "to_text",
)

MARK = "eventflow1:"
MAX_TEXT = 3_000
"""Most characters of the text; a broker takes 4,095 unless it is configured otherwise."""
MAX_NUMBER = 1 << 40
MAX_COUNT = 1 << 20
"""Most that is believed of a count: whoever may commit for the group can write one."""
NOTES_SHARE = 0.5
"""Of the room, for counts; the runs get the rest."""


Ranges = tuple[tuple[int, int], ...]
"""Offsets, in order: the first and one past the last of each run."""


class Note(NamedTuple):
    """What is known of one message: how often it was delivered, and failed."""

    deliveries: int = 0
    failures: int = 0


NEVER = Note()
"""Of a message that was not delivered yet."""


class Progress(NamedTuple):
    """What a commit says beyond its offset.

    Attributes:
        openings: How often the partition was opened since the offset moved, or an owner left it
            in good order.
        notes: Of messages that were delivered before, by offset.
        done: Offsets that are done.
        offset: The commit's own; ``None`` where the group has none.
    """

    openings: int = 0
    notes: Mapping[int, Note] = {}
    done: Ranges = ()
    offset: int | None = None


NOTHING = Progress()


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


def to_text(progress: Progress, committed: int) -> str:
    """The metadata of a commit; empty where there is nothing to say beyond its offset.

    Counts and ranges that find no room are left out, the furthest first: those messages are
    counted anew, and what is in those ranges comes again.
    """
    openings, notes, done, _ = progress
    if not (openings or notes or done):
        return ""
    room = (MAX_TEXT - len(MARK)) // 4 * 3
    counts = bytearray()
    written, at = 0, committed
    for offset, note in sorted(notes.items()) if notes else ():
        more = _number(offset - at) + _number(note.deliveries) + _number(note.failures)
        if len(counts) + len(more) > room * NOTES_SHARE or offset - committed > MAX_NUMBER:
            break
        counts += more
        written, at = written + 1, offset
    raw = bytearray(_number(openings) + _number(written) + counts)
    at = committed
    for first, end in done:
        more = _number(first - at) + _number(end - first)
        if len(raw) + len(more) > room or end - committed > MAX_NUMBER:
            break
        raw += more
        at = end
    return MARK + base64.b64encode(raw).decode()


def from_text(text: str | None, committed: int) -> Progress:
    """What a commit says, by its metadata; a text that is none of ours says nothing."""
    return _read(text, committed)._replace(offset=committed)


def _read(text: str | None, committed: int) -> Progress:
    if not text or len(text) > MAX_TEXT or not text.startswith(MARK):
        return NOTHING
    try:
        raw = base64.b64decode(text[len(MARK) :], validate=True)
    except ValueError:
        return NOTHING
    numbers = _numbers(raw)
    if numbers is None or len(numbers) < 2:
        return NOTHING
    openings, written, *numbers = numbers
    counts, runs = numbers[: 3 * written], numbers[3 * written :]
    if len(counts) < 3 * written or len(runs) % 2:
        return NOTHING
    notes: dict[int, Note] = {}
    at = committed
    for skipped, deliveries, failures in zip(counts[::3], counts[1::3], counts[2::3], strict=True):
        at += skipped
        if at - committed > MAX_NUMBER:
            break  # of a stranger: we could not write it again
        notes[at] = Note(min(deliveries, MAX_COUNT), min(failures, MAX_COUNT))
    found: list[tuple[int, int]] = []
    at = committed
    for skipped, length in zip(runs[::2], runs[1::2], strict=True):
        first = at + skipped
        at = first + length
        if at - committed > MAX_NUMBER:
            break
        found.append((first, at))
    return Progress(min(openings, MAX_COUNT), notes, tuple(found))


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
        if value > MAX_NUMBER:
            return None
        found.append(value)
        value = shift = 0
    return None if shift else found
