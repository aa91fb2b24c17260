"""A message that kills whoever handles it, and counts that outlive the process."""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.kafka._partition import UNCLEAN
from eventflow.messaging import Message
from tests.brokers.kafka.support import broker_at, committed, records

if TYPE_CHECKING:
    from tests.servers.kafka import Kafka

ROOT = Path(__file__).parents[3]
MOST = 3

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

WORKER = """
import asyncio, os, signal
from eventflow import Event
from eventflow.messaging import Router
from tests.brokers.kafka.support import broker_at

class Fragile(Event, topic={topic!r}):
    n: int

async def handle(event: Fragile) -> None:
    if event.n == 25:
        os.kill(os.getpid(), signal.SIGKILL)
    print(event.n, flush=True)

async def main():
    async with broker_at({address!r}, session_timeout=1.0) as broker:
        router = Router()
        subscriber = broker.subscriber(group={group!r})
        router.add_handler("fragile", Fragile, handle, subscriber=subscriber, concurrency=8,
            max_deliveries={most})
        async with router:
            await asyncio.to_thread(input)

asyncio.run(main())
"""


async def test_a_message_that_kills_its_readers(kafka: Kafka) -> None:
    """It is found, and dead-lettered unhandled; all the others are handled.

    Which one it is can't be known at first: that costs `UNCLEAN` processes. From then on each
    message is counted before it is handed out.
    """
    name = uuid.uuid4().hex[:12]
    group, topic = f"fragile-{name}", kafka.create_topic(f"fragile.{name}", partitions=1)
    dead = kafka.create_topic(f"{topic}.dead_letter", partitions=1)
    program = WORKER.format(address=kafka.address, group=group, topic=topic, most=MOST)
    async with broker_at(kafka.address) as broker:
        messages = [Message(f'{{"n":{n}}}'.encode()) for n in range(60)]
        await broker.publisher().publish(topic, *messages)
    handled: Counter[int] = Counter()
    killed = 0
    while set(handled) != set(range(60)) - {25}:
        assert killed < 20, "it kills them for ever"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdin=-1, stdout=-1, cwd=ROOT
        )
        assert process.stdout is not None
        assert process.stdin is not None
        async with asyncio.timeout(60):
            while len(handled) < 59 and (line := await process.stdout.readline()):
                handled[int(line)] += 1
            process.stdin.close()
            killed += await process.wait() == -signal.SIGKILL
    assert killed == UNCLEAN + MOST
    (letter,) = records(kafka, dead, partitions=1)
    assert letter.value() == b'{"n":25}'
    assert b"TooManyDeliveriesError" in b" ".join(dict(letter.headers()).values())
    assert committed(kafka, topic, group, partitions=1)[0] == (60, "")
