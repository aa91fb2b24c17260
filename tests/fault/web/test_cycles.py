"""An app that is started and stopped a thousand times, as test suites and reloads do."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from litestar import Litestar, post
from litestar.di import NamedDependency, Provide

import eventflow.integrations.litestar
import eventflow.integrations.starlette
from eventflow import Event, EventBus, EventPublisher, Service

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"


class OrderPlaced(Event, topic="orders.placed"):
    number: int = 1


Events = Annotated[EventPublisher, Depends(eventflow.integrations.starlette.publisher)]


def fastapi(service: Service, bus: EventBus) -> Any:
    integration = eventflow.integrations.starlette
    app = FastAPI(lifespan=integration.lifespan(service, publisher=bus))

    @app.post("/orders")
    async def place(events: Events) -> None:
        await events.publish(OrderPlaced())

    return app


def litestar(service: Service, bus: EventBus) -> Any:
    integration = eventflow.integrations.litestar

    @post("/orders")
    async def place(events: NamedDependency[EventPublisher]) -> None:
        await events.publish(OrderPlaced())

    return Litestar(
        [place],
        lifespan=[integration.lifespan(service, publisher=bus)],
        dependencies={"events": Provide(integration.publisher)},
        logging_config=None,
    )


async def request(app: Any, state: dict[str, Any]) -> int:
    """Do what a server does with a request; the status of the answer."""
    statuses: list[int] = []
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/orders",
        "raw_path": b"/orders",
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": None,
        "server": ("shop", 80),
        "state": dict(state),
    }

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    (status,) = statuses
    return status


async def cycle(app: Any, requests: int) -> None:
    """Start the app by the lifespan protocol, ask it for something, stop it."""
    said: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    heard: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    running = asyncio.ensure_future(app(scope, said.get, heard.put))
    said.put_nowait({"type": "lifespan.startup"})
    assert await heard.get() == {"type": "lifespan.startup.complete"}
    for _ in range(requests):
        assert await request(app, state) in {200, 201}
    said.put_nowait({"type": "lifespan.shutdown"})
    assert await heard.get() == {"type": "lifespan.shutdown.complete"}
    await running


def now() -> tuple[int, int, int]:
    """Tasks, threads and open files."""
    gc.collect()
    files = len(list(Path("/proc/self/fd").iterdir()))
    return len(asyncio.all_tasks()), threading.active_count(), files


@pytest.mark.fault("SHD-12")
@pytest.mark.promise("1")
@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("make", [fastapi, litestar], ids=lambda make: make.__name__)
def test_cycles_of_an_app_leave_nothing(make: Any) -> None:
    """1,000 of a bus in a service in an app (100 here): tasks, threads, files, memory as before."""
    cycles = 1_000 if STRESS else 100
    handled = 0
    bus = EventBus("shop")

    @bus.on(OrderPlaced, concurrency=3)
    async def on_loop(event: OrderPlaced) -> None:
        nonlocal handled
        handled += 1

    @bus.on(OrderPlaced)
    def in_thread(event: OrderPlaced) -> None: ...

    async def main() -> int:
        app = make(Service(bus), bus)
        for _ in range(20):
            await cycle(app, 2)
        before, memory = now(), tracemalloc.get_traced_memory()[0]
        for _ in range(cycles):
            await cycle(app, 2)
        assert now() == before
        return tracemalloc.get_traced_memory()[0] - memory

    tracemalloc.start()
    try:
        grown = asyncio.run(main())
    finally:
        tracemalloc.stop()
    assert handled == 2 * (20 + cycles)
    assert bus.ledger.adds_up
    # Coverage's tracer keeps something of each thread that it has seen.
    allowed = 32_768 + (4_096 * cycles if threading.gettrace() else 0)
    assert grown < allowed, f"{grown:,} bytes more after {cycles} cycles"
