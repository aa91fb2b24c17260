"""The measures by name, and running one of them in this interpreter, on a broker that runs."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import Figure, Settings, Spread, load, machine, python, ratios, rounds
from tests.bench.kafka import least, ours, peers, raw
from tests.bench.kafka.conditions import (
    IN_FLIGHT,
    PUBLISHED,
    READ,
    headers,
)
from tests.bench.kafka.sharing import workers

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("MEASURES", "READS", "SHARES")

READS = 100_000
SHARES = 400_000
"""Records of the topics that are read; of the second more than two processes get through."""
FASTSTREAM_READS = 1_500
PUBLISHES = 30_000
FASTSTREAM_PUBLISHES = 6_000
TOGETHER = 100
LATENCIES = 200


def _beside(
    label: str, each: dict[str, list[float]], other: str, note: str, **bounds: float
) -> Figure:
    """Ours beside one of the others, by the seconds that a message takes."""
    return Figure(
        label,
        "messages/s",
        ratios(each[other], each["ours"]),
        Spread.of([1 / s for s in each["ours"]]),
        Spread.of([1 / s for s in each[other]]),
        table="kafka",
        note=note,
        **bounds,
    )


def _least(label: str, each: dict[str, list[float]]) -> Figure:
    """What is left of the raw loop by going through an event loop at all."""
    own = {"ours": each["least"], "raw": each["raw"]}
    note = "`tests/bench/kafka/least.py`: a thread and an event loop, and nothing of ours"
    return _beside(f"{label}: the least that asyncio takes", own, "raw", note)


def _not_measured(label: str, why: str) -> Figure:
    return Figure(label, "messages/s", table="kafka", note=f"not measured: {why}")


def consume(settings: Settings, hosts: str) -> list[Figure]:
    """A full topic, read by a new group from its beginning."""
    number, few = settings.amount(READS), settings.amount(FASTSTREAM_READS)
    program = peers.Watermill.built()
    contenders: dict[str, Callable[[], float]] = {
        "ours": lambda: asyncio.run(ours.consume(hosts, number)) / number,
        "raw": lambda: raw.consume(hosts, READ, number) / number,
        "faststream": lambda: asyncio.run(peers.faststream_consume(hosts, READ, few)) / few,
        "least": lambda: asyncio.run(least.consume(hosts, READ, number)) / number,
    }
    if not isinstance(program, str):
        contenders["watermill"] = lambda: program.consume(hosts, number) / number
    each = rounds(contenders, settings.rounds)
    label = "consume, typed, beside"
    return [
        _beside(
            f"{label} raw `poll` and `consume`, and a bare model",
            each,
            "raw",
            f"{number:,} records a run; the raw loop has no event loop, no handler, and no acks: "
            "the library commits every 5 s",
            at_least=0.4,
            aim=0.6,
        ),
        _beside(
            f"{label} FastStream",
            each,
            "faststream",
            f"`AckPolicy.NACK_ON_ERROR`, {few:,} records a run; a commit for each message",
            at_least=30,
        ),
        _not_measured(f"{label} watermill-kafka", program)
        if isinstance(program, str)
        else _beside(
            f"{label} watermill-kafka",
            each,
            "watermill",
            f"{program.conditions}; its Router, and a handler that decodes into a struct; "
            "one message of a partition at a time",
            at_least=1,
        ),
        _least(f"{label} raw", each),
    ]


def publish(settings: Settings, hosts: str) -> list[Figure]:
    """Records of their own, with as many in flight as everybody may have."""
    number, few = settings.amount(PUBLISHES), settings.amount(FASTSTREAM_PUBLISHES)
    messages, records = ours.messages(number), [headers() for _ in range(number)]
    texts = [{name: str(value) for name, value in headers()} for _ in range(few)]
    program = peers.Watermill.built()
    contenders: dict[str, Callable[[], float]] = {
        "ours": lambda: asyncio.run(ours.publish(hosts, messages)) / number,
        "raw": lambda: raw.publish(hosts, PUBLISHED, records) / number,
        "together": lambda: (
            asyncio.run(ours.publish_together(hosts, messages, size=TOGETHER)) / number
        ),
        "events": lambda: asyncio.run(ours.publish_events(hosts, number)) / number,
        "faststream": lambda: asyncio.run(peers.faststream_publish(hosts, texts)) / few,
        "least": lambda: asyncio.run(least.publish(hosts, records)) / number,
    }
    if not isinstance(program, str):
        contenders["watermill"] = lambda: program.publish(hosts, number) / number
    each = rounds(contenders, settings.rounds)
    label = f"publish, {IN_FLIGHT:,} in flight, beside"
    figures = [
        _beside(
            f"{label} raw `produce` with delivery callbacks",
            each,
            "raw",
            f"{number:,} messages a run, each in a call of its own, in {IN_FLIGHT:,} tasks; the "
            "raw loop has no tasks and no futures",
            at_least=0.8,
            aim=1.0,
        ),
        _beside(
            f"{label} FastStream",
            each,
            "faststream",
            f"{few:,} messages a run; bytes, so that it encodes nothing; linger.ms 0, and no "
            "idempotence, as by default; a header of its own in addition",
            at_least=3,
        ),
        _not_measured(f"{label} watermill-kafka", program)
        if isinstance(program, str)
        else _beside(
            f"{label} watermill-kafka",
            each,
            "watermill",
            f"{program.conditions}; {IN_FLIGHT:,} goroutines, acks of all replicas, no idempotence",
            at_least=1,
        ),
    ]
    for contender, what in (
        ("together", f"{TOGETHER} messages in each call"),
        ("events", "events, encoded, four headers"),
    ):
        own = {"ours": each[contender], "raw": each["raw"]}
        figures.append(_beside(f"{label} raw: {what}", own, "raw", ""))
    return [*figures, _least(f"{label} raw", each)]


def latency(settings: Settings, hosts: str) -> list[Figure]:
    """One event at a time, while nothing else goes on."""
    number = settings.amount(LATENCIES)
    p50 = rounds(
        {
            "ours": lambda: statistics.median(asyncio.run(ours.latencies(hosts, number))) * 1e3,
            "raw": lambda: statistics.median(raw.latencies(hosts, number)) * 1e3,
        },
        settings.rounds,
    )
    more = [a - b for a, b in zip(p50["ours"], p50["raw"], strict=True)]
    return [
        Figure(
            "idle: publish → handled, p50, over raw `produce` and `poll`",
            "ms",
            ours=Spread.of(more),
            at_most=1.5,
            table="kafka",
            note=f"{number} events a run; ours {statistics.median(p50['ours']):.3g} ms, raw "
            f"{statistics.median(p50['raw']):.3g} ms, in one thread, with `linger.ms` 1 as well",
        )
    ]


MEASURES: dict[str, Callable[[Settings, str], list[Figure]]] = {
    "consume": consume,
    "publish": publish,
    "latency": latency,
    "workers": workers,
}


def main() -> None:
    """One measure in this process, for the command that runs them all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kafka.measures")
    parser.add_argument("name", choices=MEASURES)
    parser.add_argument("--hosts", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    before = load()
    settings = Settings(quick=given.quick, pairs=given.pairs)
    figures = MEASURES[given.name](settings, given.hosts)
    result = {
        "measure": f"kafka {given.name}",
        "python": python(),
        "machine": machine(),
        "load": [before, load()],
        "quick": given.quick,
        "figures": [figure.as_dict() for figure in figures],
    }
    given.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
