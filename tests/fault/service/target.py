"""Services to run, each of which tells the recorder what happens in it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import threading
import time
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from eventflow import Event, EventBus, Overflow, Service
from eventflow.errors import EventFlowError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SCENARIO: dict[str, Any] = json.loads(os.environ.get("SCENARIO", "{}"))

# As an application would do it, so that the line with the ledger is written.
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")


class Happened(Event, topic="fault.happened"):
    key: str


@cache
def outbox() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.connect(os.environ["RECORDER"])
    return made


def note(kind: str, what: str) -> None:
    """Waits for room at the recorder, so that nothing gets lost on the way."""
    if os.environ.get("RECORDER"):
        outbox().send(f"{kind} {what}".encode())


def bus_of(name: str = "shop") -> EventBus:
    return EventBus(
        name,
        drain_timeout=SCENARIO.get("drain", 20.0),
        cancel_grace=SCENARIO.get("grace", 5.0),
    )


def service_of(*members: Any) -> Service:
    return Service(
        *members,
        name="shop",
        drain_timeout=SCENARIO.get("drain", 20.0),
        cancel_grace=SCENARIO.get("grace", 5.0),
    )


# ------------------------------------------------------------------------------ handlers


async def works(event: Happened) -> None:
    """Takes as long as the scenario says."""
    note("start", event.key)
    await asyncio.sleep(SCENARIO.get("handler_s", 0))
    note("done", event.key)


async def swallows(event: Happened) -> None:
    """Refuses every cancellation."""
    note("start", event.key)
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)


async def blocks(event: Happened) -> None:
    """Holds the event loop, in Python, and would notice an exception thrown into it."""
    note("start", event.key)
    try:
        ends = time.monotonic() + SCENARIO.get("handler_s", 1000)
        while time.monotonic() < ends:
            pass
    except BaseException as exc:
        note("thrown", type(exc).__name__)
        raise
    note("done", event.key)


def in_thread(event: Happened) -> None:
    note("start", event.key)
    threading.Event().wait(SCENARIO.get("handler_s", 1000))
    note("done", event.key)


def opens_files(event: Happened) -> None:
    """Takes every file descriptor there is; gives all of them back."""
    opened: list[int] = []
    try:
        while len(opened) < SCENARIO["files"] or event.key.endswith("0"):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    note("done", event.key)


def deafen() -> None:
    """From now on signals come to another thread, and interrupt no wait of the main thread."""
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])


async def deaf_and_blocks(event: Happened) -> None:
    """Holds the event loop in a call that no signal interrupts."""
    deafen()
    note("start", event.key)
    time.sleep(1000)  # noqa: ASYNC251 - a blocked loop is what is tested


HANDLERS = {
    f.__name__: f for f in (works, swallows, blocks, in_thread, opens_files, deaf_and_blocks)
}


# ------------------------------------------------------------------------------ members


async def publish(bus: EventBus, key: str) -> bool:
    note("try", key)
    try:
        await bus.publish(Happened(key=key))
    except EventFlowError as exc:
        note("refused", f"{key} {type(exc).__name__}")
        return False
    note("ok", key)
    return True


may_publish: dict[str, asyncio.Event] = {}


@asynccontextmanager
async def publisher(bus: EventBus) -> AsyncGenerator[None]:
    """Publishes what the scenario says, in tasks of its own, until it is left.

    It comes before the bus, and so goes on while the bus stops, and after.
    """
    start = asyncio.Event()

    async def run(number: int) -> None:
        await start.wait()
        await asyncio.sleep(SCENARIO.get("delay", 0))
        for i in range(SCENARIO.get("events", 0)):
            accepted = await publish(bus, f"{os.getpid()}-{number}-{i}")
            if not accepted and not SCENARIO.get("insists"):
                return
            await asyncio.sleep(SCENARIO.get("pause", 0))

    tasks = [asyncio.ensure_future(run(n)) for n in range(SCENARIO.get("publishers", 1))]
    may_publish[bus.name] = start
    try:
        yield
    finally:
        _, late = await asyncio.wait(tasks, timeout=SCENARIO.get("linger", 0))
        for task in late:
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def starts_publishing(bus: EventBus) -> AsyncGenerator[None]:
    may_publish[bus.name].set()
    yield


@asynccontextmanager
async def noted(name: str) -> AsyncGenerator[None]:
    note("entered", name)
    try:
        yield
    finally:
        note("left", name)


@asynccontextmanager
async def hangs(how: str) -> AsyncGenerator[None]:
    """Can't be entered."""
    note("hangs", how)
    if how == "blocked":
        time.sleep(1000)  # noqa: ASYNC251 - which is the fault
    while how == "retries":  # as one does that waits for its broker
        with suppress(ConnectionError):
            await asyncio.sleep(0.05)
            raise ConnectionError
    while how == "swallows":
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)
    await asyncio.sleep(1000)
    yield


