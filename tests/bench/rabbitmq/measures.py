"""The measures by name, and running one of them in this interpreter, on a server that runs."""

from __future__ import annotations

import asyncio
import statistics
from functools import partial
from typing import TYPE_CHECKING

from eventflow.brokers.rabbitmq import PubSub
from tests.bench.command import answer
from tests.bench.harness import Figure, Settings, Spread, beside, not_measured, rounds
from tests.bench.rabbitmq import ours, peers, raw
from tests.bench.rabbitmq.conditions import (
    IN_FLIGHT,
    LATENCY,
    PUBLISHED,
    READ,
    SHARED,
    OrderShared,
    Place,
    headers,
    messages,
    queue_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("MEASURES",)

READS = 10_000
SLOW_READS = 2_000
PUBLISHES = 10_000
SLOW_PUBLISHES = 2_000
TOGETHER = 20
LATENCIES = 200

_beside = partial(beside, "rabbitmq")
_not_measured = partial(not_measured, "rabbitmq")


def _reading(
    address: str, number: int, run: Callable[[Place], float], *, is_classic: bool = False
) -> Callable[[], float]:
    """Seconds that a message takes, of so many that are in a queue."""
    topic, topology = (SHARED, PubSub(queue_type="classic")) if is_classic else (READ, PubSub())

    def read() -> float:
        with queue_of(address, topic, topology=topology, number=number) as place:
            return run(place) / number

    return read


def _publishing(address: str, number: int, run: Callable[[Place], float]) -> Callable[[], float]:
    """Seconds that a message takes, of so many that go into a new queue."""

    def publish() -> float:
        with queue_of(address, PUBLISHED) as place:
            return run(place) / number

    return publish


def consume(settings: Settings, address: str) -> list[Figure]:
    """A full queue, read by a new member of its group."""
    number, few = settings.amount(READS), settings.amount(SLOW_READS)
    program = peers.Watermill.built()
    contenders = {
        "ours": _reading(
            address, number, lambda its: asyncio.run(ours.consume(address, its, number))
        ),
        "raw": _reading(
            address, number, lambda its: asyncio.run(raw.consume(address, its, number))
        ),
        "faststream": _reading(
            address, few, lambda its: asyncio.run(peers.faststream_consume(address, its, few))
        ),
        "classic": _reading(
            address,
            number,
            lambda its: asyncio.run(ours.consume(address, its, number, OrderShared)),
            is_classic=True,
        ),
    }
    if not isinstance(program, str):
        contenders["watermill"] = _reading(
            address,
            number,
            lambda its: program.consume(address, its, number, prefetch=IN_FLIGHT),
            is_classic=True,
        )
        contenders["watermill as it comes"] = _reading(
            address,
            few,
            lambda its: program.consume(address, its, few, prefetch=0),
            is_classic=True,
        )
    each = rounds(contenders, settings.rounds)
    label = f"consume, typed, prefetch {IN_FLIGHT}, beside"
    figures = [
        _beside(
            f"{label} raw aio-pika, and a bare model",
            each,
            "raw",
            f"{number:,} messages a run, in a quorum queue; aio-pika's plain connection, a "
            "callback that decodes and acks each message",
            at_least=1.2,
            aim=1.8,
        ),
        _beside(
            f"{label} FastStream",
            each,
            "faststream",
            f"a quorum queue, `AckPolicy.NACK_ON_ERROR`, {few:,} messages a run; an ack for each",
            at_least=3,
        ),
    ]
    label = f"{label} watermill-amqp, from a classic queue"
    if isinstance(program, str):
        return [*figures, _not_measured(label, program)]
    return [
        *figures,
        _beside(
            label,
            each,
            "watermill",
            f"{program.conditions}; the durable queue that it declares, for both; its Router, and "
            "a handler that decodes into a struct; one message at a time",
            own="classic",
            at_least=1,
        ),
        _beside(
            f"{label}, with its own prefetch",
            each,
            "watermill as it comes",
            f"of 1 message; {few:,} messages a run",
            own="classic",
        ),
    ]


def publish(settings: Settings, address: str) -> list[Figure]:
    """To an exchange with a quorum queue, with as many unconfirmed as everybody may have."""
    number, few = settings.amount(PUBLISHES), settings.amount(SLOW_PUBLISHES)
    given, made = messages(number), raw.messages(number)
    texts = [headers() for _ in range(few)]
    program = peers.Watermill.built()
    contenders = {
        "ours": _publishing(
            address, number, lambda its: asyncio.run(ours.publish(address, its, given))
        ),
        "raw": _publishing(
            address, number, lambda its: asyncio.run(raw.publish(address, its, made))
        ),
        "together": _publishing(
            address,
            number,
            lambda its: asyncio.run(ours.publish_together(address, its, given, size=TOGETHER)),
        ),
        "events": _publishing(
            address, number, lambda _: asyncio.run(ours.publish_events(address, number))
        ),
        "faststream": _publishing(
            address, few, lambda its: asyncio.run(peers.faststream_publish(address, its, texts))
        ),
    }
    if not isinstance(program, str):
        contenders["watermill"] = _publishing(
            address, number, lambda its: program.publish(address, its, number, confirms=True)
        )
        contenders["watermill as it comes"] = _publishing(
            address, few, lambda its: program.publish(address, its, few, confirms=False)
        )
    each = rounds(contenders, settings.rounds)
    label = f"publish, confirmed, {IN_FLIGHT} in flight, beside"
    figures = [
        _beside(
            f"{label} raw aio-pika",
            each,
            "raw",
            f"{number:,} messages a run, each in a call of its own, in {IN_FLIGHT} tasks on "
            "either side; persistent, `mandatory`, one channel",
            at_least=1.0,
            aim=1.5,
        ),
        _beside(
            f"{label} FastStream",
            each,
            "faststream",
            f"{few:,} messages a run, `persist=True`; bytes, so that it encodes nothing",
            at_least=2,
        ),
    ]
    if isinstance(program, str):
        figures.append(_not_measured(f"{label} watermill-amqp", program))
    else:
        figures += [
            _beside(
                f"{label} watermill-amqp",
                each,
                "watermill",
                f"{program.conditions}; `ConfirmDelivery`, {IN_FLIGHT} goroutines, and a pool of "
                "as many channels",
                at_least=1,
            ),
            _beside(
                f"{label} watermill-amqp without confirms",
                each,
                "watermill as it comes",
                f"as by default, with a channel opened for each publish; {few:,} messages a run",
                at_least=1,
            ),
        ]
    for contender, what in (
        ("together", f"{TOGETHER} messages in each call"),
        ("events", "events, encoded, four headers"),
    ):
        figures.append(_beside(f"{label} raw aio-pika: {what}", each, "raw", "", own=contender))
    return figures


def latency(settings: Settings, address: str) -> list[Figure]:
    """One event at a time, while nothing else goes on."""
    number = settings.amount(LATENCIES)

    def median_of(run: Callable[[Place], list[float]]) -> Callable[[], float]:
        def one() -> float:
            with queue_of(address, LATENCY) as place:
                return statistics.median(run(place)) * 1e3

        return one

    p50 = rounds(
        {
            "ours": median_of(lambda its: asyncio.run(ours.latencies(address, its, number))),
            "raw": median_of(lambda its: asyncio.run(raw.latencies(address, its, number))),
        },
        settings.rounds,
    )
    more = [a - b for a, b in zip(p50["ours"], p50["raw"], strict=True)]
    return [
        Figure(
            "idle: publish → handled, p50, over raw aio-pika",
            "ms",
            ours=Spread.of(more),
            at_most=1,
            table="rabbitmq",
            note=f"{number} events a run, through a quorum queue; ours "
            f"{statistics.median(p50['ours']):.3g} ms, aio-pika "
            f"{statistics.median(p50['raw']):.3g} ms",
        )
    ]


MEASURES: dict[str, Callable[[Settings, str], list[Figure]]] = {
    "consume": consume,
    "publish": publish,
    "latency": latency,
}


if __name__ == "__main__":
    answer(
        "tests.bench.rabbitmq.measures",
        MEASURES,
        lambda name, settings, address: MEASURES[name](settings, address),
        prefix="rabbitmq ",
    )
