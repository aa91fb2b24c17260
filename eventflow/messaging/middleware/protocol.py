"""What a middleware is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from eventflow.failure import FailurePolicy
    from eventflow.messaging.delivery import Delivery

__all__ = ("CallNext", "HandlerControls", "Middleware", "MiddlewareFactory")

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
    """

    def __call__(self, delivery: Delivery, call_next: CallNext) -> Awaitable[Any]:
        """Handle one delivery."""
        ...


class MiddlewareFactory(Protocol):
    """In the place of a middleware: makes one for each handler it is put around.

    For what keeps a state for each handler, or has to know or to pause it. Where the middleware
    that it returns has a method ``close``, that is called when the handler stops; it neither
    waits nor raises.
    """

    def for_handler(self, handler: HandlerControls) -> Middleware:
        """Return the middleware for one handler; called once, before that starts.

        Raises:
            ConfigurationError: It can't be put around this handler, which then doesn't start.
        """
        ...


class HandlerControls(Protocol):
    """A handler that runs, as its middlewares see it."""

    @property
    def bus(self) -> str:
        """Name of its router."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds an attempt may take; ``None`` for no limit."""
        ...

    @property
    def on_failure(self) -> FailurePolicy:
        """What happens when an attempt fails."""
        ...

    @property
    def has_timed_out(self) -> bool:
        """Whether the attempt that asks was cancelled by its timeout, be that swallowed or not.

        It has failed then, whatever the handler still returned.
        """
        ...

    def untimed(self) -> AbstractContextManager[None]:
        """Let time inside the block not count towards the timeout of the attempt that runs it."""
        ...

    async def publish_outputs(self, given: object, delivery: Delivery) -> None:
        """Publish what the handler returned, now, for who has to know that it is stored.

        Return ``None`` in the place of ``given`` then. Does nothing for a handler without
        outputs.

        Raises:
            PublishError: It could not be stored.
            RouterError: It can't be published.
        """
        ...

    def pause(self, by: object, reason: str) -> None:
        """Start nothing more, and receive nothing more, until ``by`` resumes it.

        Attempts that run go on. Its health is ``paused`` then, with the reason.
        """
        ...

    def resume(self, by: object) -> None:
        """Go on, unless somebody else has paused it too."""
        ...

    def probe(self, by: object, count: int = 1) -> None:
        """Start this many more attempts although ``by`` has paused it; others' pauses hold."""
        ...
