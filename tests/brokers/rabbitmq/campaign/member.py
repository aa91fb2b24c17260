"""One member of the group: a router with a handler that tells the ledger what it does.

As a program it is a process of its own, which leaves when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from eventflow import current
from eventflow.errors import BrokerError
from eventflow.failure import DeadLetter, FailurePolicy, Retry
from eventflow.messaging import Message, Router
from tests.brokers.kafka.campaign.ledger import BEGUN, DONE, FAILED, Ledger
from tests.brokers.rabbitmq.campaign.schedule import CONSUMER_TIMEOUT_S, KINDS
from tests.brokers.rabbitmq.support import broker_at

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("BLOCK_S", "Job", "work")

AGAIN_S = 0.2
BLOCK_S = 3.5
"""Seconds that handlers block the loop: the server gives a client up that says nothing for 2."""


class Job(NamedTuple):
    """What every member of a schedule is told.

    Attributes:
        address: Where the broker is.
        kind: The topology.
        topic: What is received; its dead letters go to ``<topic>.dead_letter``.
        ledger: Path of the ledger.
        heartbeat: As the broker's.
        concurrency: As the handler's.
        max_in_flight: As the handler's.
        takes: Seconds a handler takes that does nothing special.
    """

    address: str
    kind: str
    topic: str
    ledger: str
    heartbeat: int
    concurrency: int
    max_in_flight: int
    takes: float


class _Handler:
    def __init__(self, job: Job, who: str, ledger: Ledger) -> None:
        self._job = job
        self._who = who
        self._ledger = ledger
        self._met: set[str] = set()

    async def __call__(self, message: Message) -> None:
        """Do what the message says."""
        who, ledger, name = self._who, self._ledger, message.id
        ledger.write(BEGUN, who, name)
        is_first = name not in self._met
        self._met.add(name)
        try:
            match json.loads(message.payload)["do"]:
                case "slow" if is_first:
                    await asyncio.sleep(CONSUMER_TIMEOUT_S + 1.0)
                case "block" if is_first:
                    time.sleep(BLOCK_S)  # noqa: ASYNC251 - the subject
                case "fail" if current().attempt == 1:
                    raise ValueError("once")
                case "poison":
                    raise ValueError("each time")
                case _:
                    await asyncio.sleep(self._job.takes)
        except ValueError:
            ledger.write(FAILED, who, name)
            raise
        ledger.write(DONE, who, name)


async def work(
    job: Job, who: str, leave: asyncio.Event, entered: Callable[[Router], None] | None = None
) -> None:
    """Be a member until told to leave; again where the broker can't be found."""
    ledger = Ledger(job.ledger)
    handler = _Handler(job, who, ledger)
    try:
        while not leave.is_set():
            try:
                await _work(job, handler, leave, entered)
            except BrokerError as exc:
                ledger.write("away", who, type(exc).__name__)
                await asyncio.sleep(AGAIN_S)
        ledger.write("left", who)
    finally:
        ledger.close()


async def _work(
    job: Job,
    handler: _Handler,
    leave: asyncio.Event,
    entered: Callable[[Router], None] | None,
) -> None:
    topology = KINDS[job.kind]
    broker = broker_at(
        job.address,
        topology=topology,
        heartbeat=job.heartbeat,
        connect_timeout=5.0,
        publish_timeout=5.0,
    )
    policy = FailurePolicy(retry=Retry(attempts=3, initial=0.02), then=DeadLetter())
    router = Router(on_failure=policy, drain_timeout=5.0)
    router.add_handler(
        "work",
        job.topic,
        handler,
        subscriber=broker.subscriber(group="g" if topology.has_groups else None),
        concurrency=job.concurrency,
        max_in_flight=job.max_in_flight,
        order="relaxed",
    )
    async with broker, router:
        if entered is not None:
            entered(router)
        await leave.wait()


async def main() -> None:
    job = Job(*json.loads(sys.argv[1]))
    leave = asyncio.Event()
    reader = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    reader.add_done_callback(lambda _: leave.set())
    await work(job, sys.argv[2], leave)


if __name__ == "__main__":
    asyncio.run(main())
