"""Starlette and FastAPI: a bus that lives as long as the app, handed to routes as a publisher.

::

    bus = EventBus(name="shop")
    app = FastAPI(lifespan=lifespan(bus))
    Events = Annotated[EventPublisher, Depends(publisher)]

    @app.post("/orders")
    async def place(order: NewOrder, events: Events) -> None:
        await events.publish(OrderPlaced(order_id=order.id))
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from eventflow.integrations import _members

try:
    from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI reads the annotation
except ModuleNotFoundError as exc:
    if exc.name != "starlette":
        raise
    raise ModuleNotFoundError(
        "eventflow.integrations.starlette needs Starlette: "
        "pip install 'eventflow-asyncio[starlette]', or FastAPI, which brings it",
        name="starlette",
    ) from exc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from eventflow.events import EventPublisher

__all__ = ("lifespan", "publisher")


def lifespan(
    *members: AbstractAsyncContextManager[Any],
    publisher: EventPublisher | None = None,
    around: Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]] | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return a lifespan for an app, in which members are open.

    They are entered in order before the first request, and left in reverse after the last
    one: a bus drains once nothing can publish any more. An error at the start ends the start
    of the app. It can be entered again, by a test for instance, as far as the members can.

    Args:
        members: Async context managers: a bus, a service, a broker.
        publisher: What `publisher` hands to the routes; default: the only member that is an
            `EventPublisher`.
        around: The app's own lifespan. It is entered first and left last, so that handlers
            which finish during the stop still have what it opened; its state is kept.

    Raises:
        InvalidOptionError: A member can't be entered, or none or several of them publish and
            ``publisher`` is not given.
    """
    chosen = _members.handed_out(members, publisher)

    @asynccontextmanager
    async def run(app: Any) -> AsyncGenerator[dict[str, Any]]:
        outer = nullcontext() if around is None else around(app)
        async with outer as state, _members.entered(members):
            yield {**(state or {}), _members.KEY: chosen}

    return run


async def publisher(connection: HTTPConnection) -> EventPublisher:
    """Return the app's publisher, to a route that depends on it.

    FastAPI calls it as a dependency; a Starlette route awaits it with its request.
    It works for HTTP and WebSocket routes, and in apps that are mounted into the one that has
    the lifespan. In a test, ``app.dependency_overrides[publisher]`` puts another in its place.

    Raises:
        PublisherNotFoundError: The app was made without `lifespan`, or it has not run.
    """
    # A connection's state is the lifespan's, copied by the server for each request.
    return _members.found(connection.scope.get("state") or {}, "FastAPI(lifespan=lifespan(bus))")
