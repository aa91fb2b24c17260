"""The least that an asyncio program does on the same client library; what is more is ours.

Reading: a thread that hands batches to the event loop, which decodes and awaits a handler. No acks,
no router, no failure policy. Publishing: a future for each message; the event loop asks the library
at each turn as long as any is on its way. No deadline, no checks, no verdicts.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, Producer

from tests.bench.kafka.conditions import IN_FLIGHT, PUBLISHED, group
from tests.bench.kafka.raw import CONSUMER, PRODUCER
from tests.bench.orders import BODY, Bare, each_in_flight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.kafka.conditions import Headers

__all__ = ("consume", "publish")


async def consume(hosts: str, topic: str, number: int) -> float:
    """Seconds from the first record handled to the last."""
    loop = asyncio.get_running_loop()
    consumer = Consumer({**CONSUMER, "bootstrap.servers": hosts, "group.id": group()})
    consumer.subscribe([topic])
    batches: asyncio.Queue[list[Any]] = asyncio.Queue()
    is_over = threading.Event()

    def receive() -> None:
        while not is_over.is_set():
            first = consumer.poll(0.05)
            if first is not None:
                batch = [first, *consumer.consume(499, 0)]
                loop.call_soon_threadsafe(batches.put_nowait, batch)
        consumer.close()

    async def handle(event: Bare) -> None:
        pass

    thread = threading.Thread(target=receive)
    thread.start()
    left, began = number, 0.0
    while left > 0:
        batch = await batches.get()
        began = began or perf_counter()
        for record in batch:
            await handle(Bare.model_validate_json(record.value()))
        left -= len(batch)
    took = perf_counter() - began
    is_over.set()
    await asyncio.to_thread(thread.join)
    return took


async def publish(hosts: str, given: Sequence[Headers]) -> float:
    """Seconds from the first record of so many to the confirmation of the last."""
    loop = asyncio.get_running_loop()
    producer = Producer({**PRODUCER, "bootstrap.servers": hosts})
    in_flight = 0

    def delivered(future: asyncio.Future[None], error: object, _: object) -> None:
        nonlocal in_flight
        assert error is None, error
        in_flight -= 1
        future.set_result(None)

    def ask() -> None:
        producer.poll(0)
        if in_flight:
            loop.call_soon(ask)

    async def send(headers: Headers) -> None:
        nonlocal in_flight
        future: asyncio.Future[None] = loop.create_future()
        told = partial(delivered, future)
        producer.produce(PUBLISHED, BODY, headers=headers, on_delivery=told)
        in_flight += 1
        if in_flight == 1:
            loop.call_soon(ask)
        await future

    await send(given[0])
    took = await each_in_flight(given, send, tasks=IN_FLIGHT)
    producer.close()
    return took
