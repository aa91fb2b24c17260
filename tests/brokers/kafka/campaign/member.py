"""One member of the group: a router with a handler that tells the ledger what it does.

As a program it is a process of its own, which leaves when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from eventflow.errors import BrokerError
from eventflow.failure import DeadLetter, FailurePolicy, Retry
from eventflow.messaging import Router
from tests.brokers.kafka.campaign.ledger import BEGUN, DONE, FAILED, Ledger
from tests.brokers.kafka.support import broker_at

if TYPE_CHECKING:
    from eventflow.messaging import Message

__all__ = ("Job", "work")

AGAIN_S = 0.2


class Job(NamedTuple):
    """What every member of a schedule is told.

    Attributes:
        hosts: Where the broker is.
        topic: What is received; its dead letters go to ``<topic>.dead_letter``.
        group: The group.
        ledger: Path of the ledger.
        session_timeout: As the broker's.
        revoke_timeout: As the broker's.
        concurrency: As the handler's.
        takes: Seconds a handler takes that does nothing special.
    """

    hosts: str
    topic: str
    group: str
    ledger: str
    session_timeout: float
    revoke_timeout: float
    concurrency: int
    takes: float


class _Handler:
    def __init__(self, job: Job, who: str, ledger: Ledger) -> None:
        self._job = job
        self._who = who
        self._ledger = ledger
        self._met: set[str] = set()

    async def __call__(self, message: Message) -> None:
        """Do what the message says."""
        job, who, ledger, name = self._job, self._who, self._ledger, message.id
        ledger.write(BEGUN, who, name)
        is_first = name not in self._met
        self._met.add(name)
        try:
            match json.loads(message.payload)["do"]:
                case "slow":
                    await asyncio.sleep(job.revoke_timeout + 1.0)
                case "block" if is_first:
                    time.sleep(job.session_timeout + 0.5)  # noqa: ASYNC251 - the subject
                case "fail" if is_first:
                    raise ValueError("once")
                case "poison":
                    raise ValueError("each time")
                case _:
                    await asyncio.sleep(job.takes)
        except ValueError:
            ledger.write(FAILED, who, name)
            raise
        ledger.write(DONE, who, name)


async def work(job: Job, who: str, leave: asyncio.Event) -> None:
    """Be a member until told to leave; again where the broker can't be found."""
    ledger = Ledger(job.ledger)
    try:
        while not leave.is_set():
            try:
                await _work(job, _Handler(job, who, ledger), leave)
            except BrokerError as exc:
                ledger.write("away", who, type(exc).__name__)
                await asyncio.sleep(AGAIN_S)
        ledger.write("left", who)
    finally:
        ledger.close()


async def _work(job: Job, handler: _Handler, leave: asyncio.Event) -> None:
    broker = broker_at(
        job.hosts,
        session_timeout=job.session_timeout,
        revoke_timeout=job.revoke_timeout,
        connect_timeout=5.0,
        publish_timeout=5.0,
    )
    retry = Retry(attempts=3, initial=0.02)
    router = Router(on_failure=FailurePolicy(retry=retry, then=DeadLetter()), drain_timeout=5.0)
    router.add_handler(
        "work",
        job.topic,
        handler,
        subscriber=broker.subscriber(group=job.group),
        concurrency=job.concurrency,
    )
    async with broker, router:
        await leave.wait()


async def main() -> None:
    job = Job(*json.loads(sys.argv[1]))
    leave = asyncio.Event()
    reader = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    reader.add_done_callback(lambda _: leave.set())
    await work(job, sys.argv[2], leave)


if __name__ == "__main__":
    asyncio.run(main())
