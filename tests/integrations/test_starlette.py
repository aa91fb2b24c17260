"""`eventflow.integrations.starlette`, in this process: with FastAPI, and with Starlette alone."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Response, WebSocket
from fastapi.testclient import TestClient
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.requests import Request  # noqa: TC002 - FastAPI reads it
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from eventflow import Event, EventBus, EventPublisher
from eventflow.errors import BusClosedError, InvalidOptionError, PublisherNotFoundError
from eventflow.integrations.starlette import lifespan, publisher
from eventflow.testing import EventCapture

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class OrderPlaced(Event, topic="orders.placed"):
    number: int


Events = Annotated[EventPublisher, Depends(publisher)]


def shop(bus: EventBus, **options: Any) -> FastAPI:
    """An app with a route that publishes, and one that does over a WebSocket."""
    app = FastAPI(lifespan=lifespan(bus, **options))

    @app.post("/orders/{number}")
    async def place(number: int, events: Events) -> None:
        await events.publish(OrderPlaced(number=number))

    @app.websocket("/orders")
    async def over_websocket(websocket: WebSocket, events: Events) -> None:
        await websocket.accept()
        await events.publish(OrderPlaced(number=int(await websocket.receive_text())))
        await websocket.close()

    return app


def listening(name: str = "shop") -> tuple[EventBus, list[int]]:
    bus, handled = EventBus(name=name), list[int]()

    async def handle(event: OrderPlaced) -> None:
        handled.append(event.number)

    bus.subscribe(OrderPlaced, handle)
    return bus, handled


def test_a_route_publishes_and_the_lifespan_drains() -> None:
    """Over HTTP and WebSocket; what was published is handled when the app has ended."""
    bus, handled = listening()

    with TestClient(shop(bus)) as client:
        assert client.post("/orders/1").status_code == 200
        with client.websocket_connect("/orders") as websocket:
            websocket.send_text("2")
        assert bus.statistics().state == "open"

    assert handled == [1, 2]
    assert bus.ledger.state == "closed"


def test_an_app_can_be_started_again() -> None:
    """Tests restart one app object; each start enters the bus anew."""
    bus, handled = listening()
    app = shop(bus)

    for number in (1, 2):
        with TestClient(app) as client:
            client.post(f"/orders/{number}")

    assert handled == [1, 2]


def test_an_app_without_starlettes_lifespan_is_told_so() -> None:
    """A client that does not run the lifespan gets an error that says what to do."""
    bus, _ = listening()
    with pytest.raises(PublisherNotFoundError, match=r"lifespan=lifespan\(bus\)"):
        TestClient(shop(bus)).post("/orders/1")


def test_a_test_puts_a_publisher_of_its_own_in_place() -> None:
    """``dependency_overrides`` works as for any dependency, without a lifespan too."""
    bus, handled = listening()
    app, capture = shop(bus), EventCapture()
    app.dependency_overrides[publisher] = lambda: capture

    TestClient(app).post("/orders/1")

    capture.assert_published(OrderPlaced, times=1)
    assert handled == []


def test_starlette_alone() -> None:
    """Without FastAPI a route calls the same function itself, in mounted apps too."""
    bus, handled = listening()

    async def place(request: Request) -> PlainTextResponse:
        events = await publisher(request)
        await events.publish(OrderPlaced(number=int(request.query_params["number"])))
        return PlainTextResponse("placed")

    inner = Starlette(routes=[Route("/orders", place)])
    app = Starlette(routes=[Route("/orders", place), Mount("/v1", inner)], lifespan=lifespan(bus))
    with TestClient(app) as client:
        client.get("/orders?number=1")
        client.get("/v1/orders?number=2")

    assert handled == [1, 2]


def test_two_apps_have_two_buses() -> None:
    """In one process; neither gets the other's events."""
    (one, handled_by_one), (two, handled_by_two) = listening("one"), listening("two")

    with TestClient(shop(one)) as first, TestClient(shop(two)) as second:
        first.post("/orders/1")
        second.post("/orders/2")

    assert handled_by_one == [1]
    assert handled_by_two == [2]


