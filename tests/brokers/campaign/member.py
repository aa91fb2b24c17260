"""Members of a group: what they do, and how they are ended.

One is a task of this process, or a process of its own, which leaves when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventflow import current
from eventflow.errors import BrokerError
from eventflow.failure import DeadLetter, FailurePolicy, Retry
from eventflow.messaging import Router
from tests.brokers.campaign.ledger import BEGUN, DONE, FAILED, Ledger

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from eventflow.messaging import Message

__all__ = ("BaseWorker", "Member")

ROOT = Path(__file__).parents[3]
AGAIN_S = 0.2


class BaseWorker(ABC):
    """What a member does: its handler tells the ledger about each message.

    Attributes:
        slow_s: Seconds of a handler that is slow; set by the broker's.
        block_s: Seconds for which a handler blocks the loop, the first time.
        takes: Seconds a handler takes that does nothing special.
        router: The last one that it has run.
    """

    slow_s: float
    block_s: float
    takes: float

    def __init__(self, who: str, ledger: str) -> None:
        self.router: Router | None = None
        self._who = who
        self._ledger = Ledger(ledger)
        self._met: set[str] = set()

    async def __call__(self, message: Message) -> Message | None:
        """Do what the message says, as its handler."""
        who, ledger, name = self._who, self._ledger, message.id
        ledger.write(BEGUN, who, name)
        is_first = name not in self._met
        self._met.add(name)
        try:
            await self._handle(message, json.loads(message.payload)["do"], is_first=is_first)
        except ValueError:
            ledger.write(FAILED, who, name)
            raise
        ledger.write(DONE, who, name)
        return None

    async def _handle(self, _message: Message, what: str, *, is_first: bool) -> None:
        match what:
            case "slow":
                await asyncio.sleep(self.slow_s)
            case "block" if is_first:
                time.sleep(self.block_s)  # noqa: ASYNC251 - the subject
            # By the count, as the retry may be somebody else's.
            case "fail" if current().attempt == 1:
                raise ValueError("once")
            case "poison":
                raise ValueError("each time")
            case _:
                await asyncio.sleep(self.takes)

    async def work(self, leave: asyncio.Event) -> None:
        """Be a member until told to leave; again where the broker can't be found."""
        try:
            while not leave.is_set():
                try:
                    async with self._joined() as self.router:
                        await leave.wait()
                except BrokerError as exc:
                    self._ledger.write("away", self._who, type(exc).__name__)
                    await asyncio.sleep(AGAIN_S)
            self._ledger.write("left", self._who)
        finally:
            self._ledger.close()

    @abstractmethod
    def _joined(self) -> AbstractAsyncContextManager[Router]:
        """A router that runs, with this as its handler."""

    @staticmethod
    def _router(*, first_wait: float, drain_timeout: float = 5.0) -> Router:
        policy = FailurePolicy(retry=Retry(attempts=3, initial=first_wait), then=DeadLetter())
        return Router(on_failure=policy, drain_timeout=drain_timeout)

    @classmethod
    def main(cls, job: type[Any]) -> None:
        """Be one as a program, whose arguments are the facts of a job and a name."""

        async def work() -> None:
            leave = asyncio.Event()
            reader = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
            reader.add_done_callback(lambda _: leave.set())
            await cls(job(*json.loads(sys.argv[1])), sys.argv[2]).work(leave)

        asyncio.run(work())


class Member:
    """A member, as a task or as a process, and how to end it."""

    def __init__(self, worker: type[Any], job: Any, who: str, *, is_process: bool) -> None:
        self.who = who
        self.is_gone = False
        self.is_process = is_process
        self.worker: BaseWorker | None = None
        self._is_killed = False
        self._process: asyncio.subprocess.Process | None = None
        self._leave = asyncio.Event()
        if is_process:
            work = self._run(worker.__module__, job)
        else:
            own: BaseWorker = worker(job, who)
            self.worker = own
            work = own.work(self._leave)
        self.task = asyncio.create_task(work)

    async def _run(self, module: str, job: Any) -> None:
        with Path(f"{job.ledger}.{self.who}").open("w+b") as stderr:  # noqa: ASYNC230 - a small one
            self._process = process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", sys.executable),
                *("-m", module, json.dumps(job), self.who),
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
        """Ask it to leave."""
        self.is_gone = True
        self._leave.set()

    def kill(self) -> None:
        """End its process with -9, if it is one that runs by now."""
        if self._process is not None and self._process.returncode is None:
            self.is_gone = self._is_killed = True
            self._process.kill()
