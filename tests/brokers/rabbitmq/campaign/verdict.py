"""Compares what was published, what was stored and what was done, all as seen from outside."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.brokers.campaign.ledger import DONE, FAILED, Entry
from tests.brokers.campaign.verdict import BaseVerdict, explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.brokers.rabbitmq.campaign.run import Run

__all__ = ("Verdict", "judge")

ROUNDED_S = 0.0001
"""What the ledger's times may differ by, as they are written."""


@dataclass
class Verdict(BaseVerdict):
    """What a run has shown.

    Attributes:
        stored: Messages that were confirmed.
        refused: Messages of which it was said that they were not stored.
        unknown: Messages that may be stored.
        acked: Deliveries that were acked.
        given_back: Deliveries that were nacked.
    """

    BROKER = "RabbitMQ"
    ECHO_S = 8.0  # silence that is noticed, and back-off

    stored: int = 0
    refused: int = 0
    unknown: int = 0
    acked: int = 0
    given_back: int = 0


def judge(run: Run, told: Sequence[Entry]) -> Verdict:
    """The verdict on a run that has got quiet.

    Args:
        run: The run.
        told: All of the ledger.
    """
    said = Counter(sent.verdict for sent in run.sent.values())
    verdict = Verdict(stored=said["stored"], refused=said["not_stored"], unknown=said["unknown"])
    wrong = verdict.wrong
    done = Counter(entry.which for entry in told if entry.what == DONE)
    failed = {entry.which for entry in told if entry.what == FAILED}
    letters = Counter(run.letters)
    copies = Counter(name for name, _ in run.copies)
    poison = {i for i, sent in run.sent.items() if b'"poison"' in sent.message.payload}
    ended = done.keys() | letters.keys()
    acked = {ack.which for ack in run.tap.acked}
    verdict.acked = len(run.tap.acked)
    verdict.given_back = run.tap.given_back
    lost: set[str] = set()

    wrong += [f"{name} was acked before it was handled" for name in _too_early(run, told)]
    wrong += run.tap.wrong
    for name, (_, _, what) in run.sent.items():
        if what == "stored" and name not in ended:
            lost.add(name)
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
            lost.add(name)
            wrong.append(f"{name} is there, and was not handled")
    wrong += [f"{name} is there {n} times" for name, n in copies.items() if n > 1]
    wrong += [f"{name} was handled, and never published" for name in ended - run.sent.keys()]
    wrong += [f"{name} is a dead letter, and no poison" for name in letters.keys() - poison]
    wrong += [f"{name} is poison, and was handled" for name in done.keys() & poison]
    wrong += [f"{name} is done, and was never acked" for name in ended - acked]
    if run.left:
        wrong.append(f"{run.left} messages were left in the queue")

    wrong += filter(None, [run.noise])
    verdict.lost = len(lost)
    verdict.done = done.total()
    verdict.duplicates = done.total() - len(done)
    explain(verdict, told, run.sent, run.schedule.REPEATING)
    return verdict


def _too_early(run: Run, told: Sequence[Entry]) -> list[str]:
    """Of the deliveries that were acked: those that no handler had come to an end with by then."""
    ends: dict[str, list[float]] = defaultdict(list)
    for entry in told:
        if entry.what in (DONE, FAILED):
            ends[entry.which].append(entry.at)
    return [
        ack.which
        for ack in run.tap.acked
        if not any(
            ack.came <= at + ROUNDED_S and at <= ack.at + ROUNDED_S for at in ends[ack.which]
        )
    ]
