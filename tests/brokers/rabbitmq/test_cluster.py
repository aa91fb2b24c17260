"""Three nodes, of which one at a time is killed or stands still: nothing is lost, all goes on.

It takes minutes, so that `make stress` alone has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import statistics
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiormq
import pytest
from pamqp.commands import Basic

from eventflow.brokers.rabbitmq._ladder import waiting
from eventflow.errors import PublishError
from eventflow.messaging import Message
from eventflow.messaging.metadata import DELAYED_UNTIL, delay_metadata
from tests.brokers.campaign.ledger import BEGUN, DONE, Entry, read
from tests.brokers.rabbitmq.campaign.member import Job, Worker
from tests.brokers.rabbitmq.support import (
    BACK_S,
    DECLARED_S,
    ID,
    broker_at,
    named,
    outside,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.servers.rabbitmq import RabbitMQ
    from tests.servers.rabbitmq_cluster import RabbitMQCluster

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
__test__ = STRESS

KILLS = 4
FREEZE_S = 20.0
HEARTBEAT_S = 1
NOTICED_S = 2 * HEARTBEAT_S + 7.0
"""Seconds after which a node that says nothing is given up."""
PUBLISH_S = 10.0
DELAYS_S = (1.0, 4.0, 8.0)
STEPS_S = (1, 2, 5, 10, 60)
"""Where they wait; and a minute, what could not be handed on."""
LATE_S = 10.0
"""Seconds that a delayed message may come late, beyond a fault that it meets."""
USUALLY_LATE_S = 3.0
ECHO_S = 10.0
"""Seconds after a fault in which a message may come again."""
QUIET_S = 120.0
PUBLISHERS = ("p0", "p1", "p2")
CONSUMERS = ("task", "process")
FROZEN = "leader frozen"
ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.rabbitmq, pytest.mark.stress, pytest.mark.timeout(900)]


class Sent(NamedTuple):
    """A message whose publish has ended.

    Attributes:
        began: When that began.
        who: Which publisher.
        due: Seconds since the epoch before which it must not come; 0 without a delay.
        verdict: ``stored``, ``not_stored`` or ``unknown``.
    """

    began: float
    who: str
    due: float
    verdict: str


class Fault(NamedTuple):
    """What was done to a node, in seconds of the monotonic clock.

    Attributes:
        what: What.
        began: When.
        led: When the queue had a leader that stores messages.
        ended: When the node was back.
        receivers: How many consumers were connected to it.
    """

    what: str
    began: float
    led: float
    ended: float
    receivers: int


class Load:
    """Publishes all the time, through a broker for each order of the hosts.

    Attributes:
        sent: What was said of each message.
        slowest: Seconds of the longest publish.
    """

    def __init__(self, cluster: RabbitMQCluster, topic: str) -> None:
        self.sent: dict[str, Sent] = {}
        self.slowest = 0.0
        self._topic = topic
        self._is_ending = False
        self._tasks = [
            asyncio.create_task(self._run(cluster.address(first), who))
            for first, who in enumerate(PUBLISHERS)
        ]

    async def _run(self, address: str, who: str) -> None:
        async with broker_at(address, heartbeat=HEARTBEAT_S, publish_timeout=PUBLISH_S) as broker:
            publisher = broker.publisher()
            number = 0
            while not self._is_ending:
                number += 1
                messages = [message() for _ in range(4)]
                if number % 5 == 0:
                    delay = DELAYS_S[number // 5 % len(DELAYS_S)]
                    messages = [message(delay)]
                began = time.monotonic()
                verdicts = dict.fromkeys((one.id for one in messages), "stored")
                try:
                    await publisher.publish(self._topic, *messages)
                except PublishError as exc:
                    verdicts = dict.fromkeys(exc.stored, "stored")
                    verdicts |= dict.fromkeys(exc.not_stored, "not_stored")
                    verdicts |= dict.fromkeys(exc.unknown, "unknown")
                assert verdicts.keys() == {one.id for one in messages}
                self.slowest = max(self.slowest, time.monotonic() - began)
                for one in messages:
                    self.sent[one.id] = Sent(began, who, due_of(one), verdicts[one.id])
                await asyncio.sleep(0.03)

    def check(self) -> None:
        """Raise what a publisher has ended by."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        """Publish nothing more."""
        self._is_ending = True
        await asyncio.gather(*self._tasks)


def message(delay: float = 0.0) -> Message:
    metadata = delay_metadata(delay, now=datetime.now(UTC)) if delay else {}
    return Message(json.dumps({"do": "as usual"}).encode(), metadata)


def due_of(one: Message) -> float:
    due = one.metadata.get(DELAYED_UNTIL)
    return datetime.fromisoformat(due).timestamp() if due else 0.0


class Run:
    """The cluster under load, and what was done to it.

    Attributes:
        faults: What was done.
        load: Who publishes.
    """

    def __init__(self, cluster: RabbitMQCluster, topic: str, load: Load) -> None:
        self.faults: list[Fault] = []
        self.load = load
        self._cluster = cluster
        self._topic = topic
        self._queue = f"{topic}_g"

    async def kill(self, node: RabbitMQ, what: str) -> None:
        """Kill a node, and have it back with all that was stored meanwhile."""
        receivers = await self._receivers(node)
        async with self._elsewhere(node) as connection:
            began = time.monotonic()
            node.kill()
            led = await self._stored(connection)
        await asyncio.sleep(BACK_S)
        await node.start_again(within=90)
        await asyncio.to_thread(node.control, "await_startup")  # more than a port that answers
        ended = time.monotonic()
        await self._caught_up()
        self._note(what, began, led, ended, receivers)

    async def freeze(self, node: RabbitMQ) -> None:
        """Have a node stand still for a while."""
        receivers = await self._receivers(node)
        async with self._elsewhere(node) as connection:
            began = time.monotonic()
            node.freeze()
            storing = asyncio.create_task(self._stored(connection))
            try:
                await asyncio.sleep(FREEZE_S)
            finally:
                node.thaw()
            ended = time.monotonic()
            led = await storing
        await asyncio.sleep(PUBLISH_S + BACK_S)
        await self._caught_up()
        self._note(FROZEN, began, led, ended, receivers)

    async def _caught_up(self) -> None:
        """Wait until every node has what was stored by now."""
        for queue in await asyncio.to_thread(self._cluster.queues):
            await until(CaughtUp(self._cluster, queue), f"{queue} is whole", within=60)

    def _note(self, what: str, began: float, led: float, ended: float, receivers: int) -> None:
        fault = Fault(what, began, led, ended, receivers)
        print(
            f"{what}: stored again after {led - began:.1f} s, "
            f"node back after {ended - began:.1f} s, {receivers} consumers on it"
        )
        self.faults.append(fault)
        self.load.check()

    async def leader(self) -> RabbitMQ:
        """The node that leads the group's queue."""
        found: list[RabbitMQ] = []

        async def has_one() -> bool:
            leader = await asyncio.to_thread(self._cluster.leader, self._queue)
            found[:] = [] if leader is None else [leader]
            return bool(found)

        await until(has_one, "the queue has a leader")
        return found[0]

    async def connected(self) -> RabbitMQ:
        """A node that consumers are connected to, and that does not lead the queue."""
        node, *_ = await asyncio.to_thread(self._cluster.receivers, self._queue)
        if node is await self.leader():
            other = next(one for one in self._cluster.nodes if one is not node)
            await asyncio.to_thread(self._cluster.move, self._queue, other)

            async def has_moved() -> bool:
                return await self.leader() is not node

            await until(has_moved, "the leader is another one")
        return node

    async def _receivers(self, node: RabbitMQ) -> int:
        found = await asyncio.to_thread(self._cluster.receivers, self._queue)
        assert len(found) == 2
        return found.count(node)

    @contextlib.asynccontextmanager
    async def _elsewhere(self, node: RabbitMQ) -> AsyncGenerator[aiormq.abc.AbstractConnection]:
        """A client of another make, at a node that stays."""
        other = next(one for one in self._cluster.nodes if one is not node)
        async with outside(other.address) as look:
            yield look.channel.connection

    async def _stored(self, connection: aiormq.abc.AbstractConnection) -> float:
        """When the majority has stored what is published now by somebody else."""
        async with asyncio.timeout(60):
            while True:
                one = message()
                began = time.monotonic()
                channel = await connection.channel(publisher_confirms=True)
                verdict = "stored"
                try:
                    await channel.basic_publish(
                        one.payload,
                        exchange=self._topic,
                        properties=Basic.Properties(headers={ID: one.id}, delivery_mode=2),
                        timeout=1,
                    )
                except aiormq.exceptions.DeliveryError:
                    verdict = "not_stored"
                except TimeoutError:
                    verdict = "unknown"
                self.load.sent[one.id] = Sent(began, "outside", 0.0, verdict)
                if verdict == "stored":
                    return time.monotonic()
                # A channel that has met a dead leader stays with it: the next one may not.
                await asyncio.sleep(0.01)


