"""Carries a schedule out, and waits until all is quiet."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiormq
import aiormq.exceptions

from eventflow.errors import PublishError
from eventflow.messaging import Message
from tests.brokers.kafka.campaign.ledger import (
    DONE,
    FAILED,
    FAULT_BEGUN,
    FAULT_ENDED,
    Ledger,
    read,
)
from tests.brokers.rabbitmq.campaign.member import BLOCK_S, Job, work
from tests.brokers.rabbitmq.campaign.schedule import (
    CONSUMER_TIMEOUT_S,
    FAULTS_S,
    KINDS,
    Fault,
    Schedule,
)
from tests.brokers.rabbitmq.support import DECLARED_S, Outside, broker_at, outside
from tests.servers.process import ServerError

if TYPE_CHECKING:
    from eventflow.messaging import Router
    from tests.servers.rabbitmq import ProxiedRabbitMQ

__all__ = ("Run", "Sent")

ROOT = Path(__file__).parents[4]
QUIET_S = 30.0
"""Seconds after the last fault within which all is handled and settled."""
LEAVE_S = 15.0
AWAY = (aiormq.exceptions.AMQPError, OSError, RuntimeError, TimeoutError, ServerError)
"""What is raised where the server is not there, or not all of it."""


class Sent(NamedTuple):
    """A message whose publish has ended.

    Attributes:
        message: The message.
        verdict: What was said of it: ``stored``, ``not_stored`` or ``unknown``.
    """

    message: Message
    verdict: str


class _Member:
    """A member, as a task or as a process, and how to end it."""

    def __init__(self, job: Job, who: str, *, is_process: bool) -> None:
        self.who = who
        self.is_gone = False
        self.is_process = is_process
        self.router: Router | None = None
        self._is_killed = False
        self._process: asyncio.subprocess.Process | None = None
        self._leave = asyncio.Event()
        coroutine = self._run(job) if is_process else work(job, who, self._leave, self._entered)
        self.task = asyncio.create_task(coroutine)

    def _entered(self, router: Router) -> None:
        self.router = router

    async def _run(self, job: Job) -> None:
        with Path(f"{job.ledger}.{self.who}").open("w+b") as stderr:  # noqa: ASYNC230 - a small one
            self._process = process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", sys.executable),
                *("-m", "tests.brokers.rabbitmq.campaign.member", json.dumps(job), self.who),
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
    """One schedule, on a topic of its own.

    Attributes:
        sent: Messages whose publish has ended, by id.
        copies: What a queue has that got a copy of each message: ids and bodies. It is somebody
            else's; empty where the topology has no place for one.
        letters: Ids of the dead letters.
        left: What was left in the queue when all members had left.
        quiet_after: Seconds from the last fault until all was handled.
    """

    def __init__(self, schedule: Schedule, server: ProxiedRabbitMQ, ledger: Path) -> None:
        self.schedule = schedule
        self.sent: dict[str, Sent] = {}
        self.copies: list[tuple[str, bytes]] = []
        self.letters: list[str] = []
        self.left = 0
        self.quiet_after = 0.0
        self.topic = f"campaign.{schedule.seed}.{uuid.uuid4().hex[:8]}"
        self._topology = KINDS[schedule.kind]
        self.has_copies = self._topology.has_groups
        self._queue = f"{self.topic}_g" if self.has_copies else self.topic
        self._copies = f"{self.topic}.copies"
        self._letters = f"{self.topic}.dead_letter"
        self._server = server
        self._path = ledger
        self._ledger = Ledger(ledger)
        self._members: list[_Member] = []
        self._faults = 0
        self._job = Job(
            address=server.linked,
            kind=schedule.kind,
            topic=self.topic,
            ledger=str(ledger),
            heartbeat=schedule.heartbeat,
            concurrency=schedule.concurrency,
            max_in_flight=schedule.max_in_flight,
            takes=schedule.takes,
        )

    async def carry_out(self) -> None:
        """All of it; what it asserts is that each part ends in time."""
        schedule = self.schedule
        try:
            await self._set_up()
            for kind in schedule.members:
                self._join(is_process=kind == "process")
            async with asyncio.TaskGroup() as tasks:
                for number in range(schedule.publishers):
                    tasks.create_task(self._publish(number))
                tasks.create_task(self._inflict(schedule.link))
                tasks.create_task(self._inflict(schedule.group))
            if all(member.is_gone for member in self._members):
                self._join(is_process=False)
            await self._wait_until_quiet()
            await self._leave()
            async with outside(self._server.address) as look:
                self.left = (await look.kept(self._queue)).ready
                self.letters = [name for name, _ in await look.drain(self._letters)]
                if self.has_copies:
                    self.copies = await look.drain(self._copies)
        finally:
            await self._clean_up()

    async def _set_up(self) -> None:
        """Declare all, by the clients that will use it, and what keeps the copies by another."""
        async with broker_at(self._server.address, topology=self._topology) as broker:
            subscriber = broker.subscriber(group="g" if self.has_copies else None)
            await subscriber.prepare(self.topic)
            await subscriber.publisher().prepare(self._letters)
            await broker.publisher().prepare(self.topic)
        if self.has_copies:
            async with outside(self._server.address) as look:
                route = self._topology.route(self.topic)
                await look.channel.queue_declare(self._copies, durable=True)
                await look.channel.queue_bind(
                    self._copies, route.exchange, routing_key=route.routing_key
                )
        if "slow" in self.schedule.odd.values():
            await self._consumer_timeout(CONSUMER_TIMEOUT_S, tick_s=0.2)
        if self.schedule.kills:
            await asyncio.sleep(DECLARED_S)

    async def _consumer_timeout(self, seconds: float, *, tick_s: float) -> None:
        """What the server has for new channels, until it is started again."""
        settings = {"consumer_timeout": seconds, "channel_tick_interval": tick_s}
        told = ", ".join(
            f"application:set_env(rabbit, {name}, {int(value * 1_000)})"
            for name, value in settings.items()
        )
        await asyncio.to_thread(self._server.control, "eval", f"{told}.")

    def _join(self, *, is_process: bool) -> None:
        who = f"{'process' if is_process else 'task'}-{len(self._members)}"
        self._members.append(_Member(self._job, who, is_process=is_process))

    async def _publish(self, number: int) -> None:
        """One publisher's share, spread over the time of the faults; nothing is published again."""
        schedule = self.schedule
        mine = range(number, schedule.messages, schedule.publishers)
        batches = [mine[at : at + schedule.batch] for at in range(0, len(mine), schedule.batch)]
        timeout = schedule.publish_timeout
        async with broker_at(
            self._server.linked,
            topology=self._topology,
            publish_timeout=timeout,
            heartbeat=schedule.heartbeat,
        ) as broker:
            publisher = broker.publisher()
            for batch in batches:
                messages = [self._message(n) for n in batch]
                verdicts = dict.fromkeys((m.id for m in messages), "stored")
                began = time.monotonic()
                try:
                    await publisher.publish(self.topic, *messages)
                except PublishError as exc:
                    verdicts = dict.fromkeys(exc.stored, "stored")
                    verdicts |= dict.fromkeys(exc.not_stored, "not_stored")
                    verdicts |= dict.fromkeys(exc.unknown, "unknown")
                    told = len(exc.stored) + len(exc.not_stored) + len(exc.unknown)
                    assert told == len(messages), "an error that leaves some out, or says both"
                took = time.monotonic() - began
                assert took < timeout + self._blocks_for + 3, f"a publish took {took:.1f} s"
                self.sent |= {m.id: Sent(m, verdicts[m.id]) for m in messages}
                await asyncio.sleep(FAULTS_S / len(batches))

    @property
    def _blocks_for(self) -> float:
        """Most seconds that handlers block the loop of this process."""
        blocks = sum(kind == "block" for kind in self.schedule.odd.values())
        return blocks * len(self._members) * BLOCK_S

    def _message(self, number: int) -> Message:
        what = {"n": number, "do": self.schedule.odd.get(number, "as usual")}
        return Message(json.dumps(what).encode())

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
        server, proxy = self._server, self._server.proxy
        there = [member for member in self._members if not member.is_gone]
        match fault.what:
            case "cut":
                ways = ("to_server", "to_client")
                proxy.cut_after(fault.number, ways[fault.number % 2])  # type: ignore[arg-type]
                await asyncio.sleep(fault.lasts)
                proxy.restore()
            case "reset":
                proxy.reset()
            case "stall" | "refuse":
                (proxy.stall if fault.what == "stall" else proxy.refuse)()
                await asyncio.sleep(fault.lasts)
                proxy.restore()
            case "kill-broker" | "stop-broker":
                if fault.what == "kill-broker":
                    server.kill()
                else:
                    await asyncio.to_thread(server.stop)
                await asyncio.sleep(fault.lasts / 3)
                await server.start_again(within=60)
            case "freeze-broker":
                server.freeze()
                await asyncio.sleep(fault.lasts)
                server.thaw()
            case "close-connections":
                await asyncio.to_thread(server.control, "close_all_connections", "a fault")
            case "alarm":
                await self._watermark("1")
                await asyncio.sleep(fault.lasts)
                await self._watermark("512MB")
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

    async def _watermark(self, size: str) -> None:
        await asyncio.to_thread(
            self._server.control, "set_vm_memory_high_watermark", "absolute", size
        )

    # From outside

    async def _wait_until_quiet(self) -> None:
        """Until nothing is in the queue that nobody holds, and all that must come was handled."""
        began = time.monotonic()
        self._ledger.write("over", "-")
        bound = QUIET_S + self._blocks_for
        left: object = "not known"
        while time.monotonic() < began + bound:
            for member in self._members:
                if member.task.done():
                    member.task.result()
            with suppress(*AWAY):
                async with asyncio.timeout(2), outside(self._server.address) as look:
                    left = await self._left(look)
                left = left or await asyncio.to_thread(self._held)
                if not left:
                    self.quiet_after = time.monotonic() - began
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"not quiet after {bound} s: {left}")

    async def _left(self, look: Outside) -> object:
        kept = await look.kept(self._queue)
        there = sum(not member.is_gone for member in self._members)
        if kept != (0, there):
            return f"{kept} with {there} members"
        ended = {entry.which for entry in read(self._path) if entry.what in (DONE, FAILED)}
        stored = {name for name, sent in self.sent.items() if sent.verdict == "stored"}
        if missing := stored - ended:
            return f"{len(missing)} of {len(stored)} not handled"
        for member in self._members:
            if not member.is_gone and member.router is not None:
                health = member.router.health()
                if not health.is_ready:
                    return health
        return ""

    def _held(self) -> str:
        """What members have in their hands, as the server has it."""
        columns = ("name", "messages_unacknowledged", "--no-table-headers")
        for line in self._server.control("list_queues", *columns).splitlines():
            name, _, count = line.partition("\t")
            if name == self._queue:
                return "" if count == "0" else f"{count} are held"
        return "the queue is not there"

    async def _leave(self) -> None:
        for member in self._members:
            member.leave()
        _, late = await asyncio.wait([m.task for m in self._members], timeout=LEAVE_S)
        assert not late, f"{len(late)} members have not left after {LEAVE_S} s"
        for member in self._members:
            member.task.result()

    async def _clean_up(self) -> None:
        """Leave the server as it was, whatever happened."""
        self._server.proxy.restore()
        for member in self._members:
            member.task.cancel()
        await asyncio.gather(*(m.task for m in self._members), return_exceptions=True)
        if "slow" in self.schedule.odd.values():
            await self._consumer_timeout(1_800, tick_s=60)
        async with outside(self._server.address) as look:
            channel: Any = look.channel
            for queue in (self._queue, self._copies, self._letters):
                await channel.queue_delete(queue)
            for exchange in (self.topic, self._letters):
                await channel.exchange_delete(exchange)
        self._ledger.close()
