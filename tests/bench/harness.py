"""Running contenders against each other, and saying what came out.

Machines are shared, clocks drift, and caches warm up, so only ratios count: every contender
runs once a round, right beside the others, and the ratio is taken within the round. The
order turns by one place each round, so that nobody always follows the same neighbour.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = (
    "Figure",
    "Spread",
    "beside",
    "clean",
    "load",
    "machine",
    "not_measured",
    "python",
    "ratios",
    "rounds",
)

MIN_PAIRS = 9


@dataclass(frozen=True)
class Spread:
    """What many rounds gave: median, quartiles, smallest and largest."""

    median: float
    low: float
    high: float
    first_quartile: float
    third_quartile: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        quartiles = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        )
        return cls(
            statistics.median(values),
            min(values),
            max(values),
            quartiles[0],
            quartiles[2],
            len(values),
        )


@dataclass(frozen=True)
class Figure:
    """One row of a table.

    Attributes:
        label: What was measured.
        ratio: Ours beside the other, as said in `meaning`; ``None`` for a plain value.
        ours: Our own value, with `unit`.
        other: The value of what it is compared with.
        at_least: The ratio (or without one the value) that has to be reached.
        at_most: The ratio (or without one the value) that must not be passed.
        aim: The ratio or value that is aimed at.
        note: What a reader has to know beside the figure.
        table: Which table of the page it belongs to.
    """

    label: str
    unit: str
    ratio: Spread | None = None
    ours: Spread | None = None
    other: Spread | None = None
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None
    note: str = ""
    table: str = "figures"

    @property
    def judged(self) -> float | None:
        """The number that `at_least` and `at_most` are about."""
        spread = self.ratio or self.ours
        return None if spread is None else spread.median

    @property
    def verdict(self) -> str:
        """``reached`` or ``missed``; empty where nothing has to be reached."""
        if self.judged is None or (self.at_least is None and self.at_most is None):
            return ""
        good = (self.at_least is None or self.judged >= self.at_least) and (
            self.at_most is None or self.judged <= self.at_most
        )
        return "reached" if good else "missed"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Figure:
        values = dict(data)
        for key in ("ratio", "ours", "other"):
            if values[key] is not None:
                values[key] = Spread(**values[key])
        return cls(**values)


@dataclass
class Settings:
    """How much to run.

    Attributes:
        quick: A tenth of the work and no more than the least number of rounds.
        pairs: Rounds that count.
    """

    quick: bool = False
    pairs: int = 15
    notes: list[str] = field(default_factory=list[str])

    def amount(self, full: int) -> int:
        """So many of something in a full run, fewer in a quick one."""
        return max(1, full // 10) if self.quick else full

    @property
    def rounds(self) -> int:
        return MIN_PAIRS if self.quick else max(self.pairs, MIN_PAIRS)


def clean() -> None:
    """The same start for every run: no garbage left, and what exists is not looked at again.

    The collector stays on, as it is in a program, so what a contender leaves for it to do
    counts against that contender, and against nobody else.
    """
    gc.collect()
    gc.freeze()


def rounds(
    contenders: Mapping[str, Callable[[], float]], number: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Run every contender once a round; returns its values, round by round."""
    names = list(contenders)
    values: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, number):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            clean()
            value = contenders[name]()
            if turn >= 0:
                values[name].append(value)
    return values


def ratios(above: list[float], below: list[float]) -> Spread:
    """The quotients, round by round."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


def beside(
    table: str,
    label: str,
    each: Mapping[str, list[float]],
    other: str,
    note: str,
    *,
    own: str = "ours",
    **bounds: float,
) -> Figure:
    """Two contenders' messages a second, by the seconds that a message takes."""
    return Figure(
        label,
        "messages/s",
        ratios(each[other], each[own]),
        Spread.of([1 / s for s in each[own]]),
        Spread.of([1 / s for s in each[other]]),
        table=table,
        note=note,
        **bounds,
    )


def not_measured(table: str, label: str, why: str) -> Figure:
    """The row of what can't run here."""
    return Figure(label, "messages/s", table=table, note=f"not measured: {why}")


def load() -> str:
    """The load average over the last minute, as text."""
    return f"{os.getloadavg()[0]:.2f}"


def python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def machine() -> str:
    """Processor, cores and memory: what the figures depend on, and no name of the machine."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {cores} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"
