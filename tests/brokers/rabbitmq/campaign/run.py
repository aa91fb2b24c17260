"""Carries a schedule out, and looks at the queues when all is quiet."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import aiormq
import aiormq.exceptions

from tests.brokers.campaign.ledger import BEGUN, DONE, FAILED, Entry, read
from tests.brokers.campaign.run import BaseRun, NotQuietError
from tests.brokers.rabbitmq.campaign.member import BLOCK_S, Job, Worker
from tests.brokers.rabbitmq.campaign.schedule import CONSUMER_TIMEOUT_S, KINDS, Schedule
from tests.brokers.rabbitmq.campaign.tap import Tap
from tests.brokers.rabbitmq.support import DECLARED_S, Outside, broker_at, outside
from tests.servers.process import ServerError
from tests.servers.rabbitmq import ProxiedRabbitMQ

if TYPE_CHECKING:
    from pathlib import Path

    from tests.brokers.campaign.member import Member
    from tests.brokers.campaign.schedule import Fault

__all__ = ("Run",)

ACKED_S = 0.05
"""Seconds after a handler's end by which its ack is with the server."""


class Run(BaseRun[Schedule, ProxiedRabbitMQ]):
    """One schedule, on a topic of its own.

    Attributes:
        tap: What all clients go through.
        copies: What a queue has that got a copy of each message: ids and bodies. It is somebody
            else's; empty where the topology has no place for one.
        letters: Ids of the dead letters.
        left: What was left in the queue when all members had left.
        noise: What had still to be done when all should have been quiet.
    """

    AWAY = (aiormq.exceptions.AMQPError, OSError, RuntimeError, TimeoutError, ServerError)
    WORKER = Worker
    _block_s = BLOCK_S

    def __init__(self, schedule: Schedule, server: ProxiedRabbitMQ, ledger: Path) -> None:
        super().__init__(schedule, server, ledger)
        self._proxy = self.tap = Tap(server.port)
        self._linked = f"amqp://guest:guest@127.0.0.1:{self.tap.port}"
        self.copies: list[tuple[str, bytes]] = []
        self.letters: list[str] = []
        self.left = 0
        self.noise = ""
        self.topic = f"campaign.{schedule.seed}.{uuid.uuid4().hex[:8]}"
        self._topology = KINDS[schedule.kind]
        self.has_copies = self._topology.has_groups
        self._queue = f"{self.topic}_g" if self.has_copies else self.topic
        self._copies = f"{self.topic}.copies"
        self._letters = f"{self.topic}.dead_letter"
        self._job = Job(
            address=self._linked,
            kind=schedule.kind,
            topic=self.topic,
            ledger=str(ledger),
            heartbeat=schedule.heartbeat,
            concurrency=schedule.concurrency,
            max_in_flight=schedule.max_in_flight,
            drain_timeout=schedule.drain_timeout,
            takes=schedule.takes,
        )

    async def carry_out(self) -> None:
        """All of it, through the tap."""
        with self.tap:
            await super().carry_out()

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

    def _broker(self, **options: Any) -> Any:
        heartbeat = self.schedule.heartbeat
        return broker_at(self._linked, topology=self._topology, heartbeat=heartbeat, **options)

    async def _do(self, fault: Fault) -> None:
        server = self._server
        match fault.what:
            case "cut":
                await super()._do(fault)
                self._proxy.restore()
            case "stop-broker":
                await asyncio.to_thread(server.stop)
                await asyncio.sleep(fault.lasts / 3)
                await server.start_again(within=60)
            case "close-connections":
                await asyncio.to_thread(server.control, "close_all_connections", "a fault")
            case "alarm":
                await self._watermark("1")
                await asyncio.sleep(fault.lasts)
                await self._watermark("512MB")
            case "kill-busy":
                for member in await self._busy(within=fault.lasts, are_processes=True):
                    member.kill()
            case "leave-busy":
                for member in await self._busy(within=fault.lasts):
                    member.leave()
            case _:
                await super()._do(fault)

    async def _busy(self, *, within: float, are_processes: bool = False) -> list[Member]:
        """A member that holds what it began before others that it has acked by now; if any is."""
        end = time.monotonic() + within
        while (now := time.monotonic()) < end:
            passed = _passed(read(self._path))
            for member in self._members:
                is_there = not member.is_gone and member.is_process >= are_processes
                if is_there and passed.get(member.who, end) + ACKED_S < now:
                    return [member]
            await asyncio.sleep(ACKED_S / 4)
        return []

    async def _watermark(self, size: str) -> None:
        await asyncio.to_thread(
            self._server.control, "set_vm_memory_high_watermark", "absolute", size
        )

    # From outside

    async def _wait_until_quiet(self) -> None:
        try:
            await super()._wait_until_quiet()
        except NotQuietError as exc:  # the verdict says more
            self.noise = str(exc)

    async def _left(self) -> object:
        """What is in the queue that nobody holds, what was not handled yet, and what is held."""
        async with asyncio.timeout(2), outside(self._server.address) as look:
            left = await self._waiting(look)
        return left or await asyncio.to_thread(self._held)

    async def _waiting(self, look: Outside) -> object:
        kept = await look.kept(self._queue)
        there = sum(not member.is_gone for member in self._members)
        if kept != (0, there):
            return f"{kept} with {there} members"
        ended = {entry.which for entry in read(self._path) if entry.what in (DONE, FAILED)}
        stored = {name for name, sent in self.sent.items() if sent.verdict == "stored"}
        if missing := stored - ended:
            return f"{len(missing)} of {len(stored)} not handled"
        if busy := self._being_handled():
            return f"{busy} are being handled"
        for member in self._members:
            if not member.is_gone and member.worker is not None and member.worker.router:
                health = member.worker.router.health()
                if not health.is_ready:
                    return health
        return ""

    def _being_handled(self) -> int:
        """Handlers that run; the server says seconds late what is in hand."""
        running: set[tuple[str, str]] = set()
        for _, what, who, which in read(self._path):
            if what == BEGUN:
                running.add((who, which))
            elif what in (DONE, FAILED):
                running.discard((who, which))
        there = {member.who for member in self._members if not member.is_gone}
        return sum(who in there for who, _ in running)

    def _held(self) -> str:
        """What members have in their hands, as the server has it."""
        columns = ("name", "messages_unacknowledged", "--no-table-headers")
        for line in self._server.control("list_queues", *columns).splitlines():
            name, _, count = line.partition("\t")
            if name == self._queue:
                return "" if count == "0" else f"{count} are held"
        return "the queue is not there"

    async def _look_back(self) -> None:
        async with outside(self._server.address) as look:
            self.left = (await look.kept(self._queue)).ready
            self.letters = [name for name, _ in await look.drain(self._letters)]
            if self.has_copies:
                self.copies = await look.drain(self._copies)

    async def _clean_up(self) -> None:
        await super()._clean_up()
        if "slow" in self.schedule.odd.values():
            await self._consumer_timeout(1_800, tick_s=60)
        async with outside(self._server.address) as look:
            channel: Any = look.channel
            for queue in (self._queue, self._copies, self._letters):
                await channel.queue_delete(queue)
            for exchange in (self.topic, self._letters):
                await channel.exchange_delete(exchange)


def _passed(told: list[Entry]) -> dict[str, float]:
    """Since when members have something in their hands that was begun before what is done."""
    hands: dict[str, dict[str, float]] = {}
    for at, what, who, which in told:
        hand = hands.setdefault(who, {})
        if what == BEGUN:
            hand[which] = math.inf
        elif what in (DONE, FAILED):
            for earlier in takewhile(which.__ne__, hand):
                hand[earlier] = min(hand[earlier], at)
            hand.pop(which, None)  # once, though two deliveries of it may be handled at once
    return {who: min(hand.values(), default=math.inf) for who, hand in hands.items()}
