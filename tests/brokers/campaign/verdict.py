"""What each verdict has: counts, what must not be, and a reason for whatever came twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from tests.brokers.campaign.ledger import BEGUN, DONE, FAULT_BEGUN, FAULT_ENDED, Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.brokers.campaign.run import Sent

__all__ = ("BaseVerdict", "Window", "explain", "in_all")


class Window(NamedTuple):
    """A time in which messages may come again."""

    begin: float
    end: float
    what: str


@dataclass
class BaseVerdict:
    """What a run has shown.

    Attributes:
        BROKER: Whose campaign it is of.
        ECHO_S: Seconds after a fault in which it still has its effect.
        done: Ends of handlers, repeated ones included.
        lost: Of those that were stored: neither handled nor dead letters.
        duplicates: Ends of handlers beyond the first.
        causes: The fault nearest to each of those.
        wrong: What must not be.
    """

    BROKER: ClassVar[str]
    ECHO_S: ClassVar[float]

    done: int = 0
    lost: int = 0
    duplicates: int = 0
    causes: Counter[str] = field(default_factory=Counter[str], kw_only=True)
    wrong: list[str] = field(default_factory=list[str], kw_only=True)


def in_all(verdicts: Sequence[BaseVerdict]) -> str:
    """A line on all schedules of a campaign."""
    names = [one.name for one in fields(verdicts[0]) if one.name not in ("causes", "wrong")]
    names.sort(key=BaseVerdict.__dataclass_fields__.__contains__)  # the broker's first
    counts = (f"{sum(getattr(v, name) for v in verdicts):,} {name}" for name in names)
    causes = sum((v.causes for v in verdicts), Counter[str]())
    return (
        f"campaign on {verdicts[0].BROKER}: {len(verdicts)} schedules, messages: "
        f"{', '.join(counts)} {dict(causes.most_common())}"
    )


def explain(
    verdict: BaseVerdict,
    told: Sequence[Entry],
    sent: Mapping[str, Sent],
    repeating: Iterable[str],
    *,
    twice: Mapping[str, int] | None = None,
) -> None:
    """Finds the fault nearest to each end of a handler beyond the first; one has to be there.

    Args:
        verdict: Where it is written.
        told: All of the ledger.
        sent: Messages whose publish has ended, by id.
        repeating: Faults after which a message may come again.
        twice: How often a message was stored once more.
    """
    left = Counter(twice or {})
    windows = _windows(told, sent, {*repeating})
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
            if left[which]:
                left[which] -= 1
                verdict.causes["stored twice"] += 1
                continue
            causes = [w for w in windows if w.begin <= at and since <= w.end + verdict.ECHO_S]
            if causes:
                verdict.causes[max(causes).what] += 1
            else:
                verdict.wrong.append(f"{which} was done again without a reason, by {who}")


def _windows(told: Sequence[Entry], sent: Mapping[str, Sent], repeating: set[str]) -> list[Window]:
    """When messages may come again: while a fault lasts, or an odd handler."""
    open_: dict[tuple[str, str], tuple[float, str]] = {}
    windows: list[Window] = []
    for at, what, who, which in told:
        if what == FAULT_BEGUN and who in repeating:
            open_["", which] = at, who
        elif what == BEGUN and which in sent:
            payload = sent[which].message.payload
            odd = next((k for k in ("slow", "block") if f'"{k}"'.encode() in payload), None)
            if odd is not None:
                open_[who, which] = at, odd
        elif what in (FAULT_ENDED, DONE):
            begin, odd = open_.pop(("" if what == FAULT_ENDED else who, which), (at, ""))
            if odd:
                windows.append(Window(begin, at, odd))
    end = told[-1].at if told else 0.0
    return [*windows, *(Window(begin, end, what) for begin, what in open_.values())]
