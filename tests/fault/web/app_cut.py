"""An app whose requests are cut in the middle: by their client, or by the app's own time limit.

One listener can't keep up, and makes publishers wait; another one always has room.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from eventflow import Event, EventBus
from eventflow.integrations.starlette import lifespan
from tests.fault.web.app import record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.middleware.base import RequestResponseEndpoint
    from starlette.types import ASGIApp, Receive, Scope, Send

HANDLING_S = float(os.environ["HANDLING_S"])
LIMIT_S = 0.3


class OrderPlaced(Event, topic="orders.placed"):
    number: int


bus = EventBus(name="shop", drain_timeout=10)
gate = asyncio.Event()


@asynccontextmanager
async def ledger_at_the_end(app: FastAPI) -> AsyncGenerator[None]:
    yield
    for row in bus.ledger.subscriptions:
        for count in ("offered", "handled", "rejected"):
            record(f"{row.name}.{count}", getattr(row, count))
        record(f"{row.name}.adds_up", int(row.adds_up))


app = FastAPI(lifespan=lifespan(bus, around=ledger_at_the_end))


@bus.on(OrderPlaced, name="slow", capacity=1, block_timeout=60)
async def handle(event: OrderPlaced) -> None:
    record("began", event.number)
    await gate.wait()
    await asyncio.sleep(HANDLING_S)
    record("handled", event.number)


@bus.on(OrderPlaced, name="roomy", capacity=10_000)
async def note(event: OrderPlaced) -> None:
    record("noted", event.number)


async def publish(number: int) -> None:
    """Publish, and write down how that ended for the request's own coroutine."""
    record("requested", number)
    try:
        await bus.publish(OrderPlaced(number=number))
    except asyncio.CancelledError:
        record("cancelled", number)
        raise
    record("published", number)


class TimeLimit:
    """Cancels the rest of a request that takes too long, and answers in its place."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limited = scope["type"] == "http" and scope["path"].startswith("/limited/")
        try:
            async with asyncio.timeout(LIMIT_S if limited else None):
                await self._app(scope, receive, send)
        except TimeoutError:
            await Response(status_code=504)(scope, receive, send)


@app.middleware("http")  # FastAPI makes it one of Starlette's BaseHTTPMiddleware
async def through_base_http_middleware(
    request: Request, call_next: RequestResponseEndpoint
) -> Response:
    return await call_next(request)


app.add_middleware(TimeLimit)  # around the other one


@app.get("/ready")
async def ready() -> str:
    return bus.statistics().state


@app.get("/waiting")
async def waiting() -> int:
    return bus.statistics()["slow"].waiting


@app.post("/open")
async def open_the_gate() -> None:
    gate.set()


@app.get("/plain/{number}")
@app.get("/limited/{number}")
async def plain(number: int) -> None:
    await publish(number)


@app.get("/stream/{number}")
async def stream(number: int) -> StreamingResponse:
    """Is cancelled by the framework when its client goes away."""

    async def body() -> AsyncGenerator[bytes]:
        yield b"publishing\n"
        await publish(number)
        yield b"published\n"

    return StreamingResponse(body())


@app.get("/listens/{number}")
async def listens(number: int, request: Request) -> None:
    """Publishes, listens until it is told that its client has gone, and publishes again."""
    await publish(number)
    # Not `is_disconnected()`, which never finds out beneath a BaseHTTPMiddleware.
    while (await request.receive())["type"] != "http.disconnect":
        pass
    record("told", number)
    await publish(number + 1)
