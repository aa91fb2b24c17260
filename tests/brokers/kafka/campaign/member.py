"""One member of the group; as a program it is a process of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from eventflow.brokers.kafka import _settings
from eventflow.messaging import Message, Publisher, Router
from tests.brokers.campaign.member import BaseWorker
from tests.brokers.kafka.support import broker_at
from tests.brokers.kafka.transactional import TRANSACTION_MS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ("BLOCK_S", "KINDS", "Job", "Worker")

BLOCK_S = 0.5
"""Seconds beyond the session's that handlers block the loop."""
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


class Worker(BaseWorker):
    """Receives, and publishes in transactions where it is told to."""

    def __init__(self, job: Job, who: str) -> None:
        super().__init__(who, job.ledger)
        self.slow_s = job.revoke_timeout + 1.0
        self.block_s = job.session_timeout + BLOCK_S
        self.takes = job.takes
        self._job = job
        self._publisher: Publisher | None = None

    async def __call__(self, message: Message) -> Message | None:
        """Do what the message says."""
        await super().__call__(message)
        return None if self._publisher is None else _output(1, message)

    async def _handle(self, message: Message, what: str, *, is_first: bool) -> None:
        if self._publisher is not None:  # what fails afterwards has published, too
            await self._publisher.publish(self._job.outputs, _output(0, message))
        await super()._handle(message, what, is_first=is_first)

    @asynccontextmanager
    async def _joined(self) -> AsyncGenerator[Router]:
        job = self._job
        broker = broker_at(
            job.hosts,
            session_timeout=job.session_timeout,
            revoke_timeout=job.revoke_timeout,
            connect_timeout=5.0,
            publish_timeout=5.0,
            delays=job.delays,
        )
        router = self._router(first_wait=1.0 if job.delays else 0.02)
        subscriber = broker.subscriber(group=job.group, transactional=bool(job.outputs))
        publishing: dict[str, Any] = {}
        if job.outputs:
            self._publisher = subscriber.publisher()
            publishing = {"publisher": self._publisher, "publish_topic": job.outputs}
        router.add_handler(
            "work",
            job.topic,
            self,
            subscriber=subscriber,
            **publishing,
            concurrency=job.concurrency,
            order="relaxed" if job.delays else "strict",
        )
        async with broker, router:
            yield router


def _output(kind: int, message: Message) -> Message:
    return Message(f"{KINDS[kind]} {message.id}".encode(), key=message.key)


if __name__ == "__main__":
    _settings.TRANSACTION_MS = TRANSACTION_MS
    Worker.main(Job)