@pytest.mark.fault("SHD-09")
async def test_two_services_on_one_loop_end_in_any_order() -> None:
    """The one that started first ends first; the other goes on, and a late publish is told so."""
    (one, handled_by_one), (two, handled_by_two) = listening("one"), listening("two")
    apps = shop(one), shop(two)
    first, second = (app.router.lifespan_context(app) for app in apps)
    transports = [
        ASGITransport(_with_state(app, dict(await context.__aenter__() or {})))
        for app, context in zip(apps, (first, second), strict=True)
    ]
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(transport=t, base_url="http://test"))
            for t in transports
        ]
        await clients[0].post("/orders/1")
        await first.__aexit__(None, None, None)
        assert (await clients[1].post("/orders/2")).status_code == 200
        with pytest.raises(BusClosedError):
            await clients[0].post("/orders/3")
        await second.__aexit__(None, None, None)

    assert (handled_by_one, handled_by_two) == ([1], [2])
    assert one.ledger.total.offered == 1


def _with_state(app: Any, state: dict[str, Any]) -> Any:
    """What a server does: each connection gets a copy of the lifespan's state."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return run


@pytest.mark.fault("SHD-09")
def test_a_publish_after_the_lifespan_has_ended_is_refused() -> None:
    """A 500 by default, or whatever the app makes of `BusClosedError`; never a hang."""
    bus, handled = listening()
    app = shop(bus)
    with TestClient(app) as client:
        state = dict(client.app_state)
    late = TestClient(_with_state(app, state), raise_server_exceptions=False)
    assert late.post("/orders/1").status_code == 500

    @app.exception_handler(BusClosedError)
    async def unavailable(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("stopping", status_code=503)

    app.middleware_stack = app.build_middleware_stack()
    assert late.post("/orders/1").status_code == 503
    assert handled == []


@pytest.mark.virtual_clock
async def test_readiness_goes_false_when_draining_begins() -> None:
    """The route of docs/web.md, asked while a handler finishes and the app still answers."""
    bus = EventBus(name="shop")
    app = FastAPI()
    started, finish = asyncio.Event(), asyncio.Event()

    async def slow(event: OrderPlaced) -> None:
        started.set()
        await finish.wait()

    @app.get("/ready")
    async def ready(response: Response) -> str:
        state = bus.statistics().state
        response.status_code = 200 if state == "open" else 503
        return state

    bus.subscribe(OrderPlaced, slow)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        await bus.__aenter__()
        assert (await client.get("/ready")).status_code == 200
        await bus.publish(OrderPlaced(number=1))
        await started.wait()
        leaving = asyncio.create_task(bus.__aexit__(None, None, None))
        await asyncio.sleep(1)
        answer = await client.get("/ready")
        finish.set()
        await leaving
    assert (answer.status_code, answer.json()) == (503, "closing")
    assert bus.ledger.total.handled == 1


def test_the_apps_own_lifespan_goes_around() -> None:
    """It is entered first and left last, and its state is kept."""
    bus, _ = listening()
    seen: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
        seen.append(f"{bus.statistics().state} at the start")
        yield {"database": "open"}
        seen.append(f"{bus.statistics().state} at the end")

    app = shop(bus, around=own)

    @app.get("/database")
    async def database(request: Request) -> str:
        return str(request.state.database)

    with TestClient(app) as client:
        assert client.get("/database").json() == "open"
        assert client.post("/orders/1").status_code == 200
    assert seen == ["new at the start", "closed at the end"]


def test_a_member_that_fails_ends_the_start() -> None:
    """With its own error, and those before it closed again."""
    bus, _ = listening()

    @asynccontextmanager
    async def broken() -> AsyncGenerator[None]:
        raise ConnectionError("no database")
        yield

    app = FastAPI(lifespan=lifespan(bus, broken()))
    with pytest.raises(ConnectionError, match="no database"), TestClient(app):
        pytest.fail("started")
    assert bus.ledger.state == "closed"


@asynccontextmanager
async def opened() -> AsyncGenerator[None]:
    yield


def test_which_publisher_is_handed_out_is_never_guessed() -> None:
    """None or several among the members, or something else: the error says what to write."""
    one, two = EventBus(name="one"), EventBus(name="two")
    with pytest.raises(InvalidOptionError, match=r"0 of 1 members .* publisher=bus"):
        lifespan(opened())
    with pytest.raises(InvalidOptionError, match="2 of 2 members"):
        lifespan(one, two)
    wrong: Any = object()
    with pytest.raises(InvalidOptionError, match="async context managers"):
        lifespan(wrong)
    with pytest.raises(InvalidOptionError, match="publisher= takes"):
        lifespan(one, publisher=wrong)

    with TestClient(FastAPI(lifespan=lifespan(one, two, publisher=two))) as client:
        assert two in client.app_state.values()
