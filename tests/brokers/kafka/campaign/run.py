"""Carries a schedule out, and looks at what is committed meanwhile."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from eventflow.brokers.kafka._ladder import DELAYS, STEPS, retry_group, retry_topic
from eventflow.brokers.kafka._progress import Progress, from_text
from eventflow.messaging.metadata import delay_metadata
from tests.brokers.campaign.run import BaseRun, NotQuietError
from tests.brokers.kafka.campaign.member import BLOCK_S, Job, Worker
from tests.brokers.kafka.campaign.schedule import Schedule
from tests.brokers.kafka.support import broker_at, ends, log, records
from tests.servers.proxy import ProxiedKafka

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

__all__ = ("PARTITIONS", "Place", "Run", "Sample")

PARTITIONS = 4
SAMPLE_S = 0.25


class Place(NamedTuple):
    """A partition as the broker has it for the group: the offset, and what lies beyond it."""

    offset: int
    progress: Progress


class Sample(NamedTuple):
    """What was committed at some time.

    Attributes:
        at: When all of it had been read.
        places: By partition.
    """

    at: float
    places: dict[int, Place]


class Run(BaseRun[Schedule, ProxiedKafka]):
    """One schedule, on a topic and with a group of its own.

    Attributes:
        samples: What was committed meanwhile, and at the end.
        outputs: The topic that handlers publish to; empty where they don't.
    """

    AWAY = (KafkaException,)
    WORKER = Worker

    def __init__(self, schedule: Schedule, kafka: ProxiedKafka, ledger: Path) -> None:
        super().__init__(schedule, kafka, ledger)
        self.samples: list[Sample] = []
        name = f"campaign.{schedule.seed}.{uuid.uuid4().hex[:8]}"
        self.topic = kafka.create_topic(name, partitions=PARTITIONS)
        self.dead_letters = kafka.create_topic(f"{name}.dead_letter", partitions=1)
        self.outputs = ""
        if schedule.transactional:
            self.outputs = kafka.create_topic(f"{name}.outputs", partitions=PARTITIONS)
        self.group = f"group-{name}"
        self._block_s = schedule.session_timeout + BLOCK_S
        self._job = Job(
            hosts=kafka.linked,
            topic=self.topic,
            group=self.group,
            ledger=str(ledger),
            session_timeout=schedule.session_timeout,
            revoke_timeout=schedule.revoke_timeout,
            concurrency=schedule.concurrency,
            takes=schedule.takes,
            delays=schedule.delays,
            outputs=self.outputs,
        )
        settings: dict[str, Any] = {"bootstrap.servers": kafka.address, "logger": log}
        settings["enable.auto.commit"] = False
        self._outside = Consumer(settings | {"group.id": self.group})
        self._ladders: dict[str, Consumer] = {}
        if schedule.delays:
            retries = retry_topic(name, self.group)
            for ladder, group in ((retries, retry_group(self.group)), (DELAYS, DELAYS)):
                kafka.create_topic(ladder, partitions=STEPS)
                self._ladders[ladder] = Consumer(settings | {"group.id": group})

    def _broker(self, **options: Any) -> Any:
        return broker_at(self._server.linked, delays=self.schedule.delays, **options)

    def _more(self, publisher: int, number: int) -> dict[str, Any]:
        key = f"{publisher}-{number // self.schedule.publishers % self.schedule.keys}"
        metadata: dict[str, str] = {}
        if number in self.schedule.later:
            metadata = delay_metadata(1 + number % 3, now=datetime.now(UTC))
        return {"key": key, "metadata": metadata}

    # From outside

    @asynccontextmanager
    async def _observed(self) -> AsyncGenerator[None]:
        async def sample_on() -> None:
            while True:
                await asyncio.sleep(SAMPLE_S)
                await self._sample()

        sampling = asyncio.create_task(sample_on())
        try:
            yield
        finally:
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling

    async def _sample(self) -> Sample | None:
        try:
            places = await asyncio.to_thread(self._places)
        except KafkaException:  # it is away
            return None
        sample = Sample(time.monotonic(), places)
        self.samples.append(sample)
        return sample

    def _places(self) -> dict[int, Place]:
        asked = [TopicPartition(self.topic, n) for n in range(PARTITIONS)]
        found: dict[int, Place] = {}
        for place in self._outside.committed(asked, timeout=1.0):
            if place.error is not None:
                raise KafkaException(place.error)
            offset = max(place.offset, 0)
            found[place.partition] = Place(offset, from_text(place.metadata, offset))
        return found

    def _ends(self) -> dict[int, int]:
        asked = (TopicPartition(self.topic, n) for n in range(PARTITIONS))
        return {p.partition: self._outside.get_watermark_offsets(p, timeout=2.0)[1] for p in asked}

    def _waiting(self) -> dict[str, int]:
        """How many records of each ladder its group has not done."""
        left: dict[str, int] = {}
        for ladder, consumer in self._ladders.items():
            asked = [TopicPartition(ladder, number) for number in range(STEPS)]
            places = {p.partition: p.offset for p in consumer.committed(asked, timeout=2.0)}
            there_is = ends(self._server, ladder, partitions=STEPS)
            if all(end <= max(places[n], 0) for n, (_, end) in there_is.items()):
                continue
            # What is left may be no more than the marks at the end of transactions.
            there = records(self._server, ladder, partitions=STEPS)
            left[ladder] = sum(r.offset() >= places[r.partition()] for r in there)
            left[ladder] += sum(end - readable for readable, end in there_is.values())
        return {ladder: count for ladder, count in left.items() if count}

    async def _left(self) -> object:
        topic_ends = await asyncio.to_thread(self._ends)
        if (sample := await self._sample()) is None:
            return "the broker is away"
        left = {
            n: f"{sample.places[n]} of {end}"
            for n, end in topic_ends.items()
            if sample.places[n].offset != end
        }
        return left or await asyncio.to_thread(self._waiting)

    async def _wait_until_quiet(self) -> None:
        try:
            await super()._wait_until_quiet()
        except NotQuietError as exc:
            exc.add_note(f"marks that Kafka has lost: {self._server.lost_marks()}")
            raise

    async def _clean_up(self) -> None:
        await super()._clean_up()
        for consumer in (self._outside, *self._ladders.values()):
            consumer.close()
