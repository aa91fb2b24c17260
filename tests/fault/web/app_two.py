"""Two buses in one process: in one app, and in two apps with a server each."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from eventflow import Event, EventBus, Service
from eventflow.integrations.starlette import lifespan
from tests.fault.web.app import HANDLING_S, record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


class OrderPlaced(Event, topic="orders.placed"):
    number: int


class OrderPacked(Event, topic="orders.packed"):
    number: int


# ------------------------------------------------------------------- one app, two buses

shop, store = EventBus(name="shop"), EventBus(name="store")


@asynccontextmanager
async def first_in_first_out(app: FastAPI) -> AsyncGenerator[None]:
    await shop.__aenter__()
    await store.__aenter__()
    yield
    await shop.__aexit__(None, None, None)
    record("shop-closed", 0)
    await store.__aexit__(None, None, None)
    record("store-closed", 0)


app = FastAPI(lifespan=first_in_first_out)


@shop.on(OrderPlaced)
async def pack(event: OrderPlaced) -> None:
    record("began", event.number)
    await asyncio.sleep(HANDLING_S)
    record("shop-handled", event.number)
    await store.publish(OrderPacked(number=event.number))


@store.on(OrderPacked)
async def ship(event: OrderPacked) -> None:
    await asyncio.sleep(HANDLING_S)
    record("store-handled", event.number)


@app.get("/ready")
async def ready() -> str:
    return store.statistics().state


@app.post("/publish/{number}")
async def publish(number: int) -> None:
    await shop.publish(OrderPlaced(number=number))


# ------------------------------------------------------------------- two apps, two buses


class Server(uvicorn.Server):
    """Leaves the signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def server_of(name: str, port: str, kind: type[uvicorn.Server]) -> uvicorn.Server:
    """A server of an app of its own, which has a bus of its own."""
    bus = EventBus(name=name)
    app = FastAPI(lifespan=lifespan(bus))
    server = kind(uvicorn.Config(app, host="127.0.0.1", port=int(port)))

    @bus.on(OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        record("began", event.number)
        await asyncio.sleep(HANDLING_S)
        record(f"{name}-handled", event.number)

    @app.get("/ready")
    async def ready() -> str:
        return bus.statistics().state

    @app.post("/publish/{number}")
    async def publish(number: int) -> None:
        await bus.publish(OrderPlaced(number=number))

    @app.post("/stop")
    async def stop() -> None:
        server.should_exit = True

    return server


def servers(kind: type[uvicorn.Server]) -> list[uvicorn.Server]:
    ports = os.environ["PORT"], os.environ["OTHER_PORT"]
    return [server_of(name, port, kind) for name, port in zip(("one", "two"), ports, strict=True)]


@asynccontextmanager
async def serving(server: uvicorn.Server) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        yield
        server.should_exit = True


def service() -> Service:
    return Service(*map(serving, servers(Server)), name="both")


async def main() -> None:
    """The same without a service, so that both of uvicorn's servers want the signals."""
    await asyncio.gather(*(server.serve() for server in servers(uvicorn.Server)))


if __name__ == "__main__":
    asyncio.run(main())
