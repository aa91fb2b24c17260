"""Scopes as programs really use them: tasks that differ, parents that are cancelled."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import pytest

from eventflow import Event, EventBus
from eventflow.errors import BusClosedError
from eventflow.testing import no_leaks
from tests.fault.web.server import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.virtual_clock


class Ping(Event, topic="test.ping"):
    number: int = 0


PLAIN = """
import asyncio, os, sys
from eventflow import Event, EventBus

class Ping(Event, topic="test.ping"):
    number: int

def record(what, number):
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what} {number}\\n".encode())
    os.fsync(file)
    os.close(file)

async def handle(event):
    await asyncio.sleep(0.05)
    record("handled", event.number)

async def main():
    async with EventBus() as bus:
        bus.subscribe(Ping, handle, concurrency=100)
        for number in range(100):
            await bus.publish(Ping(number=number))
            record("published", number)

asyncio.run(main())
"""


def test_plain_asyncio_run_handles_everything(tmp_path: Path) -> None:
    """The program ends after its handlers, without a word on stderr."""
    record = tmp_path / "record.txt"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAIN, str(record)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.split() for line in record.read_text().splitlines()]
    by_what = {what: {n for w, n in lines if w == what} for what in ("published", "handled")}
    assert len(by_what["published"]) == 100
    assert by_what["handled"] == by_what["published"]


async def test_a_scope_entered_in_one_task_and_left_in_another() -> None:
    """Handlers finish; nothing depends on which task it was."""
    bus, handled = EventBus(), list[int]()

    async def slow(event: Ping) -> None:
        await asyncio.sleep(1)
        handled.append(event.number)

    bus.subscribe(Ping, slow)
    with no_leaks():
        await asyncio.create_task(bus.__aenter__())
        await bus.publish(Ping(number=1))
        await asyncio.create_task(bus.__aexit__(None, None, None))
    assert handled == [1]
    assert bus.ledger.total.handled == 1


async def test_two_buses_left_in_the_order_they_were_entered() -> None:
    """First in, first out: the second goes on, and the ledgers of both add up."""
    one, two = EventBus(name="one"), EventBus(name="two")
    handled: list[str] = []

    async def slow(event: Ping) -> None:
        await asyncio.sleep(1)
        handled.append("handled")

    one.subscribe(Ping, slow)
    two.subscribe(Ping, slow)
    with no_leaks():
        await one.__aenter__()
        await two.__aenter__()
        await one.publish(Ping())
        await one.__aexit__(None, None, None)
        await two.publish(Ping())
        await two.__aexit__(None, None, None)
    assert [bus.ledger.total.handled for bus in (one, two)] == [1, 1]
    assert len(handled) == 2


End = Callable[[EventBus, asyncio.Event], Awaitable[None]]


async def _by_cancel_scope(bus: EventBus, started: asyncio.Event) -> None:
    with anyio.CancelScope() as scope:
        async with bus:
            await bus.publish(Ping())
            await started.wait()
            scope.cancel()
            await asyncio.sleep(3600)


async def _by_timeout(bus: EventBus, started: asyncio.Event) -> None:
    with pytest.raises(TimeoutError):  # noqa: PT012 - the block is what is cancelled
        async with asyncio.timeout(1), bus:
            await bus.publish(Ping())
            await asyncio.sleep(3600)


async def _by_task_group(bus: EventBus, started: asyncio.Event) -> None:
    async def serve() -> None:
        async with bus:
            await bus.publish(Ping())
            await asyncio.sleep(3600)

    async def fail() -> None:
        await started.wait()
        raise LookupError

    with pytest.raises(ExceptionGroup):  # noqa: PT012 - the group raises at its end
        async with asyncio.TaskGroup() as group:
            group.create_task(serve())
            group.create_task(fail())


@pytest.mark.parametrize("end", [_by_cancel_scope, _by_timeout, _by_task_group])
async def test_a_parent_that_is_cancelled_cuts_handlers_within_the_grace(end: End) -> None:
    """No drain then: the handler is cancelled, is counted, and nothing is left behind."""
    started, ended = asyncio.Event(), list[str]()
    bus = EventBus(cancel_grace=5)

    async def endless(event: Ping) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(2)  # its clean-up may wait, as long as it is within the grace
            ended.append("cleaned up")

    bus.subscribe(Ping, endless, timeout=None)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with no_leaks():
        await end(bus, started)

    assert loop.time() - began <= 1 + 5 + 1
    row = bus.ledger["endless"]
    assert (row.cancelled, row.abandoned, row.adds_up) == (1, 0, True)
    assert ended == ["cleaned up"]
    with pytest.raises(BusClosedError):
        await bus.publish(Ping())
