"""The router over ``memory://``, beside a queue, a bare subscriber loop and Watermill's router.

Every contender is given the same JSON bodies, made beforehand: the queue as bytes, the others
as messages. Each is published on its own, decoded, handled by the same coroutine function, and
acked where there are acks; timed from the first publish to the end of the last handler. Setting
up and taking down is not timed.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from eventflow.brokers.memory import MemoryBroker
from eventflow.messaging import Message, Router
from eventflow.messaging.metadata import NAME, OCCURRED_AT, format_time
from tests.bench import watermill
from tests.bench.contenders import CAPACITY, Ping, pings, run
from tests.bench.harness import Figure, Settings, Spread, clean, ratios, rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.messaging import Delivery, Subscriber
    from eventflow.messaging.middleware import CallNext

__all__ = ("handlers", "middlewares", "router")

TOPIC = "bench.ping"
GROUP = "bench"


class Bare(BaseModel):
    """What an event is without eventflow."""

    order_id: str
    amount_cents: int


class Last:
    """A handler that does nothing but notice the last of so many calls."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.came = asyncio.get_running_loop().create_future()

    async def __call__(self, event: object) -> None:
        self._left -= 1
        if not self._left:
            self.came.set_result(None)


def _bodies(number: int) -> list[bytes]:
    return [event.to_json() for event in pings(number)]


def _messages(number: int) -> list[Message]:
    """What a publisher of events hands to a broker."""
    return [
        Message(
            event.to_json(),
            {NAME: "Ping", OCCURRED_AT: format_time(event.occurred_at)},
            id=event.id,
        )
        for event in pings(number)
    ]


async def queue(bodies: Sequence[bytes]) -> float:
    """The baseline: an `asyncio.Queue` and a task that decodes with a bare model."""
    waiting, handle = asyncio.Queue[bytes](maxsize=CAPACITY), Last(len(bodies))

    async def consume() -> None:
        for _ in bodies:
            await handle(Bare.model_validate_json(await waiting.get()))

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0)
    began = perf_counter()
    for body in bodies:
        await waiting.put(body)
    await handle.came
    took = perf_counter() - began
    await consumer
    return took


async def bare(messages: Sequence[Message]) -> float:
    """A subscriber's deliveries in a loop, as many at once as the router asks for."""
    async with MemoryBroker() as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group=GROUP)
        await subscriber.prepare(TOPIC)
        handle = Last(len(messages))
        consumer = asyncio.create_task(_consume(subscriber, len(messages), handle))
        await asyncio.sleep(0)
        began = perf_counter()
        for message in messages:
            await publisher.publish(TOPIC, message)
        await handle.came
        took = perf_counter() - began
        await consumer
        return took


async def _consume(subscriber: Subscriber, number: int, handle: Last) -> None:
    async with subscriber.subscribe(TOPIC) as deliveries:
        while number:
            for delivery in await deliveries.receive(500):
                message = delivery.message
                event = Ping.from_json(
                    message.payload,
                    event_id=message.id,
                    occurred_at=message.metadata.get(OCCURRED_AT),
                )
                await handle(event)
                delivery.ack()
                number -= 1


async def ours(messages: Sequence[Message], *, middlewares: Sequence[Any] = ()) -> float:
    """A router with every default on."""
    async with MemoryBroker() as broker:
        router, handle = Router(middlewares=list(middlewares)), Last(len(messages))
        router.add_handler("ping", Ping, handle, subscriber=broker.subscriber(group=GROUP))
        async with router:
            await router.wait_running()
            publisher = broker.publisher()
            began = perf_counter()
            for message in messages:
                await publisher.publish(TOPIC, message)
            await handle.came
            took = perf_counter() - began
    assert router.ledger.total.handled == len(messages), router.ledger
    return took


def _timed(contender: Callable[..., Any], given: Sequence[Any], **options: Any) -> Any:
    return lambda: run(contender(given, **options))


