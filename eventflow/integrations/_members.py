"""What every web framework's lifespan does: enter members, and hand one of them out."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from eventflow.errors import InvalidOptionError, PublisherNotFoundError
from eventflow.events import EventPublisher

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from contextlib import AbstractAsyncContextManager

__all__ = ("KEY", "entered", "found", "handed_out")

KEY = "eventflow_publisher"


@asynccontextmanager
async def entered(members: tuple[AbstractAsyncContextManager[Any], ...]) -> AsyncGenerator[None]:
    """Enter members in order, and leave them in reverse."""
    async with AsyncExitStack() as stack:
        for member in members:
            await stack.enter_async_context(member)
        yield


def handed_out(
    members: tuple[AbstractAsyncContextManager[Any], ...], publisher: EventPublisher | None
) -> EventPublisher:
    """The publisher that was named, or the only one among the members.

    Raises:
        InvalidOptionError: A member can't be entered, or it is not clear which one publishes.
    """
    for member in members:
        if not (hasattr(member, "__aenter__") and hasattr(member, "__aexit__")):
            raise InvalidOptionError(
                f"lifespan() takes async context managers, such as a bus, not {member!r}",
                option="members",
            )
    if publisher is not None:
        if not isinstance(publisher, EventPublisher):
            raise InvalidOptionError(
                f"publisher= takes an object with `publish(event)`, not {publisher!r}",
                option="publisher",
            )
        return publisher
    candidates = [member for member in members if isinstance(member, EventPublisher)]
    if len(candidates) != 1:
        raise InvalidOptionError(
            f"{len(candidates)} of {len(members)} members publish events; say which one the routes "
            "get: lifespan(…, publisher=bus)",
            option="publisher",
        )
    return candidates[0]


def found(state: Mapping[str, Any], how: str) -> EventPublisher:
    """The publisher that a lifespan left in the framework's state.

    Raises:
        PublisherNotFoundError: None did; the error says what to do.
    """
    publisher: EventPublisher | None = state.get(KEY)
    if publisher is None:
        raise PublisherNotFoundError(
            f"this app has no publisher: its lifespan has not run. Make it with {how}; in a test, "
            "use a client that runs the lifespan, or put a publisher in the dependency's place"
        )
    return publisher
