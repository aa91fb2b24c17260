"""Where the service is put together: the one place that knows bus, listeners and routes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from eventflow import EventBus
from examples.github_webhooks import pages, webhooks
from examples.github_webhooks.listeners import Board, listeners_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from examples.github_webhooks.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Return the service. Nothing runs before the server enters its lifespan."""
    bus = EventBus(name="webhooks")
    board = Board()
    bus.include(listeners_for(bus, settings, board))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        # Entering opens the database; leaving handles what was accepted, and then closes it.
        async with bus:
            yield

    # FastAPI's own documentation pages load their scripts from elsewhere; this one needs none.
    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.state.settings, app.state.board = settings, board
    # The same object twice, because there are two roles: routes that announce get a publisher,
    # and only those that look at the bus itself get the bus.
    app.state.publisher = app.state.bus = bus
    app.include_router(webhooks.router)
    app.include_router(pages.router)
    return app