def router(settings: Settings) -> list[Figure]:
    """Throughput, and what the router adds to a bare loop."""
    number = settings.amount(50_000)
    bodies, messages = _bodies(number), _messages(number)
    times = rounds(
        {
            "ours": _timed(ours, messages),
            "queue": _timed(queue, bodies),
            "bare": _timed(bare, messages),
        },
        settings.rounds,
        warm_up=2,
    )
    own = [(a - b) / number * 1e6 for a, b in zip(times["ours"], times["bare"], strict=True)]
    note = f"{number:,} messages a run"
    return [
        Figure(
            "router over `memory://`, typed: publish → decoded, handled, acked",
            "messages/s",
            ratios(times["queue"], times["ours"]),
            Spread.of([number / s for s in times["ours"]]),
            Spread.of([number / s for s in times["queue"]]),
            at_least=0.35,
            aim=0.6,
            table="router",
            note=f"{note}; beside a queue of bytes and a bare model's `model_validate_json`",
        ),
        Figure(
            "the router's own time for a message, over a bare subscriber loop",
            "µs",
            ours=Spread.of(own),
            at_most=10.0,
            aim=5.0,
            table="router",
            note=note,
        ),
        *_watermill(settings, messages),
    ]


async def _pass_on(delivery: Delivery, call_next: CallNext) -> None:
    await call_next(delivery)


def middlewares(settings: Settings) -> list[Figure]:
    """A chain of five that do nothing."""
    number = settings.amount(50_000)
    messages = _messages(number)
    times = rounds(
        {
            "without": _timed(ours, messages),
            "with": _timed(ours, messages, middlewares=[_pass_on] * 5),
        },
        settings.rounds,
    )
    added = [(a - b) / number * 1e6 for a, b in zip(times["with"], times["without"], strict=True)]
    return [
        Figure(
            "a chain of 5 middlewares that do nothing, for a message",
            "µs",
            ours=Spread.of(added),
            at_most=2.0,
            table="router",
            note=f"{number:,} messages a run; over the same router without them",
        )
    ]


def _watermill(settings: Settings, messages: Sequence[Message]) -> list[Figure]:
    """Beside its typed handlers, and beside its plain ones, whose payload stays bytes."""
    program = watermill.build()
    if isinstance(program, str):
        return [
            Figure(
                "router: Watermill", "messages/s", note=f"not measured: {program}", table="router"
            )
        ]
    number = len(messages)
    answers: dict[str, watermill.Answer] = {}

    def theirs(kind: str) -> float:
        answers[kind] = program.run(kind, messages=number)
        return answers[kind].seconds_each * number

    times = rounds(
        {
            "ours": _timed(ours, messages),
            "typed": lambda: theirs("typed"),
            "router": lambda: theirs("router"),
        },
        settings.rounds,
    )
    return [
        Figure(
            f"router over `memory://`, beside Watermill's Router over GoChannel: {what}",
            "messages/s",
            ratios(times[kind], times["ours"]),
            Spread.of([number / s for s in times["ours"]]),
            Spread.of([number / s for s in times[kind]]),
            at_least=2.0,
            table="router",
            note=f"{answers[kind].conditions}; {note}",
        )
        for kind, what, note in (
            ("typed", "typed handlers on both sides", "its `EventProcessor`; bodies of one kind"),
            ("router", "theirs decodes nothing", "ours decodes a small event"),
        )
    ]


async def _nothing(message: object) -> None: ...


async def _start_and_stop(number: int) -> tuple[float, float]:
    async with MemoryBroker() as broker:
        router = Router()
        for place in range(number):
            router.add_handler(
                f"handler-{place}",
                f"bench.topic-{place}",
                _nothing,
                subscriber=broker.subscriber(group=GROUP),
            )
        clean()
        began = perf_counter()
        await router.__aenter__()
        await router.wait_running()
        running = perf_counter()
        await router.__aexit__(None, None, None)
        return running - began, perf_counter() - running


def handlers(settings: Settings) -> list[Figure]:
    """Many handlers on one router, each with a topic of its own."""
    number = 10_000
    runs: list[tuple[float, float]] = []
    for _ in range(1 + (2 if settings.quick else settings.rounds)):
        with asyncio.Runner() as runner:
            runs.append(runner.run(_start_and_stop(number)))
    return [
        Figure(
            f"{what} a router with {number:,} handlers",
            "s",
            ours=Spread.of([run[which] for run in runs[1:]]),
            at_most=3.0,
            table="router",
        )
        for which, what in ((0, "starting"), (1, "stopping"))
    ]