class CaughtUp:
    """Whether all members of a queue have what its leader had at first."""

    def __init__(self, cluster: RabbitMQCluster, queue: str) -> None:
        self._cluster = cluster
        self._queue = queue
        self._goal = -1

    async def __call__(self) -> bool:
        members = await asyncio.to_thread(self._cluster.members, self._queue)
        if self._goal < 0:
            self._goal = max((one.stored for one in members if one.leads), default=-1)
        return self._goal >= 0 and all(one.stored >= self._goal for one in members)


@contextlib.asynccontextmanager
async def member_of_another_process(job: Job) -> AsyncGenerator[None]:
    """A consumer as a process; it has to leave in good order."""
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", sys.executable),
        *("-m", "tests.brokers.rabbitmq.campaign.member", json.dumps(job), "process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
    )
    assert process.stdin is not None
    try:
        yield
        process.stdin.close()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def member_of_this_process(job: Job) -> AsyncGenerator[None]:
    """A consumer as a task."""
    leave = asyncio.Event()
    task = asyncio.create_task(Worker(job, "task").work(leave))
    try:
        yield
    finally:
        leave.set()
        await task


@pytest.mark.fault("RMQ-02", "RMQ-06", "RMQ-07")
async def test_one_node_at_a_time(rabbitmq_cluster: RabbitMQCluster, tmp_path: Path) -> None:
    """The leader's node is killed again and again, then the one of the consumers; one is frozen.

    What was confirmed is handled, delayed messages too; what was refused never comes; consumers
    are back within 5 s of the queue's new leader; what comes twice has a fault for a reason.
    """
    cluster, topic, path = rabbitmq_cluster, named("cluster"), tmp_path / "ledger"
    queue = f"{topic}_g"
    path.touch()
    async with broker_at(cluster.address()) as broker:
        await broker.subscriber(group="g").prepare(topic)
        for step in STEPS_S:
            await broker.declare(waiting(step).parts)
        await asyncio.sleep(DECLARED_S)
    job = Job(
        cluster.address(),
        *("pubsub", topic, str(path), HEARTBEAT_S),
        concurrency=4,
        max_in_flight=50,
        takes=0.001,
        drain_timeout=5.0,
    )
    other = job._replace(address=cluster.address(1))
    async with member_of_this_process(job), member_of_another_process(other):
        async with outside(cluster.nodes[2].address) as look:
            await look.received(queue, by=2)
        load = Load(cluster, topic)
        await asyncio.sleep(DECLARED_S)
        run = Run(cluster, topic, load)
        for _ in range(KILLS):
            await run.kill(await run.leader(), "leader killed")
        await run.kill(await run.connected(), "consumers' node killed")
        await run.freeze(await run.leader())
        await load.end()
        began = time.monotonic()
        await until(lambda: not missing(load.sent, read(path)), "all is handled", within=QUIET_S)
        print(f"quiet after {time.monotonic() - began:.1f} s")
    for node in cluster.nodes:
        async with outside(node.address) as look:
            await look.settled(queue)
    judge(run, read(path))


