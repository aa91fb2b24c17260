"""Topics whose partitions are the steps of a ladder: what is in one waits as long as its step.

What is in a partition is due in its order then, so that only its head has to be watched. Until when
a record waits, and for what, stands in its last header: such topics are ours alone to write.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from eventflow.brokers.kafka._progress import MAX_COUNT, Note
from eventflow.errors import BrokerError, InvalidTopicError
from eventflow.events import validate_topic
from eventflow.messaging.ladder import LADDER_S, step_for

if TYPE_CHECKING:
    from eventflow.brokers.kafka._wire import RawHeaders

__all__ = (
    "DELAYS",
    "STAMP",
    "STEPS",
    "Stamp",
    "check_steps",
    "is_ladder",
    "read_stamp",
    "retry_group",
    "retry_topic",
    "stamp_for",
)

DELAYS = "eventflow.delays"
"""Where messages wait that were published with a delay, and the group that hands them on."""
RETRIES = ".retries"
"""How the name of a topic ends in which a group's messages wait to be tried again."""
STAMP = "eventflow_waits"
"""Header of a record that waits."""
STEPS = len(LADDER_S)
LATEST_MS = 10**15 - 1
LONGEST_NAME = 249
LONGEST_STAMP = 400

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)
_STAMP = re.compile(rb"([0-9]{1,15}) ([0-9]{1,15}) ([0-9]{1,7}) ([0-9]{1,7}) ([!-~]{1,249})")


class Stamp(NamedTuple):
    """What a waiting record waits for. Times are of the wall clock, in milliseconds.

    Attributes:
        wakes: When it leaves its step.
        due: When it may be handed out; later than ``wakes`` where no step is as long.
        note: How often it was delivered before, and failed.
        topic: The topic that it belongs to.
    """

    wakes: int
    due: int
    note: Note
    topic: str

    def header(self) -> tuple[str, bytes]:
        """It as a header."""
        text = f"{self.wakes} {self.due} {self.note.deliveries} {self.note.failures} {self.topic}"
        return STAMP, text.encode()


def stamp_for(now_ms: int, due_ms: int, note: Note, topic: str) -> tuple[int, Stamp]:
    """On which step a message waits, which is its partition, and its stamp."""
    due_ms = min(due_ms, LATEST_MS)
    note = Note(min(note.deliveries, MAX_COUNT), min(note.failures, MAX_COUNT))
    step = step_for((due_ms - now_ms) / 1_000)
    return step, Stamp(min(due_ms, now_ms + LADDER_S[step] * 1_000), due_ms, note, topic)


def read_stamp(headers: RawHeaders | None) -> Stamp | None:
    """The stamp of a record; ``None`` where somebody else has written it."""
    name, value = headers[-1] if headers else ("", None)
    found = None
    if name == STAMP and value is not None and len(value) <= LONGEST_STAMP:
        found = _STAMP.fullmatch(value)
    if found is None:
        return None
    wakes, due, deliveries, failures = (int(found[n]) for n in range(1, 5))
    note = Note(min(deliveries, MAX_COUNT), min(failures, MAX_COUNT))
    topic = found[5].decode()
    try:
        validate_topic(topic)
    except InvalidTopicError:
        return None
    return Stamp(wakes, due, note, topic)


def retry_topic(topic: str, group: str) -> str:
    """Where messages of a topic wait for a group that tries them again."""
    fit = _UNFIT.sub("-", group)
    name = f"{topic}.{fit}{RETRIES}"
    if fit != group or len(name) > LONGEST_NAME:
        # Two groups, or two topics, that look alike when they are cut stay apart.
        mark = hashlib.sha256(f"{topic}\0{group}".encode()).hexdigest()[:12]
        room = LONGEST_NAME - len(RETRIES) - len(mark) - 1
        name = f"{topic}.{fit}"[:room].rstrip(".") + f"-{mark}{RETRIES}"
    return name


def retry_group(group: str) -> str:
    """The group that reads it: one of its own, whose members have nothing to do with others'."""
    return f"{group}{RETRIES}"


def is_ladder(topic: str) -> bool:
    """Whether a topic has a partition for each step."""
    return topic == DELAYS or topic.endswith(RETRIES)


def check_steps(topic: str, partitions: int) -> None:
    """Raise unless a topic has as many partitions as there are steps.

    Raises:
        BrokerError: It has fewer.
    """
    if partitions < STEPS:
        raise BrokerError(
            f"topic {topic!r} has {partitions} partitions and needs {STEPS}, one for each step of "
            "a wait: broker.ensure_topics() makes it so where it is not there yet; else add some"
        )
