"""The one method a service needs to announce a fact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from eventflow.events.event import Event

__all__ = ("EventPublisher",)


@runtime_checkable
class EventPublisher(Protocol):
    """What a service depends on to publish: the bus is one, a publisher to a broker another.

    Which one it gets is decided where the service is put together, so the same service runs
    in one process or across several.

    Example:
        >>> class Checkout:
        ...     def __init__(self, publisher: EventPublisher) -> None:
        ...         self._publisher = publisher
    """

    async def publish(self, event: Event) -> None:
        """Announce one event, and learn nothing about who listens.

        * It returns ``None``: no handler's result, no handler's error, no way to tell
          whether anyone listens, and it does not wait for a handler.
        * It may wait, for room in a buffer or for a broker's confirmation. When it has
          returned, the event will end as handled, failed, dropped by a policy chosen by
          name, or cut by a stop; each is counted, none is silent.
        * It is not a transaction: when it raises, or is cancelled, some subscribers may
          have the event and others not. The implementation says how to tell.
        * The same event may be published more than once; each time is a publication of
          its own, with the same `Event.id`.
        * Events published one after another by one task are offered in that order.

        Args:
            event: An event whose class has a topic.

        Raises:
            EventFlowError: The event was not taken. ``retriable`` on the error says
                whether the same call can succeed later.
        """
        ...
