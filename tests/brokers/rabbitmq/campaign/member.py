"""One member of the group; as a program it is a process of its own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from tests.brokers.campaign.member import BaseWorker
from tests.brokers.rabbitmq.campaign.schedule import CONSUMER_TIMEOUT_S, KINDS, LONG_S
from tests.brokers.rabbitmq.support import broker_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.messaging import Message, Router

__all__ = ("BLOCK_S", "Job", "Worker")

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
        drain_timeout: As the router's.
        takes: Seconds a handler takes that does nothing special.
    """

    address: str
    kind: str
    topic: str
    ledger: str
    heartbeat: int
    concurrency: int
    max_in_flight: int
    drain_timeout: float
    takes: float


class Worker(BaseWorker):
    """Receives."""

    slow_s = CONSUMER_TIMEOUT_S + 1.0
    block_s = BLOCK_S

    def __init__(self, job: Job, who: str) -> None:
        super().__init__(who, job.ledger)
        self.takes = job.takes
        self._job = job

    async def _handle(self, message: Message, what: str, *, is_first: bool) -> None:
        if what == "slow" and not is_first:
            what = "as usual"
        if what == "long":
            await asyncio.sleep(LONG_S)
        else:
            await super()._handle(message, what, is_first=is_first)

    @asynccontextmanager
    async def _joined(self) -> AsyncGenerator[Router]:
        job = self._job
        topology = KINDS[job.kind]
        broker = broker_at(
            job.address,
            topology=topology,
            heartbeat=job.heartbeat,
            connect_timeout=5.0,
            publish_timeout=5.0,
        )
        router = self._router(first_wait=0.02, drain_timeout=job.drain_timeout)
        router.add_handler(
            "work",
            job.topic,
            self,
            subscriber=broker.subscriber(group="g" if topology.has_groups else None),
            concurrency=job.concurrency,
            max_in_flight=job.max_in_flight,
            order="relaxed",
        )
        async with broker, router:
            yield router


if __name__ == "__main__":
    Worker.main(Job)
