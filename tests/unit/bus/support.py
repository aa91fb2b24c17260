"""What the tests of the bus share: a few events, and handlers of every temper."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from eventflow import Event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from eventflow.bus import EventBus


class Ping(Event, topic="test.ping"):
    n: int = 0
    key: str = ""


class Pong(Event, topic="test.pong"):
    n: int = 0


class Base(Event):
    n: int = 0


class Left(Base, topic="test.base.left"):
    pass


class Right(Base, topic="test.base.right"):
    pass


def now() -> float:
    return asyncio.get_running_loop().time()


class Recorder:
    """A handler that remembers what it got, and waits at a gate where it is told to."""

    def __init__(self, *, gate: asyncio.Event | None = None) -> None:
        self.seen: list[int] = []
        self.started: list[int] = []
        self.times: list[float] = []
        self.gate = gate

    async def __call__(self, event: Ping) -> None:
        self.started.append(event.n)
        self.times.append(now())
        if self.gate is not None:
            await self.gate.wait()
        self.seen.append(event.n)


class Stubborn:
    """A handler that swallows every cancellation until `let_go` is called."""

    def __init__(self) -> None:
        self.cancels: list[float] = []
        self.running = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None
        self._release = asyncio.Event()

    async def __call__(self, event: Event) -> None:
        self.task = asyncio.current_task()
        self.running.set()
        while not self._release.is_set():
            try:
                await self._release.wait()
            except asyncio.CancelledError:
                self.cancels.append(now())

    async def let_go(self) -> None:
        self._release.set()
        if self.task is not None:
            await asyncio.wait([self.task])


async def turns(count: int = 10) -> None:
    """Let everything that is ready run, without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


async def publish_all(bus: EventBus, numbers: range) -> None:
    for n in numbers:
        await bus.publish(Ping(n=n))


async def outcome(call: Awaitable[Any]) -> BaseException | None:
    """What a call raised, cancellations too."""
    try:
        await call
    except BaseException as exc:  # noqa: BLE001 - it is what was asked for
        return exc
    return None


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """The log lines of the bus about one thing."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "eventflow.bus" and f"event='eventflow.{event}'" in record.getMessage()
    ]


def ours(caplog: pytest.LogCaptureFixture, level: int = logging.DEBUG) -> list[str]:
    """Everything that eventflow logged."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("eventflow") and record.levelno >= level
    ]


def ignore(event: Event) -> Callable[[], None] | None:
    """A plain function as handler."""
