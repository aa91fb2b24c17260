"""The measures by name, and running one of them in this interpreter, on a broker that runs."""

from __future__ import annotations

import asyncio
import statistics
from functools import partial
from typing import TYPE_CHECKING

from tests.bench.command import answer
from tests.bench.harness import Figure, Settings, Spread, beside, not_measured, rounds
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
SHARES = 1_000_000
"""Records of the topics that are read; of the second more than two processes get through."""
FASTSTREAM_READS = 1_500
PUBLISHES = 30_000
FASTSTREAM_PUBLISHES = 6_000
TOGETHER = 100
LATENCIES = 200


_beside = partial(beside, "kafka")


def _least(label: str, each: dict[str, list[float]]) -> Figure:
    """What is left of the raw loop by going through an event loop at all."""
    note = "`tests/bench/kafka/least.py`: an event loop, and nothing of ours"
    return _beside(f"{label}: the least that asyncio takes", each, "raw", note, own="least")


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
        not_measured("kafka", f"{label} watermill-kafka", program)
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
        not_measured("kafka", f"{label} watermill-kafka", program)
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
        figures.append(_beside(f"{label} raw: {what}", each, "raw", "", own=contender))
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


if __name__ == "__main__":
    answer(
        "tests.bench.kafka.measures",
        MEASURES,
        lambda name, settings, hosts: MEASURES[name](settings, hosts),
        prefix="kafka ",
    )
