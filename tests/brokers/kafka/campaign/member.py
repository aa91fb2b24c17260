"""One member of the group: a router with a handler that tells the ledger what it does.

As a program it is a process of its own, which leaves when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, NamedTuple

from eventflow import current
from eventflow.brokers.kafka import _settings
from eventflow.errors import BrokerError
from eventflow.failure import DeadLetter, FailurePolicy, Retry
from eventflow.messaging import Message, Publisher, Router
from tests.brokers.kafka.campaign.ledger import BEGUN, DONE, FAILED, Ledger
from tests.brokers.kafka.support import broker_at
from tests.brokers.kafka.transactional import TRANSACTION_MS

__all__ = ("KINDS", "Job", "work")

AGAIN_S = 0.2
KINDS = ("first of", "second of")
"""What is published because of each message that is no poison, where handlers publish."""


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
        delays: Whether retries wait in topics.
        outputs: Where handlers publish, in one transaction with the group's place; empty: nowhere.
    """

    hosts: str
    topic: str
    group: str
    ledger: str
    session_timeout: float
    revoke_timeout: float
    concurrency: int
    takes: float
    delays: bool
    outputs: str


class _Handler:
    def __init__(self, job: Job, who: str, ledger: Ledger) -> None:
        self.publisher: Publisher | None = None
        self._job = job
        self._who = who
        self._ledger = ledger
        self._met: set[str] = set()

    async def __call__(self, message: Message) -> Message | None:
        """Do what the message says."""
        job, who, ledger, name = self._job, self._who, self._ledger, message.id
        ledger.write(BEGUN, who, name)
        is_first = name not in self._met
        self._met.add(name)
        if self.publisher is not None:  # what fails afterwards has published, too
            await self.publisher.publish(job.outputs, _output(0, message))
        try:
            match json.loads(message.payload)["do"]:
                case "slow":
                    await asyncio.sleep(job.revoke_timeout + 1.0)
                case "block" if is_first:
                    time.sleep(job.session_timeout + 0.5)  # noqa: ASYNC251 - the subject
                # By the count, as the retry may be somebody else's.
                case "fail" if current().attempt == 1:
                    raise ValueError("once")
                case "poison":
                    raise ValueError("each time")
                case _:
                    await asyncio.sleep(job.takes)
        except ValueError:
            ledger.write(FAILED, who, name)
            raise
        ledger.write(DONE, who, name)
        return None if self.publisher is None else _output(1, message)


def _output(kind: int, message: Message) -> Message:
    return Message(f"{KINDS[kind]} {message.id}".encode(), key=message.key)


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
        delays=job.delays,
    )
    retry = Retry(attempts=3, initial=1.0 if job.delays else 0.02)
    router = Router(on_failure=FailurePolicy(retry=retry, then=DeadLetter()), drain_timeout=5.0)
    subscriber = broker.subscriber(group=job.group, transactional=bool(job.outputs))
    publishing: dict[str, Any] = {}
    if job.outputs:
        handler.publisher = subscriber.publisher()
        publishing = {"publisher": handler.publisher, "publish_topic": job.outputs}
    router.add_handler(
        "work",
        job.topic,
        handler,
        subscriber=subscriber,
        **publishing,
        concurrency=job.concurrency,
        order="relaxed" if job.delays else "strict",
    )
    async with broker, router:
        await leave.wait()


async def main() -> None:
    job = Job(*json.loads(sys.argv[1]))
    _settings.TRANSACTION_MS = TRANSACTION_MS
    leave = asyncio.Event()
    reader = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    reader.add_done_callback(lambda _: leave.set())
    await work(job, sys.argv[2], leave)


if __name__ == "__main__":
    asyncio.run(main())
