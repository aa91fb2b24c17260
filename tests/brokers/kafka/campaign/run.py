"""Carries a schedule out, and waits until all is quiet."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from eventflow.brokers.kafka._ladder import DELAYS, STEPS, retry_group, retry_topic
from eventflow.brokers.kafka._progress import Progress, from_text
from eventflow.errors import PublishError
from eventflow.messaging import Message
from eventflow.messaging.metadata import delay_metadata
from tests.brokers.kafka.campaign.ledger import FAULT_BEGUN, FAULT_ENDED, Ledger
from tests.brokers.kafka.campaign.member import Job, work
from tests.brokers.kafka.campaign.schedule import FAULTS_S, Fault, Schedule
from tests.brokers.kafka.support import broker_at, ends, log, records

if TYPE_CHECKING:
    from tests.servers.proxy import ProxiedKafka

__all__ = ("PARTITIONS", "Place", "Run", "Sample", "Sent")

ROOT = Path(__file__).parents[4]
PARTITIONS = 4
QUIET_S = 30.0
"""Seconds after the last fault within which all is handled and committed."""
LEAVE_S = 15.0
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


class Sent(NamedTuple):
    """A message whose publish has ended.

    Attributes:
        message: The message.
        publisher: Number of the publisher.
        verdict: What was said of it: ``stored``, ``not_stored`` or ``unknown``.
    """

    message: Message
    publisher: int
    verdict: str


class _Member:
    """A member, as a task or as a process, and how to end it."""

    def __init__(self, job: Job, who: str, *, is_process: bool) -> None:
        self.who = who
        self.is_gone = False
        self.is_process = is_process
        self._is_killed = False
        self._process: asyncio.subprocess.Process | None = None
        self._leave = asyncio.Event()
        coroutine = self._run(job) if is_process else work(job, who, self._leave)
        self.task = asyncio.create_task(coroutine)

    async def _run(self, job: Job) -> None:
        with Path(f"{job.ledger}.{self.who}").open("w+b") as stderr:  # noqa: ASYNC230 - a small one
            self._process = process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", sys.executable),
                *("-m", "tests.brokers.kafka.campaign.member", json.dumps(job), self.who),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                cwd=ROOT,
            )
            assert process.stdin is not None
            ending = asyncio.create_task(process.wait())
            leaving = asyncio.create_task(self._leave.wait())
            try:
                await asyncio.wait({leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
                process.stdin.close()
                code = await ending
            finally:
                leaving.cancel()
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if code != (-9 if self._is_killed else 0):
                stderr.seek(0)
                raise AssertionError(f"{self.who} ended with {code}:\n{stderr.read().decode()}")

    def leave(self) -> None:
        self.is_gone = True
        self._leave.set()

    def kill(self) -> None:
        """End its process with -9, if it is one that runs by now."""
        if self._process is not None and self._process.returncode is None:
            self.is_gone = self._is_killed = True
            self._process.kill()


class Run:
    """One schedule, on a topic and with a group of its own.

    Attributes:
        sent: Messages whose publish has ended, by id.
        samples: What was committed meanwhile, and at the end.
        outputs: The topic that handlers publish to; empty where they don't.
        later: Ids of messages that were published with a delay.
        quiet_after: Seconds from the last fault until all was handled and committed.
    """

    def __init__(self, schedule: Schedule, kafka: ProxiedKafka, ledger: Path) -> None:
        self.schedule = schedule
        self.sent: dict[str, Sent] = {}
        self.samples: list[Sample] = []
        self.quiet_after = 0.0
        self.later: set[str] = set()
        name = f"campaign.{schedule.seed}.{uuid.uuid4().hex[:8]}"
        self.topic = kafka.create_topic(name, partitions=PARTITIONS)
        self.dead_letters = kafka.create_topic(f"{name}.dead_letter", partitions=1)
        self.outputs = ""
        if schedule.transactional:
            self.outputs = kafka.create_topic(f"{name}.outputs", partitions=PARTITIONS)
        self.group = f"group-{name}"
        self._kafka = kafka
        self._ledger = Ledger(ledger)
        self._members: list[_Member] = []
        self._faults = 0
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

    async def carry_out(self) -> None:
        """All of it; what it asserts is that each part ends in time."""
        schedule = self.schedule
        try:
            for kind in schedule.members:
                self._join(is_process=kind == "process")
            sampling = asyncio.create_task(self._sample_on())
            try:
                async with asyncio.TaskGroup() as tasks:
                    for number in range(schedule.publishers):
                        tasks.create_task(self._publish(number))
                    tasks.create_task(self._inflict(schedule.link))
                    tasks.create_task(self._inflict(schedule.group))
                if all(member.is_gone for member in self._members):
                    self._join(is_process=False)
                await self._wait_until_quiet()
            finally:
                sampling.cancel()
                with suppress(asyncio.CancelledError):
                    await sampling
            await self._leave()
        finally:
            await self._clean_up()

    def _join(self, *, is_process: bool) -> None:
        who = f"{'process' if is_process else 'task'}-{len(self._members)}"
        self._members.append(_Member(self._job, who, is_process=is_process))

    async def _publish(self, number: int) -> None:
        """One publisher's share, spread over the time of the faults; a failed call is its last."""
        schedule = self.schedule
        mine = range(number, schedule.messages, schedule.publishers)
        batches = [mine[at : at + schedule.batch] for at in range(0, len(mine), schedule.batch)]
        timeout = schedule.publish_timeout
        async with broker_at(
            self._kafka.linked, publish_timeout=timeout, delays=schedule.delays
        ) as broker:
            publisher = broker.publisher()
            for batch in batches:
                messages = [self._message(number, n) for n in batch]
                self.later |= {m.id for m in messages if m.metadata}
                verdicts = dict.fromkeys((m.id for m in messages), "stored")
                began = time.monotonic()
                try:
                    await publisher.publish(self.topic, *messages)
                except PublishError as exc:
                    verdicts |= dict.fromkeys(exc.not_stored, "not_stored")
                    verdicts |= dict.fromkeys(exc.unknown, "unknown")
                    told = {*exc.stored, *exc.not_stored, *exc.unknown}
                    assert told == {m.id for m in messages}, "an error that leaves some out"
                took = time.monotonic() - began
                assert took < timeout + self._blocks_for + 3, f"a publish took {took:.1f} s"
                self.sent |= {m.id: Sent(m, number, verdicts[m.id]) for m in messages}
                await asyncio.sleep(FAULTS_S / len(batches))

    @property
    def _blocks_for(self) -> float:
        """Most seconds that handlers block the loop of this process."""
        blocks = sum(kind == "block" for kind in self.schedule.odd.values())
        return blocks * len(self._members) * (self.schedule.session_timeout + 0.5)

    def _message(self, publisher: int, number: int) -> Message:
        what = {"n": number, "do": self.schedule.odd.get(number, "as usual")}
        key = f"{publisher}-{number // self.schedule.publishers % self.schedule.keys}"
        metadata = {}
        if number in self.schedule.later:
            metadata = delay_metadata(1 + number % 3, now=datetime.now(UTC))
        return Message(json.dumps(what).encode(), metadata, key=key)

    async def _inflict(self, faults: list[Fault]) -> None:
        began = time.monotonic()
        for fault in faults:
            await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
            number = self._faults = self._faults + 1
            self._ledger.write(FAULT_BEGUN, fault.what, str(number))
            try:
                await self._do(fault)
            finally:
                self._ledger.write(FAULT_ENDED, fault.what, str(number))

    async def _do(self, fault: Fault) -> None:
        kafka, proxy = self._kafka, self._kafka.proxy
        there = [member for member in self._members if not member.is_gone]
        match fault.what:
            case "cut":
                ways = ("to_server", "to_client")
                proxy.cut_after(fault.number, ways[fault.number % 2])  # type: ignore[arg-type]
                await asyncio.sleep(fault.lasts)
            case "reset":
                proxy.reset()
            case "stall" | "refuse":
                (proxy.stall if fault.what == "stall" else proxy.refuse)()
                await asyncio.sleep(fault.lasts)
                proxy.restore()
            case "kill-broker":
                kafka.kill()
                await asyncio.sleep(fault.lasts / 3)
                await kafka.start_again(within=60)
            case "freeze-broker":
                kafka.freeze()
                await asyncio.sleep(fault.lasts)
                kafka.thaw()
            case "join" | "join-process":
                self._join(is_process=fault.what == "join-process")
            case "leave" if there:
                there[fault.number % len(there)].leave()
            case "kill-member":
                running = [member for member in there if member.is_process]
                if running:
                    running[fault.number % len(running)].kill()
            case _:
                pass

    # From outside

    async def _sample_on(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            await self._sample()

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
            there_is = ends(self._kafka, ladder, partitions=STEPS)
            if all(end <= max(places[n], 0) for n, (_, end) in there_is.items()):
                continue
            # What is left may be no more than the marks at the end of transactions.
            there = records(self._kafka, ladder, partitions=STEPS)
            left[ladder] = sum(r.offset() >= places[r.partition()] for r in there)
            left[ladder] += sum(end - readable for readable, end in there_is.values())
        return {ladder: count for ladder, count in left.items() if count}

    async def _wait_until_quiet(self) -> None:
        began = time.monotonic()
        self._ledger.write("over", "-")
        bound = QUIET_S + self._blocks_for
        left: object = "not known"
        while time.monotonic() < began + bound:
            for member in self._members:
                if member.task.done():
                    member.task.result()
            with suppress(KafkaException):
                topic_ends = await asyncio.to_thread(self._ends)
                if (sample := await self._sample()) is not None:
                    left = {
                        n: f"{sample.places[n]} of {end}"
                        for n, end in topic_ends.items()
                        if sample.places[n].offset != end
                    }
                    left = left or await asyncio.to_thread(self._waiting)
                    if not left:
                        self.quiet_after = time.monotonic() - began
                        return
            await asyncio.sleep(0.1)
        lost = self._kafka.lost_marks()
        raise AssertionError(
            f"not quiet after {bound} s: {left}; marks that Kafka has lost: {lost}"
        )

    async def _leave(self) -> None:
        for member in self._members:
            member.leave()
        _, late = await asyncio.wait([m.task for m in self._members], timeout=LEAVE_S)
        assert not late, f"{len(late)} members have not left after {LEAVE_S} s"
        for member in self._members:
            member.task.result()

    async def _clean_up(self) -> None:
        """Leave the broker as it was, whatever happened."""
        self._kafka.proxy.restore()
        for member in self._members:
            member.task.cancel()
        await asyncio.gather(*(m.task for m in self._members), return_exceptions=True)
        for consumer in (self._outside, *self._ladders.values()):
            consumer.close()
        self._ledger.close()
