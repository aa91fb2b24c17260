"""`Duplicator`: each message twice, to see whether the handler minds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from eventflow.events import Event
from eventflow.messaging.message import Message

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


def both(first: object, second: object) -> object:
    """The outputs of two runs as those of one."""
    if first is None or second is None:
        return second if first is None else first
    return [*_outputs(first), *_outputs(second)]


def _outputs(given: Any) -> Iterable[Any]:
    # What can't be published stays as it is: the router says so.
    is_one = isinstance(given, (Message, Event, str, bytes, dict)) or not isinstance(
        given, Iterable
    )
    return cast("Iterable[Any]", (given,) if is_one else given)
