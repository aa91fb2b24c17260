"""What a middleware is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from eventflow.messaging.delivery import Delivery

__all__ = ("CallNext", "Middleware")

CallNext = Callable[["Delivery"], Awaitable[Any]]
"""Calls what is further in: the next middleware, or the handler. Gives its outputs."""


class Middleware(Protocol):
    """Runs around each attempt, outermost first: ``async def middleware(delivery, call_next)``.

    * It sees the delivery, whose `Delivery.event` is decoded where the handler takes events.
    * It calls ``await call_next(delivery)`` once, or more often, or not at all, and returns what
      that returned: the outputs of a transform, else ``None``.
    * An error that it raises, or lets out, is the attempt's. One that it swallows makes the
      attempt a success, and the message is acked.
    * The attempt's timeout counts for it too. Retry, timeout, dead letter and recovery are the
      failure policy's, around all middlewares.

    One that needs something of its own for each handler has a method ``for_handler(handler)``,
    called once when the handler starts, and returns the middleware for that one.
    """

    def __call__(self, delivery: Delivery, call_next: CallNext) -> Awaitable[Any]:
        """Handle one delivery."""
        ...
