"""Publishing when 100,000 other topics are subscribed."""

from __future__ import annotations

import asyncio
import random
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from eventflow import EventBus
from tests.bench import contenders
from tests.bench.harness import Figure, Settings, Spread, ratios, rounds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from eventflow import Event

__all__ = ("topics",)


def _event_on(topic: str) -> Event:
    """An event of a class of its own with this topic.

    A class made by pydantic takes a millisecond and tens of KiB, which 100,000 of them would
    turn into the measure of something else. These are made by `type` itself: true subclasses
    with a topic, whose instances share the parent's validator.
    """
    meta: Any = type(contenders.Ping)
    kind = type.__new__(meta, "Ping", (contenders.Ping,), {"__slots__": ()}, topic=topic)
    event = contenders.Ping(order_id="A-1", amount_cents=1)
    object.__setattr__(event, "__class__", kind)
    return event


def _overhead_ns() -> int:
    """What reading the clock twice takes."""
    spans: list[int] = []
    for _ in range(2_000):
        began = perf_counter_ns()
        spans.append(perf_counter_ns() - began)
    return sorted(spans)[len(spans) // 2]


async def _publish_each(publish: Callable[[Any], Awaitable[None]], events: Iterable[Any]) -> float:
    """Microseconds for one publish, each to a subscriber that waits; handling is not timed."""
    spans: list[int] = []
    for event in events:
        began = perf_counter_ns()
        await publish(event)
        spans.append(perf_counter_ns() - began)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    spans.sort()
    middle = spans[len(spans) // 4 : -len(spans) // 4]
    return (sum(middle) / len(middle) - _overhead_ns()) / 1e3


def topics(settings: Settings) -> list[Figure]:
    """One topic, one hot topic of many, and all of many in random order; queues as a control."""
    many, number = settings.amount(100_000), settings.amount(50_000)
    names = [f"bench.shop-{i}.placed" for i in range(many)]
    events = [_event_on(name) for name in names]
    # The other clock of this measure: the same walk through memory, with bare queues.
    queues = {type(event): asyncio.Queue[Any]() for event in events}
    lonely = {type(events[0]): asyncio.Queue[Any]()}
    shuffled = random.Random(7)

    async def put(table: dict[type[Event], asyncio.Queue[Any]], order: list[Event]) -> float:
        async def one(event: Event) -> None:
            queue = table[type(event)]
            queue.put_nowait(event)
            queue.get_nowait()

        return await _publish_each(one, order)

    with asyncio.Runner() as runner:
        small, large = EventBus("small", drain_timeout=60), EventBus("large", drain_timeout=60)
        small.subscribe(names[0], contenders.handle)
        for name in names:
            large.subscribe(name, contenders.handle, name=name)

        async def enter() -> None:
            await small.__aenter__()
            await large.__aenter__()
            for event in events:
                await large.publish(event)
            await large.wait_idle()

        async def leave() -> None:
            await large.__aexit__(None, None, None)
            await small.__aexit__(None, None, None)

        runner.run(enter())
        hot = [events[0]] * number
        times = rounds(
            {
                "one": lambda: runner.run(_publish_each(small.publish, hot)),
                "hot": lambda: runner.run(_publish_each(large.publish, hot)),
                "random": lambda: runner.run(
                    _publish_each(large.publish, shuffled.choices(events, k=number))
                ),
                "queue": lambda: runner.run(put(lonely, hot)),
                "queues": lambda: runner.run(put(queues, shuffled.choices(events, k=number))),
            },
            settings.rounds,
        )
        runner.run(leave())
    label = f"publish to one of {many:,} topics subscribed by string"
    control = ratios(times["queues"], times["queue"])
    walk = (
        "beside a bus with one topic; the same walk through as many bare queues in a dict, "
        f"put and get, costs {control.median:.2f} times one queue"
    )
    return [
        Figure(
            f"{label}, {how}",
            "µs",
            ratios(times[key], times["one"]),
            Spread.of(times[key]),
            Spread.of(times["one"]),
            at_most=1.15,
            aim=1.0,
            note=note,
        )
        for key, how, note in (
            ("hot", "one hot topic", "beside a bus with one topic"),
            ("random", "random order", walk),
        )
    ]
