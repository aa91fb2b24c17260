"""Compares what was published, what was done and what was committed, all as seen from outside."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.brokers.campaign.ledger import DONE, FAILED, Entry
from tests.brokers.campaign.verdict import BaseVerdict, explain
from tests.brokers.kafka.campaign.member import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.brokers.kafka.campaign.run import Run

__all__ = ("Verdict", "judge")

ID = "_watermill_message_uuid"


class _Record(NamedTuple):
    """A record, as an independent client reads it."""

    id: str
    partition: int
    offset: int
    key: bytes
    value: bytes

    @classmethod
    def of(cls, record: Any) -> _Record:
        """Its id is where Watermill has it."""
        name = dict(record.headers() or [])[ID].decode()
        return cls(name, record.partition(), record.offset(), record.key(), record.value())


@dataclass
class Verdict(BaseVerdict):
    """What a run has shown.

    Attributes:
        published: Records that are in the topic.
        twice: Of those, records that the client library stored once more. It does where it gave
            another message of the same publisher up, and can't tell whether that was stored.
        refused: Messages whose publish raised.
        lost: Of those in the topic, or that had to be: never handled; and outputs
            that are not there.
        outputs: Records that handlers have published, and that can be read.
    """

    BROKER = "Kafka"
    ECHO_S = 6.0  # sessions that run out, joining again

    published: int = 0
    twice: int = 0
    refused: int = 0
    outputs: int = 0


def judge(
    run: Run,
    topic: Sequence[Any],
    dead: Sequence[Any],
    told: list[Entry],
    outputs: Sequence[Any] = (),
) -> Verdict:
    """The verdict on a run that has got quiet.

    Args:
        run: The run.
        topic: All records of its topic, by partition and offset.
        dead: All records of its topic of dead letters.
        told: All of the ledger.
        outputs: All records of the topic of outputs.
    """
    records = [_Record.of(record) for record in topic]
    verdict = Verdict(published=len(records))
    wrong = verdict.wrong
    stored = Counter(record.id for record in records)
    done = [entry for entry in told if entry.what == DONE]
    first = {entry.which: entry.at for entry in reversed(done)}
    failed = {entry.which: entry.at for entry in reversed(told) if entry.what == FAILED}
    letters = {_Record.of(record).id for record in dead}
    poison = {i for i, sent in run.sent.items() if b'"poison"' in sent.message.payload}

    # Publishing
    gave_up = {sent.publisher for sent in run.sent.values() if sent.verdict == "unknown"}
    for name, (message, publisher, said) in run.sent.items():
        verdict.refused += said != "stored"
        if said == "stored" and not stored[name]:
            verdict.lost += 1
            wrong.append(f"{name} was confirmed, and is not in the topic")
        if said == "not_stored" and stored[name]:
            wrong.append(f"{name} is said not to be stored, and is")
        # What is handed on again, because its commit was cut off, is another record as well.
        may_repeat = bool(message.metadata and run.schedule.repeating)
        if stored[name] > 1 and (publisher in gave_up or may_repeat):
            verdict.twice += stored[name] - 1
        elif stored[name] > 1:
            wrong.append(f"{name}, said to be {said}, is there {stored[name]} times")
    for record in records:
        if record.id not in run.sent:
            wrong.append(f"{record.id} was never published")
        else:
            message = run.sent[record.id].message
            if (record.value, record.key) != (message.payload, str(message.key).encode()):
                wrong.append(f"{record.id} was altered")

    # Handling
    verdict.done = len(done)
    verdict.duplicates = len(done) - len(first)
    for name in stored:
        if name in poison:
            if name not in letters or name not in failed:
                verdict.lost += 1
                wrong.append(f"{name} is poison, and is no dead letter")
        elif name not in first:
            verdict.lost += 1
            wrong.append(f"{name} was not handled")
    wrong += [f"{name} was handled, and not published" for name in first.keys() - stored.keys()]
    wrong += [f"{name} is a dead letter, and no poison" for name in letters - poison]

    # Committing
    ended = first | {name: failed[name] for name in poison & failed.keys()}
    if run.schedule.delays:  # what failed is done where it was once it waits elsewhere
        ended |= {name: at for name, at in failed.items() if at < ended.get(name, at + 1)}
    where = {(record.partition, record.offset): record.id for record in records}
    for sample in run.samples:
        for partition, (offset, progress) in sample.places.items():
            ranges = ((0, offset), *progress.done)
            for at in (at for begin, end in ranges for at in range(begin, end)):
                if (name := where.get((partition, at), "")) == "":
                    wrong.append(f"{partition}:{at} is committed, and there is no such record")
                elif ended.get(name, sample.at + 1) > sample.at:
                    wrong.append(f"{name} ({partition}:{at}) was committed before it was handled")
    last = run.samples[-1]
    wrong += [
        f"partition {n} was left with {place.progress}"
        for n, place in last.places.items()
        if place.progress.done or place.progress.notes
    ]

    if run.schedule.transactional:
        judge_outputs(stored, poison, dead, outputs, verdict)
    if not run.schedule.delays:
        wrong += out_of_order(records, done)
    twice = stored - Counter({*stored})
    explain(verdict, told, run.sent, run.schedule.REPEATING, twice=twice)
    return verdict


def judge_outputs(
    stored: Counter[str],
    poison: set[str],
    dead: Sequence[Any],
    outputs: Sequence[Any],
    verdict: Verdict,
) -> None:
    """Each record in the topic has its outputs once, or is a dead letter once."""
    wanted, letters = Counter[str](), Counter[str]()
    for name, times in stored.items():
        if name in poison:
            letters[name] += times
        else:
            wanted.update({f"{kind} {name}": times for kind in KINDS})
    there = Counter(record.value().decode() for record in outputs)
    dead_there = Counter(_Record.of(record).id for record in dead)
    verdict.outputs = there.total()
    lost = (wanted - there) + (letters - dead_there)
    verdict.lost += lost.total()
    verdict.wrong += [f"{times} times lost: {what}" for what, times in lost.items()]
    more = (there - wanted) + (dead_there - letters)
    verdict.wrong += [f"{times} times too many: {what}" for what, times in more.items()]


def out_of_order(records: Iterable[_Record], done: Sequence[Entry]) -> list[str]:
    """Of keys none of whose messages came again: whatever was handled before its predecessor."""
    place = {entry.which: at for at, entry in enumerate(done)}
    twice = {name for name, times in Counter(entry.which for entry in done).items() if times > 1}
    lanes: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    for record in records:
        lanes[record.partition, record.key].append(record.id)
    found: list[str] = []
    for (partition, key), names in lanes.items():
        order = [place[name] for name in names if name in place]
        if twice.isdisjoint(names) and order != sorted(order):
            found.append(f"key {key!r} of partition {partition} was handled out of order")
    return found
