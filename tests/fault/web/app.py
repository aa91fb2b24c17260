"""An app that real servers run in the tests: what it published and handled goes into a file.

The file is the outside recorder: appended to and synced line by line, it tells what happened up
to the very end of the process, and by which process.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI, Response, WebSocket

from eventflow import Event, EventBus, EventPublisher
from eventflow.integrations.starlette import lifespan, publisher

if TYPE_CHECKING:
    from starlette.middleware.base import RequestResponseEndpoint
    from starlette.requests import Request

RECORD = os.environ["RECORD"]
HANDLING_S = float(os.environ.get("HANDLING_S", "0.3"))
WORK_S = float(os.environ.get("WORK_S", "0.3"))
CODE = "first"


class OrderPlaced(Event, topic="orders.placed"):
    number: int


def record(what: str, number: int) -> None:
    """Append a line that outlives the process."""
    file = os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{what} {number} {os.getpid()} {CODE}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)


bus = EventBus(name="shop", drain_timeout=10)
events = Annotated[EventPublisher, Depends(publisher)]
app = FastAPI(lifespan=lifespan(bus))


@bus.on(OrderPlaced, concurrency=1000)
async def handle(event: OrderPlaced) -> None:
    record("began", event.number)
    await asyncio.sleep(HANDLING_S)
    record("handled", event.number)


@app.middleware("http")  # FastAPI makes it one of Starlette's BaseHTTPMiddleware
async def through_base_http_middleware(
    request: Request, call_next: RequestResponseEndpoint
) -> Response:
    return await call_next(request)


@app.get("/ready")
async def ready(response: Response) -> str:
    state = bus.statistics().state
    response.status_code = 200 if state == "open" else 503
    return state


@app.post("/work-then-publish/{number}")
async def work_then_publish(number: int, publisher: events) -> None:
    """In flight for a while, and only then announces."""
    record("requested", number)
    await asyncio.sleep(WORK_S)
    await publisher.publish(OrderPlaced(number=number))
    record("published", number)


@app.post("/publish-then-work/{number}")
async def publish_then_work(number: int, publisher: events) -> None:
    """Announces, and is still in flight when the client goes away."""
    await publisher.publish(OrderPlaced(number=number))
    record("published", number)
    await asyncio.sleep(WORK_S)
    record("answered", number)


@app.websocket("/orders")
async def over_websocket(websocket: WebSocket, publisher: events) -> None:
    await websocket.accept()
    number = int(await websocket.receive_text())
    await publisher.publish(OrderPlaced(number=number))
    record("published", number)
    await websocket.send_text("published")
    await websocket.close()
