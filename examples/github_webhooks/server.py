"""The server: finds a port, stops gracefully, and lets go of open pages first."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import uvicorn

from examples.github_webhooks.events import ServiceStopping

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI


def listen(port: int, address: str) -> socket.socket:
    """Take a port, or the next one that is free. 0 leaves the choice to the system."""
    for candidate in range(port, min(port + 100, 65536)):
        taken = socket.socket()
        # So that a port whose last connections are still winding down counts as free.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((address, candidate))
        except OSError as exc:
            taken.close()
            if exc.errno != errno.EADDRINUSE:
                raise
        else:
            return taken
    raise OSError(errno.EADDRINUSE, f"no free port from {port} on")


class Server(uvicorn.Server):
    """Uvicorn, with a word before it starts to take requests and one before it stops.

    Args:
        app: What it serves.
        announce: Called once requests are taken.
    """

    def __init__(self, app: FastAPI, announce: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="on",
                ws="none",
                server_header=False,
                log_config=None,
                # A sender that never finishes its request can't hold up the stop.
                timeout_graceful_shutdown=5,
            )
        )
        self._publisher = app.state.publisher
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start: the bus first, in the app's lifespan, then the socket."""
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: no new connections, requests end, and then the lifespan drains the bus."""
        await self._publisher.publish(ServiceStopping())
        await super().shutdown(sockets)
