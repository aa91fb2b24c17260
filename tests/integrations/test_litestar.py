"""`eventflow.integrations.litestar`, in this process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from litestar import Litestar, WebSocket, post, websocket
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath  # noqa: TC002 - Litestar reads it
from litestar.testing import TestClient

from eventflow import Event, EventBus, EventPublisher
from eventflow.errors import InvalidOptionError
from eventflow.integrations.litestar import lifespan, publisher
from eventflow.testing import EventCapture

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class OrderPlaced(Event, topic="orders.placed"):
    number: int


@post("/orders/{number:int}")
async def place(number: FromPath[int], events: NamedDependency[EventPublisher]) -> None:
    await events.publish(OrderPlaced(number=number))


@websocket("/orders")
async def over_websocket(
    socket: WebSocket[Any, Any, Any], events: NamedDependency[EventPublisher]
) -> None:
    await socket.accept()
    await events.publish(OrderPlaced(number=int(await socket.receive_text())))
    await socket.close()


def shop(*lifespans: Any, events: Any = publisher) -> Litestar:
    return Litestar(
        [place, over_websocket],
        lifespan=[*lifespans],
        dependencies={"events": Provide(events)},
        logging_config=None,  # else it sets the level of the whole process
    )


def listening() -> tuple[EventBus, list[int]]:
    bus, handled = EventBus(name="shop"), list[int]()

    async def handle(event: OrderPlaced) -> None:
        handled.append(event.number)

    bus.subscribe(OrderPlaced, handle)
    return bus, handled


def test_a_route_publishes_and_the_lifespan_drains() -> None:
    """Over HTTP and WebSocket; what was published is handled when the app has ended."""
    bus, handled = listening()

    with TestClient(shop(lifespan(bus))) as client:
        assert client.post("/orders/1").status_code == 201
        with client.websocket_connect("/orders") as socket:
            socket.send_text("2")

    assert sorted(handled) == [1, 2]
    assert bus.ledger.state == "closed"


def test_lifespans_in_front_of_it_are_left_last() -> None:
    """What they open is there for handlers that finish during the stop."""
    bus, _ = listening()
    seen: list[str] = []

    @asynccontextmanager
    async def own(app: Litestar) -> AsyncGenerator[None]:
        seen.append(bus.statistics().state)
        yield
        seen.append(bus.statistics().state)

    with TestClient(shop(own, lifespan(bus))) as client:
        client.post("/orders/1")
    assert seen == ["new", "closed"]


def test_an_app_without_the_lifespan_is_told_so() -> None:
    """A 500, whose cause says what to write."""
    with TestClient(shop(), raise_server_exceptions=False) as client:
        answer = client.post("/orders/1")
    assert answer.status_code == 500


def test_a_test_puts_a_publisher_of_its_own_in_place() -> None:
    """The dependency is like any other."""
    capture = EventCapture()

    async def captured() -> EventPublisher:
        return capture

    with TestClient(shop(events=captured)) as client:
        client.post("/orders/1")
    capture.assert_published(OrderPlaced, times=1)


def test_which_publisher_is_handed_out_is_never_guessed() -> None:
    """As for Starlette."""
    with pytest.raises(InvalidOptionError, match=r"publisher=bus"):
        lifespan(EventBus(name="one"), EventBus(name="two"))
