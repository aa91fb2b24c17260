"""`KafkaDeliveries`: one subscription's part of a feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.brokers.kafka._partition import KafkaDelivery
from eventflow.messaging import Deliveries, Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.brokers.kafka._feed import Feed

__all__ = ("KafkaDeliveries",)


class KafkaDeliveries(Deliveries):
    """Receives for one subscription.

    Attributes:
        features: What the backend can do.
        in_flight: Deliveries that are not settled.
    """

    def __init__(self, feed: Feed, *, max_in_flight: int) -> None:
        self.features = feed.features
        self.in_flight = 0
        self._feed = feed
        self._bound = max_in_flight
        self._is_paused = False
        self._is_closed = False
        feed.members.append(self)

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        feed = self._feed
        while not self._is_closed:
            if feed.error is not None:
                raise feed.error
            room = min(limit, self._bound - self.in_flight)
            if room > 0 and not self._is_paused:
                taken = feed.take(self, room)
                if taken:
                    self.in_flight += len(taken)
                    return taken
            if feed.is_ended:
                break
            await feed.readers.wait()
        return ()

    def settle(self, delivery: Delivery) -> None:
        """Take a decision; see `eventflow.messaging.Settler`."""
        assert type(delivery) is KafkaDelivery
        in_flight = self.in_flight = self.in_flight - 1
        self._feed.settled(delivery)
        if in_flight == self._bound - 1:
            self._feed.readers.wake_all()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._feed.readers.wake_all()

    @property
    def problem(self) -> str:
        return self._feed.problem

    @property
    def lag(self) -> int | None:
        """Of the partitions that this process has, in the subscriptions of one group together."""
        return self._feed.lag

    def close(self) -> None:
        """Give back what is unsettled, and end whoever waits in `receive`."""
        if not self._is_closed:
            self._is_closed = True
            self.in_flight = 0
            self._feed.leave(self)
