"""`InstantAck`: at most once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow._log import EventLogger, shown
from eventflow.errors import InvalidOptionError, SettleError

if TYPE_CHECKING:
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.middleware.protocol import CallNext, HandlerControls, Middleware

__all__ = ("InstantAck",)

log = EventLogger("eventflow.router")


class InstantAck:
    """Acks before the handler runs: **at most once**. A crash or a stop loses the message.

    For what is worthless when it comes late, and harmful when it comes twice. The handler is
    not to have retries: its policy's ``then`` decides what becomes of a failure, and has a copy
    to dead-letter. What a stop cuts is logged as ``eventflow.message_lost``.

    Args:
        confirmed: Wait for the broker to have the ack, so that not even a crash right after it
            brings the message again; where it did not get it, the message is left for its next
            delivery. ``False``: don't wait; the up to 50 ms until the broker is told are then
            open.

    Raises:
        InvalidOptionError: When the handler starts: its policy has a retry.

    Example::

        router.add_handler(
            "screen", PriceChanged, show, subscriber=prices,
            on_failure=FailurePolicy.log(), middlewares=[InstantAck()],
        )
    """

    def __init__(self, *, confirmed: bool = True) -> None:
        self._is_confirmed = confirmed

    def for_handler(self, handler: HandlerControls) -> Middleware:
        """Return the middleware of one handler.

        Raises:
            InvalidOptionError: The handler has retries.
        """
        if handler.on_failure.retry is not None:
            raise InvalidOptionError(
                f"handler {handler.name!r} has InstantAck, at most once, and retries: say what "
                "becomes of a failure without them, such as on_failure=FailurePolicy.log() or "
                "on_failure=FailurePolicy(then=DeadLetter())",
                option="on_failure",
            )
        return _InstantlyAcked(handler, is_confirmed=self._is_confirmed)


class _InstantlyAcked:
    def __init__(self, handler: HandlerControls, *, is_confirmed: bool) -> None:
        self._handler = handler
        self._is_confirmed = is_confirmed

    async def __call__(self, delivery: Delivery, call_next: CallNext) -> Any:
        if not delivery.ack():
            return None  # given back meanwhile: it comes again
        if self._is_confirmed:
            try:
                await delivery.settled()
            except SettleError as exc:
                log.warning("eventflow.ack_failed", **self._facts(delivery), reason=shown(exc))
                return None
        try:
            return await call_next(delivery)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling() and not self._handler.has_timed_out:
                log.warning("eventflow.message_lost", **self._facts(delivery))
            raise

    def _facts(self, delivery: Delivery) -> dict[str, str]:
        return {
            "router": self._handler.bus,
            "subscription": self._handler.name,
            "topic": delivery.topic,
            "event_id": delivery.message.id,
        }
