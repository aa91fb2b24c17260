"""Where the service is put together: the one place that knows bus, broker, listeners and routes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from eventflow import EventBus, Service
from eventflow.messaging import Bridge, BrokerEventPublisher, Router, connect
from examples.github_webhooks import pages, webhooks
from examples.github_webhooks.events import CARRIED
from examples.github_webhooks.listeners import WORK, Board, listeners_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow import Event, EventPublisher
    from examples.github_webhooks.settings import Settings


def create_app(settings: Settings, *, is_receiver: bool = False) -> FastAPI:
    """Return the service. Nothing runs before the server enters its lifespan.

    Args:
        settings: What can be set from outside.
        is_receiver: On a broker, only take deliveries in and show them: `worker` does the work.
    """
    bus, board = EventBus(name="webhooks"), Board()
    if settings.broker is None:
        publisher, service = in_process(bus, settings, board)
    elif is_receiver:
        publisher, service = receiver(settings.broker, bus, settings, board)
    else:
        publisher, service = on_a_broker(settings.broker, bus, settings, board)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        # Entering opens the database; leaving handles what was accepted, and then closes it.
        async with service:
            yield

    # FastAPI's own documentation pages load their scripts from elsewhere; this one needs none.
    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.state.settings, app.state.board = settings, board
    # Several roles: routes that announce get a publisher; only those that look at the bus itself
    # get the bus; and the service has the ledgers of all its members.
    app.state.publisher, app.state.bus, app.state.service = publisher, bus, service
    app.include_router(webhooks.router)
    app.include_router(pages.router)
    return app


def in_process(bus: EventBus, settings: Settings, board: Board) -> tuple[EventPublisher, Service]:
    """Everything on the bus, which is the publisher too."""
    bus.include(listeners_for(bus, settings, board))
    return bus, Service(bus, name="webhooks")


def on_a_broker(
    dsn: str, bus: EventBus, settings: Settings, board: Board
) -> tuple[EventPublisher, Service]:
    """The same listeners, on what comes from a broker: a group for each, so that each gets all."""
    broker = connect(dsn)
    publisher = Split(BrokerEventPublisher(broker.publisher()), CARRIED, bus)
    listeners = listeners_for(publisher, settings, board)
    router = Router("webhooks")
    router.include(
        listeners.without("notify"),
        subscriber=lambda name: broker.subscriber(group=f"webhooks.{name}"),
        events=CARRIED,
    )
    # The chat and the open pages may miss something, as their overflow policies say: they stay
    # on the bus, and what they have dropped need not come again.
    bus.include(listeners.only("notify"))
    bridge = Bridge(
        broker.subscriber(group="webhooks.bus"), bus, events=CARRIED, ack="when_offered"
    )
    return publisher, Service(broker, bus, bridge, router, name="webhooks")


def receiver(
    dsn: str, bus: EventBus, settings: Settings, board: Board
) -> tuple[EventPublisher, Service]:
    """The part of it that takes deliveries in; `worker` is the other one.

    What people look at is here, in the process with the page, and may miss something.
    """
    broker = connect(dsn)
    publisher = Split(BrokerEventPublisher(broker.publisher()), CARRIED, bus)
    bus.include(listeners_for(publisher, settings, board).without(*WORK))
    bridge = Bridge(
        broker.subscriber(group="webhooks.bus"), bus, events=CARRIED, ack="when_offered"
    )
    return publisher, Service(broker, bus, bridge, name="webhooks")


class Split:
    """A publisher that takes some classes to the broker, and leaves the others on the bus."""

    def __init__(
        self, broker: EventPublisher, carried: tuple[type[Event], ...], bus: EventPublisher
    ) -> None:
        self._broker = broker
        self._carried = carried
        self._bus = bus

    async def publish(self, event: Event) -> None:
        """Publish an event where its class belongs."""
        await (self._broker if isinstance(event, self._carried) else self._bus).publish(event)