def judge(run: Run, told: list[Entry]) -> None:
    """What has to hold, by the ledger and by what was said to publishers."""
    sent, faults = run.load.sent, run.faults
    said = Counter(one.verdict for one in sent.values())
    done = Counter(entry.which for entry in told if entry.what == DONE)
    begun = [entry for entry in told if entry.what == BEGUN]
    backs = [(fault, back_after(fault, who, begun, sent)) for fault in faults for who in CONSUMERS]
    storing = [(fault, stores_after(fault, who, sent)) for fault in faults for who in PUBLISHERS]
    late = [(entry, lateness(entry, sent)) for entry in begun if is_delayed(entry, sent)]
    print(
        f"{said['stored']:,} stored, {said['not_stored']:,} not stored, "
        f"{said['unknown']:,} unknown, {done.total():,} handled, "
        f"{done.total() - len(done):,} of them again; longest publish {run.load.slowest:.1f} s; "
        f"{len(late):,} delayed, median {statistics.median(by for _, by in late):.1f} s late, "
        f"most {max(by for _, by in late):.1f} s; after each fault: "
        f"a leader after {[round(f.led - f.began, 1) for f in faults]} s, and after that "
        f"consumers back in {[round(back, 1) for _, back in backs]} s, "
        f"publishers in {[round(back, 1) for _, back in storing]} s"
    )
    assert not [entry for entry in told if entry.what == "away"]
    assert not missing(sent, told)
    assert done.keys() <= sent.keys()
    refused = {which for which, one in sent.items() if one.verdict == "not_stored"}
    assert refused.isdisjoint(entry.which for entry in begun)
    assert run.load.slowest < PUBLISH_S + 2
    for fault in faults:
        assert waiting_at(fault, sent), "no delayed message waited at a fault"
    assert min(by for _, by in late) > -0.01
    assert statistics.median(by for _, by in late) < USUALLY_LATE_S
    assert not [e for e, by in late if by > LATE_S and not is_explained(e, faults, since=e.at - by)]
    assert not [entry for entry in again(begun) if not is_explained(entry, faults)]
    for fault, back in backs:
        is_unheard = fault.receivers and fault.what == FROZEN
        assert back < BACK_S + (NOTICED_S if is_unheard else 0.0), fault
    for fault, back in storing:
        # What was under way on a channel that hangs ends by its deadline.
        assert back < BACK_S + (PUBLISH_S if fault.what == FROZEN else 0.0), fault


