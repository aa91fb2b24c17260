"""`RabbitMQDelivery`: a message on its way to a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.brokers.rabbitmq._frames import read_source
from eventflow.brokers.rabbitmq._ladder import AGAIN, read_note
from eventflow.brokers.rabbitmq._wire import message_of
from eventflow.errors import InvalidMessageError
from eventflow.messaging import Delivery, SettlementState
from eventflow.messaging._unreadable import Unreadable

if TYPE_CHECKING:
    from eventflow.brokers.rabbitmq._channel import Arrived
    from eventflow.brokers.rabbitmq._consuming import ConsumingChannel
    from eventflow.brokers.rabbitmq._deliveries import RabbitMQDeliveries

__all__ = ("RabbitMQDelivery",)

COUNT = "x-delivery-count"
"""Header in which quorum queues say how often a message was delivered before."""


_PENDING = SettlementState.PENDING


class RabbitMQDelivery(Delivery):
    """A message on its way to a handler.

    Attributes:
        tag: Its number on the channel.
        channel: The channel that it came on, where alone it can be settled.
    """

    __slots__ = ("_arrived", "_queue", "channel", "tag")

    def __init__(
        self,
        arrived: Arrived,
        channel: ConsumingChannel,
        member: RabbitMQDeliveries,
        topic: str,
        queue: str,
        counts: bool,
    ) -> None:
        # What the base does, whose arguments by keyword would take as long as all of this.
        properties = arrived.properties
        headers = properties.headers
        self.message = self.original = message_of(properties, arrived.body)
        self.topic = topic
        self.headers = tuple(headers)
        # A header of that name in a first delivery is somebody else's.
        counted = _count(headers) if counts and arrived.is_again else 0
        self.deliveries = counted + 1 if counts else None
        self.failures = 0
        self.lane = self.event = self.error = self._watcher = None
        self.state = _PENDING
        self.is_confirmed = False
        self._settler = member
        self._arrived = arrived
        self._queue = queue
        self.tag = arrived.tag
        self.channel = channel
        if read_source(arrived.source)[0] == AGAIN:
            note = read_note(headers)
            self.failures = note.failures
            if self.deliveries is not None:
                self.deliveries += note.deliveries
        if not properties.is_whole:
            self.message = Unreadable.instead_of(
                self.original, InvalidMessageError("one of its headers can't be read")
            )

    if not TYPE_CHECKING:

        @property
        def coordinates(self) -> dict[str, str | int]:
            """Queue, exchange, routing key, and whether it was delivered before."""
            exchange, routing_key = read_source(self._arrived.source)
            return {
                "queue": self._queue,
                "exchange": exchange,
                "routing_key": routing_key,
                "redelivered": int(self._arrived.is_again),
            }


def _count(headers: list[tuple[str, bytes]]) -> int:
    """What a quorum queue has counted; 0 where it says nothing yet."""
    for name, value in reversed(headers):
        if name == COUNT and value[:1] in b"bBsuUIilL" and len(value) > 1:
            return max(int.from_bytes(value[1:], signed=value[:1] not in b"Bui"), 0)
    return 0
