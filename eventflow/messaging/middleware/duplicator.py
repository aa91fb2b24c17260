"""`Duplicator`: each message twice, to see whether the handler minds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow.messaging.middleware._both import both

if TYPE_CHECKING:
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.middleware.protocol import CallNext

__all__ = ("Duplicator",)


class Duplicator:
    """Runs the handler twice for each message, one after the other. For tests.

    Every broker delivers some messages twice, after a crash for example, so a handler has to be
    able to take it: with this, each test of it shows whether it is. A transform's outputs of
    both runs are published. If the first run fails, there is no second.

    Example::

        router = Router(middlewares=[Duplicator()])
    """

    async def __call__(self, delivery: Delivery, call_next: CallNext) -> Any:
        """Handle one delivery twice."""
        first = await call_next(delivery)
        return both(first, await call_next(delivery))