def missing(sent: dict[str, Sent], told: list[Entry]) -> list[Sent]:
    """What was confirmed and is not handled."""
    done = {entry.which for entry in told if entry.what == DONE}
    left = [one for which, one in sent.items() if one.verdict == "stored" and which not in done]
    if left:
        print(f"{len(left)} left, {sum(bool(one.due) for one in left)} of them delayed")
    return left


def back_after(fault: Fault, who: str, begun: list[Entry], sent: dict[str, Sent]) -> float:
    """Seconds from the queue's new leader to a message that was published after it."""
    times = (
        entry.at
        for entry in begun
        if entry.who == who and entry.which in sent and sent[entry.which].began >= fault.led
    )
    return next(times, math.inf) - fault.led


def stores_after(fault: Fault, who: str, sent: dict[str, Sent]) -> float:
    """Seconds from the queue's new leader to a publish that stores its messages in it."""
    times = (
        one.began
        for one in sent.values()
        if one.who == who and one.verdict == "stored" and not one.due and one.began >= fault.led
    )
    return next(times, math.inf) - fault.led


def is_delayed(entry: Entry, sent: dict[str, Sent]) -> bool:
    return entry.which in sent and bool(sent[entry.which].due)


def lateness(entry: Entry, sent: dict[str, Sent]) -> float:
    """Seconds after its time that a delayed message came."""
    at = entry.at - time.monotonic() + time.time()
    return at - sent[entry.which].due


def waiting_at(fault: Fault, sent: dict[str, Sent]) -> bool:
    """Whether a delayed message waited when it happened."""
    at = fault.began - time.monotonic() + time.time()
    return any(one.began < fault.began and one.due > at for one in sent.values())


def again(begun: list[Entry]) -> list[Entry]:
    """Those that had come before."""
    seen: set[str] = set()
    found: list[Entry] = []
    for entry in begun:
        if entry.which in seen:
            found.append(entry)
        seen.add(entry.which)
    return found


def is_explained(entry: Entry, faults: list[Fault], *, since: float = math.inf) -> bool:
    """Whether there is a fault around it, or between ``since`` and it."""
    ends = [(f.began, (f.ended if f.what == FROZEN else f.led) + ECHO_S) for f in faults]
    return any(began <= entry.at and min(since, entry.at) <= end for began, end in ends)
