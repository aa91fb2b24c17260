"""Compares what was published, what was stored and what was done, all as seen from outside."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tests.brokers.kafka.campaign.ledger import (
    BEGUN,
    DONE,
    FAILED,
    FAULT_BEGUN,
    FAULT_ENDED,
    Entry,
)
from tests.brokers.rabbitmq.campaign.schedule import REPEATING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.brokers.rabbitmq.campaign.run import Run

__all__ = ("Verdict", "judge")

ECHO_S = 8.0
"""Seconds after a fault in which it still has its effect: silence that is noticed, and back-off."""


class Window(NamedTuple):
    """A time in which messages may come again."""

    begin: float
    end: float
    what: str


@dataclass
class Verdict:
    """What a run has shown.

    Attributes:
        stored: Messages that were confirmed.
        refused: Messages of which it was said that they were not stored.
        unknown: Messages that may be stored.
        done: Ends of handlers, repeated ones included.
        lost: Of those that were stored: neither handled nor dead letters.
        duplicates: Ends of handlers beyond the first.
        causes: The fault nearest to each of those.
        wrong: What must not be.
    """

    stored: int = 0
    refused: int = 0
    unknown: int = 0
    done: int = 0
    lost: int = 0
    duplicates: int = 0
    causes: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])


def judge(run: Run, told: Sequence[Entry]) -> Verdict:
    """The verdict on a run that has got quiet.

    Args:
        run: The run.
        told: All of the ledger.
    """
    said = Counter(sent.verdict for sent in run.sent.values())
    verdict = Verdict(said["stored"], said["not_stored"], said["unknown"])
    wrong = verdict.wrong
    done = Counter(entry.which for entry in told if entry.what == DONE)
    failed = {entry.which for entry in told if entry.what == FAILED}
    letters = Counter(run.letters)
    copies = Counter(name for name, _ in run.copies)
    poison = {i for i, sent in run.sent.items() if b'"poison"' in sent.message.payload}
    ended = done.keys() | letters.keys()

    for name, (_, what) in run.sent.items():
        if what == "stored" and name not in ended:
            verdict.lost += 1
            wrong.append(f"{name} was confirmed, and neither handled nor a dead letter")
        if what == "not_stored" and (name in ended or name in copies or name in failed):
            wrong.append(f"{name} is said not to be stored, and is")
        if run.has_copies and what == "stored" and not copies[name]:
            wrong.append(f"{name} was confirmed, and is not there")
    for name, body in run.copies:
        if name not in run.sent:
            wrong.append(f"{name} was never published")
        elif body != run.sent[name].message.payload:
            wrong.append(f"{name} was altered")
        elif name not in ended:
            verdict.lost += 1
            wrong.append(f"{name} is there, and was not handled")
    wrong += [f"{name} is there {n} times" for name, n in copies.items() if n > 1]
    wrong += [f"{name} was handled, and never published" for name in ended - run.sent.keys()]
    wrong += [f"{name} is a dead letter, and no poison" for name in letters.keys() - poison]
    wrong += [f"{name} is poison, and was handled" for name in done.keys() & poison]
    if run.left:
        wrong.append(f"{run.left} messages were left in the queue")

    verdict.done = done.total()
    verdict.duplicates = done.total() - len(done)
    _explain(run, told, verdict)
    return verdict


def _explain(run: Run, told: Sequence[Entry], verdict: Verdict) -> None:
    """Finds the fault nearest to each end of a handler beyond the first; one has to be there."""
    windows = _windows(run, told)
    began: dict[tuple[str, str], float] = {}
    before: dict[str, float] = {}
    for at, what, who, which in told:
        if what == BEGUN:
            began[which, who] = at
        elif what == DONE:
            since = before.get(which)
            before[which] = began[which, who]
            if since is None:
                continue
            causes = [w for w in windows if w.begin <= at and since <= w.end + ECHO_S]
            if causes:
                verdict.causes[max(causes).what] += 1
            else:
                verdict.wrong.append(f"{which} was done again without a reason, by {who}")


def _windows(run: Run, told: Sequence[Entry]) -> list[Window]:
    """When messages may come again: while a fault lasts, or an odd handler."""
    open_: dict[tuple[str, str], tuple[float, str]] = {}
    windows: list[Window] = []
    for entry in told:
        if entry.what == FAULT_BEGUN and entry.who in REPEATING:
            open_["", entry.which] = entry.at, entry.who
        elif entry.what == FAULT_ENDED and ("", entry.which) in open_:
            begin, what = open_.pop(("", entry.which))
            windows.append(Window(begin, entry.at, what))
        elif entry.what in (BEGUN, DONE) and (sent := run.sent.get(entry.which)) is not None:
            odd = next((k for k in ("slow", "block") if f'"{k}"'.encode() in sent[0].payload), None)
            if odd is None:
                continue
            if entry.what == BEGUN:
                open_[entry.who, entry.which] = entry.at, odd
            elif (entry.who, entry.which) in open_:
                begin, what = open_.pop((entry.who, entry.which))
                windows.append(Window(begin, entry.at, what))
    end = told[-1].at if told else 0.0
    return [*windows, *(Window(begin, end, what) for begin, what in open_.values())]
