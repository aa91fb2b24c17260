"""Litestar: a bus that lives as long as the app, handed to routes as a publisher.

::

    bus = EventBus(name="shop")

    @post("/orders")
    async def place(data: NewOrder, events: NamedDependency[EventPublisher]) -> None:
        await events.publish(OrderPlaced(order_id=data.id))

    app = Litestar([place], lifespan=[lifespan(bus)], dependencies={"events": Provide(publisher)})
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from eventflow.events import EventPublisher  # noqa: TC001 - Litestar reads the annotations
from eventflow.integrations import _members

try:
    from litestar.datastructures import State  # noqa: TC002 - as above
except ModuleNotFoundError as exc:
    if exc.name != "litestar":
        raise
    raise ModuleNotFoundError(
        "eventflow.integrations.litestar needs Litestar: pip install 'eventflow-asyncio[litestar]'",
        name="litestar",
    ) from exc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from litestar import Litestar

__all__ = ("lifespan", "publisher")


def lifespan(
    *members: AbstractAsyncContextManager[Any], publisher: EventPublisher | None = None
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    """Return a lifespan for an app, in which members are open; for its list of lifespans.

    They are entered in order before the first request, and left in reverse after the last
    one: a bus drains once nothing can publish any more. The app's own lifespans go in front
    of it in the list: Litestar leaves them last.

    Args:
        members: Async context managers: a bus, a service, a broker.
        publisher: What `publisher` hands to the routes; default: the only member that is an
            `EventPublisher`.

    Raises:
        InvalidOptionError: A member can't be entered, or none or several of them publish and
            ``publisher`` is not given.
    """
    chosen = _members.handed_out(members, publisher)

    @asynccontextmanager
    async def run(app: Litestar) -> AsyncGenerator[None]:
        async with _members.entered(members):
            app.state[_members.KEY] = chosen
            yield

    return run


async def publisher(state: State) -> EventPublisher:
    """Return the app's publisher; for ``dependencies={"events": Provide(publisher)}``.

    Raises:
        PublisherNotFoundError: The app was made without `lifespan`, or it has not run.
    """
    return _members.found(state.dict(), "Litestar(lifespan=[lifespan(bus)])")
