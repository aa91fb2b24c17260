"""Carries a schedule out, and waits until all is quiet."""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from eventflow.errors import PublishError
from eventflow.messaging import Message
from tests.brokers.campaign.ledger import FAULT_BEGUN, FAULT_ENDED, Ledger
from tests.brokers.campaign.member import Member
from tests.brokers.campaign.schedule import FAULTS_S, BaseSchedule, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.brokers.campaign.member import BaseWorker
    from tests.servers.proxy import ProxiedKafka, Proxy
    from tests.servers.rabbitmq import ProxiedRabbitMQ

__all__ = ("BaseRun", "NotQuietError", "Sent")

S = TypeVar("S", bound=BaseSchedule)
N = TypeVar("N", bound="ProxiedKafka | ProxiedRabbitMQ")

QUIET_S = 30.0
"""Seconds after the last fault within which all is handled and settled."""
LEAVE_S = 15.0


class NotQuietError(AssertionError):
    """Something has still to be done long after the last fault."""


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


class BaseRun(ABC, Generic[S, N]):
    """One schedule, on a topic of its own.

    Attributes:
        AWAY: What is raised where the server is not there, or not all of it.
        WORKER: What its members do.
        sent: Messages whose publish has ended, by id.
        quiet_after: Seconds from the last fault until all was handled and settled.
    """

    AWAY: ClassVar[tuple[type[Exception], ...]]
    WORKER: ClassVar[type[BaseWorker]]

    topic: str
    _job: Any  # what every member is told
    _block_s: float  # for which a handler blocks the loop

    def __init__(self, schedule: S, server: N, ledger: Path) -> None:
        self.schedule = schedule
        self.sent: dict[str, Sent] = {}
        self.quiet_after = 0.0
        self._server = server
        self._proxy: Proxy = server.proxy
        self._path = ledger
        self._ledger = Ledger(ledger)
        self._members: list[Member] = []
        self._faults = 0

    async def carry_out(self) -> None:
        """All of it; what it asserts is that each part ends in time."""
        try:
            await self._set_up()
            for kind in self.schedule.members:
                self._join(is_process=kind == "process")
            async with self._observed():
                async with asyncio.TaskGroup() as tasks:
                    for number in range(self.schedule.publishers):
                        tasks.create_task(self._publish(number))
                    tasks.create_task(self._inflict(self.schedule.link))
                    tasks.create_task(self._inflict(self.schedule.group))
                if all(member.is_gone for member in self._members):
                    self._join(is_process=False)
                await self._wait_until_quiet()
            await self._leave()
            await self._look_back()
        finally:
            await self._clean_up()

    # What depends on the broker

    async def _set_up(self) -> None:
        """Before anybody joins."""

    @abstractmethod
    def _broker(self, **options: Any) -> Any:
        """A broker of a publisher."""

    def _more(self, _publisher: int, _number: int) -> dict[str, Any]:
        """What a message has beside its payload."""
        return {}

    @asynccontextmanager
    async def _observed(self) -> AsyncGenerator[None]:
        """While there are faults, and until all is quiet."""
        yield

    @abstractmethod
    async def _left(self) -> object:
        """What has still to be done; nothing where all is quiet."""

    async def _look_back(self) -> None:
        """When all members have left."""

    # What does not

    def _join(self, *, is_process: bool) -> None:
        who = f"{'process' if is_process else 'task'}-{len(self._members)}"
        self._members.append(Member(self.WORKER, self._job, who, is_process=is_process))

    async def _publish(self, number: int) -> None:
        """One publisher's share, spread over the time of the faults; nothing is published again."""
        schedule = self.schedule
        mine = range(number, schedule.messages, schedule.publishers)
        batches = [mine[at : at + schedule.batch] for at in range(0, len(mine), schedule.batch)]
        timeout = schedule.publish_timeout
        async with self._broker(publish_timeout=timeout) as broker:
            publisher = broker.publisher()
            for batch in batches:
                messages = [self._message(number, n) for n in batch]
                verdicts = dict.fromkeys((m.id for m in messages), "stored")
                began = time.monotonic()
                try:
                    await publisher.publish(self.topic, *messages)
                except PublishError as exc:
                    told = [*exc.stored, *exc.not_stored, *exc.unknown]
                    assert sorted(told) == sorted(verdicts), "some are left out, or said twice"
                    verdicts |= dict.fromkeys(exc.not_stored, "not_stored")
                    verdicts |= dict.fromkeys(exc.unknown, "unknown")
                took = time.monotonic() - began
                assert took < timeout + self._blocks_for + 3, f"a publish took {took:.1f} s"
                self.sent |= {m.id: Sent(m, number, verdicts[m.id]) for m in messages}
                await asyncio.sleep(FAULTS_S / len(batches))

    @property
    def _blocks_for(self) -> float:
        """Most seconds that handlers block the loop of this process."""
        blocks = sum(kind == "block" for kind in self.schedule.odd.values())
        return blocks * len(self._members) * self._block_s

    def _message(self, publisher: int, number: int) -> Message:
        what = {"n": number, "do": self.schedule.odd.get(number, "as usual")}
        return Message(json.dumps(what).encode(), **self._more(publisher, number))

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
        server, proxy = self._server, self._proxy
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
                server.kill()
                await asyncio.sleep(fault.lasts / 3)
                await server.start_again(within=60)
            case "freeze-broker":
                server.freeze()
                await asyncio.sleep(fault.lasts)
                server.thaw()
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

    async def _wait_until_quiet(self) -> None:
        began = time.monotonic()
        self._ledger.write("over", "-")
        bound = QUIET_S + self._blocks_for
        left: object = "not known"
        while time.monotonic() < began + bound:
            for member in self._members:
                if member.task.done():
                    member.task.result()
            with suppress(*self.AWAY):
                left = await self._left()
                if not left:
                    self.quiet_after = time.monotonic() - began
                    return
            await asyncio.sleep(0.1)
        raise NotQuietError(f"not quiet after {bound} s: {left}")

    async def _leave(self) -> None:
        for member in self._members:
            member.leave()
        _, late = await asyncio.wait([m.task for m in self._members], timeout=LEAVE_S)
        assert not late, f"{len(late)} members have not left after {LEAVE_S} s"
        for member in self._members:
            member.task.result()

    async def _clean_up(self) -> None:
        """Leave the broker as it was, whatever happened."""
        self._proxy.restore()
        for member in self._members:
            member.task.cancel()
        await asyncio.gather(*(m.task for m in self._members), return_exceptions=True)
        self._ledger.close()
