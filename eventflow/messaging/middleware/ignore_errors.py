"""`IgnoreErrors`: some errors are as good as success."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow._log import EventLogger, shown
from eventflow.messaging.middleware._checks import matcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.middleware._checks import Matches
    from eventflow.messaging.middleware.protocol import CallNext, HandlerControls, Middleware

__all__ = ("IgnoreErrors",)

log = EventLogger("eventflow.router")


class IgnoreErrors:
    """Takes errors of some classes for success: the message is acked, and has no outputs.

    Each is logged as ``eventflow.error_ignored`` with the message's id, and counted. Retries
    and dead letters are not for them. An exception group is ignored if all that is in it would
    be. A timeout can't be ignored: it is no error that the handler raised.

    Args:
        on: The class, or a tuple of classes.
        when: A function of an error of these classes that says whether it is ignored, for what
            classes can't tell. Default: each of them is. What it raises is the attempt's error.

    Attributes:
        ignored: How many it has ignored so far, on all handlers.

    Raises:
        InvalidOptionError: Something else than classes of `Exception`, or no function.

    Example::

        gone = IgnoreErrors(on=HttpError, when=lambda error: error.status == 410)
        router.add_handler("hooks", HookDue, send, subscriber=hooks, middlewares=[gone])
    """

    def __init__(self, *, on: Matches, when: Callable[[Any], bool] | None = None) -> None:
        self.ignored = 0
        self._matches = matcher(on, when)

    def for_handler(self, handler: HandlerControls) -> Middleware:
        """Return the middleware of one handler."""

        async def middleware(delivery: Delivery, call_next: CallNext) -> Any:
            try:
                return await call_next(delivery)
            except Exception as exc:
                if not self._matches(exc):
                    raise
                self.ignored += 1
                log.warning(
                    "eventflow.error_ignored",
                    router=handler.bus,
                    subscription=handler.name,
                    topic=delivery.topic,
                    event_id=delivery.message.id,
                    reason=shown(exc),
                )
                return None

        return middleware
