"""Publish → handled, beside the baseline and the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.bench import contenders, watermill
from tests.bench.harness import Figure, Settings, Spread, ratios, rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("fan_out", "peers", "single", "watermill_pair")


def _per_second(seconds: list[float], deliveries: int) -> Spread:
    return Spread.of([deliveries / s for s in seconds])


def _timed(
    contender: Callable[..., Any], events: Sequence[object], **options: Any
) -> Callable[[], float]:
    return lambda: contenders.run(contender(events, **options))


def single(settings: Settings) -> list[Figure]:
    """One subscriber."""
    number = settings.amount(100_000)
    events = contenders.pings(number)
    times = rounds(
        {"ours": _timed(contenders.ours, events), "queue": _timed(contenders.queue, events)},
        settings.rounds,
        warm_up=2,
    )
    return [
        Figure(
            "publish → handled, 1 subscriber",
            "events/s",
            ratios(times["queue"], times["ours"]),
            _per_second(times["ours"], number),
            _per_second(times["queue"], number),
            at_least=0.95,
            aim=1.3,
            note=f"{number:,} events a run",
        )
    ]


def fan_out(settings: Settings) -> list[Figure]:
    """Ten and a hundred subscribers, each with a buffer and a task of its own."""
    figures: list[Figure] = []
    for subscribers in (10, 100):
        number = settings.amount(200_000) // subscribers
        events = contenders.pings(number)
        times = rounds(
            {
                "ours": _timed(contenders.ours, events, subscribers=subscribers),
                "queue": _timed(contenders.queue, events, subscribers=subscribers),
            },
            settings.rounds,
        )
        deliveries = number * subscribers
        figures.append(
            Figure(
                f"deliveries with {subscribers} subscribers",
                "deliveries/s",
                ratios(times["queue"], times["ours"]),
                _per_second(times["ours"], deliveries),
                _per_second(times["queue"], deliveries),
                at_least=1.3,
                aim=2.0,
                note=f"{deliveries:,} deliveries a run",
            )
        )
    return figures


PEERS: dict[str, tuple[str, int, str]] = {
    "direct": (
        "`await handler(event)`",
        100_000,
        "no buffer, no task, no isolation: a floor, not a bus",
    ),
    "anyio_stream": (
        "anyio memory object stream, 1024",
        30_000,
        "no fan-out, no timeout, no counts",
    ),
    "pyee": (
        "pyee `AsyncIOEventEmitter`",
        30_000,
        "a task for each call; no buffer, no backpressure, no order",
    ),
    "blinker": (
        "blinker `send_async`",
        100_000,
        "the publisher waits for the handler, and gets its error",
    ),
    "bubus": ("bubus", 200, "waits until idle after every 50 events: it takes 100 at most"),
}


def _bubus(number: int) -> Callable[[], float]:
    """Fresh events for every run, made before it: they keep their results."""
    return lambda: contenders.run(contenders.bubus(contenders.bubus_events(number)))


def peers(settings: Settings) -> list[Figure]:
    """The other libraries, one after another, each in rounds with ours."""
    figures: list[Figure] = []
    amount = settings.amount(100_000)
    events = contenders.pings(amount)
    for name, (label, full, note) in PEERS.items():
        number = full if name == "bubus" else settings.amount(full)
        if name == "bubus" and settings.quick:
            number = 100
        theirs = contenders.pings(number)
        run = _bubus(number) if name == "bubus" else _timed(getattr(contenders, name), theirs)
        times = rounds({"ours": _timed(contenders.ours, events), name: run}, settings.rounds)
        ours = [amount / s for s in times["ours"]]
        others = [number / s for s in times[name]]
        figures.append(
            Figure(
                label,
                "events/s",
                ratios(ours, others),
                Spread.of(ours),
                Spread.of(others),
                at_least=1000 if name == "bubus" else None,
                note=note,
                table="peers",
            )
        )
    return figures


def watermill_pair(settings: Settings) -> list[Figure]:
    """Watermill, in Go, beside ours."""
    program = watermill.build()
    if isinstance(program, str):
        return [Figure("Watermill", "events/s", note=f"not measured: {program}", table="peers")]
    figures: list[Figure] = []
    amount = settings.amount(100_000)
    events = contenders.pings(amount)
    for kind, label, at_least in (
        ("gochannel", "Watermill GoChannel, live", None),
        ("router", "Watermill Router", 8.0),
    ):
        answers: list[watermill.Answer] = []

        def run(kind: str = kind, answers: list[watermill.Answer] = answers) -> float:
            answers.append(program.run(kind, messages=settings.amount(100_000)))
            return answers[-1].seconds_each

        times = rounds({"ours": _timed(contenders.ours, events), kind: run}, settings.rounds)
        ours = [amount / s for s in times["ours"]]
        others = [1 / s for s in times[kind]]
        figures.append(
            Figure(
                label,
                "events/s",
                ratios(ours, others),
                Spread.of(ours),
                Spread.of(others),
                at_least=at_least,
                note=answers[-1].conditions,
                table="peers",
            )
        )
    return figures