# ------------------------------------------------------------------------------ targets


def shop() -> Service:
    """A bus with the scenario's handler, and who publishes to it."""
    bus = bus_of()
    options: dict[str, Any] = {**SCENARIO.get("options", {})}
    if "overflow" in options:
        options["overflow"] = Overflow(options["overflow"])
    bus.subscribe(Happened, HANDLERS[SCENARIO.get("handler", "works")], name="h", **options)
    first = noted(f"{os.getpid()} {os.environ.get('EVENTFLOW_WORKER', '-')}")
    return service_of(first, publisher(bus), bus, starts_publishing(bus))


def half_started() -> Service:
    """Two members that can be entered, and a third one that can't."""
    return service_of(noted("a"), bus_of(), noted("b"), hangs(SCENARIO["how"]))


async def slow_factory() -> Service:
    note("hangs", "factory")
    await asyncio.sleep(1000)
    return shop()


@asynccontextmanager
async def with_executor() -> AsyncGenerator[None]:
    """Leaves a thread of the loop's own executor behind, for so many seconds."""
    event = threading.Event()
    asyncio.get_running_loop().run_in_executor(None, event.wait, SCENARIO["seconds"])
    note("start", "executor")
    yield


def executor() -> Service:
    return service_of(with_executor())


@asynccontextmanager
async def with_stray_task() -> AsyncGenerator[None]:
    """Leaves a task behind that refuses to end."""

    async def stray() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

    note("start", "stray")
    stray_tasks.append(asyncio.create_task(stray(), name="stray"))
    await asyncio.sleep(0)
    yield


stray_tasks: list[asyncio.Task[None]] = []


@asynccontextmanager
async def fails() -> AsyncGenerator[None]:
    """Fails a moment after it was entered."""

    async def soon() -> None:
        await asyncio.sleep(SCENARIO.get("after", 0.2))
        raise LookupError("this is how it failed")

    async with asyncio.TaskGroup() as group:
        group.create_task(soon())
        yield


def failing_beside_a_bus() -> Service:
    bus = bus_of()
    bus.subscribe(Happened, works, name="h", concurrency=100)
    return service_of(publisher(bus), bus, fails(), starts_publishing(bus))


@asynccontextmanager
async def forks() -> AsyncGenerator[None]:
    """Has a child of its own, as multiprocessing makes them, and ends it with SIGTERM."""
    child = os.fork()
    if not child:
        note("forked", str(os.getpid()))  # one sent before this would be lost to CPython itself
        signal.pause()
        os._exit(3)
    try:
        yield
    finally:
        os.kill(child, signal.SIGTERM)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        note("child", str(os.waitstatus_to_exitcode(status)))


@asynccontextmanager
async def deaf() -> AsyncGenerator[None]:
    deafen()
    yield


@asynccontextmanager
async def dies_at_once() -> AsyncGenerator[None]:
    """Its process ends when it was ready for a moment, as if killed."""
    asyncio.get_running_loop().call_later(0.3, os._exit, 9)
    yield


def can_not_start() -> Service:
    note("attempt", f"{time.monotonic()}")

    @asynccontextmanager
    async def broken() -> AsyncGenerator[None]:
        await asyncio.sleep(0)
        raise ConnectionRefusedError("nobody there")
        yield

    return service_of(noted("a"), broken())


def one_shot() -> Service:
    """Ends by itself when its one event was handled."""
    bus = bus_of()
    service: list[Service] = []

    async def handler(event: Happened) -> None:
        note("done", event.key)
        service[0].request_stop()

    bus.subscribe(Happened, handler)
    service.append(service_of(publisher(bus), bus, starts_publishing(bus)))
    return service[0]


not_a_service = 3


async def undecorated() -> AsyncGenerator[None]:
    yield


def needs_an_argument(settings: object) -> Service:
    raise NotImplementedError


async def web_app(scope: object, receive: object, send: object) -> None:
    raise NotImplementedError


def make_web_app() -> object:
    return web_app


def raises() -> Service:
    raise LookupError("this is how the factory failed")
