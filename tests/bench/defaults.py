"""What each default costs: the bus with one of them taken out at a time.

What an option can switch off is switched off by that option. The rest can't be switched off,
and should not be; for this measure alone the package is copied, a line of the copy is
changed, and the copy is imported beside the original. The copy breaks a promise each time,
which the label names.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import eventflow
from tests.bench import contenders
from tests.bench.harness import Figure, Settings, Spread, ratios, rounds

__all__ = ("VARIANTS", "cut", "defaults")

CACHE = Path(".cache/bench/variants").resolve()


@dataclass(frozen=True)
class Variant:
    """One default taken out.

    Attributes:
        label: Which.
        without: What breaks without it.
        options: Options of `subscribe` that switch it off.
        cuts: File of the package, what to find in it (a regular expression that has to fit
            once), and what to write there.
    """

    label: str
    without: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    cuts: tuple[tuple[str, str, str], ...] = ()


WORKER, DISPATCH = "bus/_worker.py", "bus/_dispatch.py"
RUN = r"(?s)(    async def run\(self\).*?)"  # the hot loop is the method run()

VARIANTS = (
    Variant("`timeout=30`", "a handler that hangs, hangs for ever", {"timeout": None}),
    Variant(
        "the event in `current()`",
        "no `current()`, no ids in log lines",
        cuts=((WORKER, RUN + r"cell\.item, cell\.started = item, now", r"\1pass"),),
    ),
    Variant(
        "a context of its own for each event",
        "BUS-13, BUS-14: bound contextvars reach the next event, a child task logs a later id",
        cuts=(
            (WORKER, RUN + r"if references\(tree\) != of_tree or [^:]+:", r"\1if cell is None:"),
        ),
    ),
    Variant(
        "a clock reading per event",
        "timeouts and the 5 ms slice measured from the last pause",
        cuts=((WORKER, RUN + r"\n +now = clock\(\)(?=\n +if references)", r"\1"),),
    ),
    Variant(
        "how long handlers take",
        "no latencies in `statistics()`",
        cuts=((WORKER, RUN + r"if now >= sample\.due:", r"\1if False:"),),
    ),
    Variant(
        "a swallowed cancel is seen",
        "a handler that swallows cancellation can't be stopped",
        cuts=((WORKER, RUN + r"is None and cancelling\(\) == [\w.]+:", r"\1is None:"),),
    ),
    Variant(
        "causation",
        "correlation and causation ids do not follow",
        cuts=((DISPATCH, r"(?s)(async def publish\(.*?)cause = \w+\.get\(\)", r"\1cause = None"),),
    ),
    Variant(
        "the wrong loop, thread or process is refused",
        "a publish from another thread corrupts",
        cuts=((DISPATCH, r"(?s)(async def publish\(.*?is None) or \(\n.*?\n {8}\):", r"\1:"),),
    ),
    Variant(
        "the counts",
        "the ledger does not add up",
        cuts=(
            (WORKER, RUN + r"inbox\.handled \+= 1(?=\n +elif)", r"\1pass"),
            (DISPATCH, r"(?s)(async def publish\(.*?)\n +inbox\.offered \+= 1", r"\1"),
        ),
    ),
    Variant(
        "the checkpoint every 256 publishes",
        "a publisher that never waits lets nobody run before the buffer is full",
        cuts=((DISPATCH, r"(?m)^CHECKPOINT_EVERY = \d+$", "CHECKPOINT_EVERY = 1 << 60"),),
    ),
)


def _copy(variant: Variant, number: int) -> Path:
    """A copy of the package with the cuts made."""
    package = CACHE / f"{number}" / "eventflow"
    shutil.rmtree(package, ignore_errors=True)
    source = Path(eventflow.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, pattern, replacement in variant.cuts:
        file = package / name
        file.write_text(cut(file.read_text(), pattern, replacement))
    return package.parent


def cut(text: str, pattern: str, replacement: str) -> str:
    """The text with the one place replaced that the pattern fits."""
    changed, fits = re.subn(pattern, replacement, text)
    if fits != 1:
        raise LookupError(f"{pattern} fits in {fits} places and not in one")
    return changed


def _imported(root: Path) -> tuple[type[eventflow.Event], type[eventflow.EventBus]]:
    """An event class and the bus of a copy, which leaves no trace in `sys.modules`."""
    kept = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.partition(".")[0] == "eventflow"
    }
    sys.path.insert(0, str(root))
    try:
        copy: Any = importlib.import_module("eventflow")
        assert Path(copy.__file__).is_relative_to(root)

        class Ping(copy.Event, topic="bench.ping"):  # type: ignore[call-arg, misc]
            order_id: str
            amount_cents: int

        return Ping, copy.EventBus
    finally:
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if name.partition(".")[0] == "eventflow"]:
            del sys.modules[name]
        sys.modules.update(kept)


async def _uncounted(
    events: list[Any], bus_class: Any, event_class: Any, options: dict[str, Any]
) -> float:
    """As `contenders.ours`, but the end is seen by the handler: a variant may not count."""
    from time import perf_counter

    last = events[-1]
    ended = 0.0

    async def handle(event: object) -> None:
        nonlocal ended
        if event is last:
            ended = perf_counter()

    async with bus_class() as bus:
        bus.subscribe(event_class, handle, **options)
        began = perf_counter()
        for event in events:
            await bus.publish(event)
    return ended - began


def defaults(settings: Settings) -> list[Figure]:
    """Every variant in rounds with the whole bus, one subscriber."""
    number = settings.amount(50_000)
    figures: list[Figure] = []
    built: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {}
    built["whole"] = (*_imported(_copy(Variant("", ""), 0)), {})
    for index, variant in enumerate(VARIANTS, 1):
        built[variant.label] = (*_imported(_copy(variant, index)), variant.options)

    def contender(name: str) -> Any:
        event_class, bus_class, options = built[name]
        events = [event_class(order_id="A-1", amount_cents=i) for i in range(number)]
        return lambda: contenders.run(_uncounted(events, bus_class, event_class, options))

    times = rounds({name: contender(name) for name in built}, settings.rounds)
    for variant in VARIANTS:
        whole_times, part_times = times["whole"], times[variant.label]
        costs = [(a - b) / number * 1e9 for a, b in zip(whole_times, part_times, strict=True)]
        figures.append(
            Figure(
                variant.label,
                "ns",
                ratios(whole_times, part_times),
                Spread.of(costs),
                note=f"without it: {variant.without}",
                table="defaults",
            )
        )
    return figures
