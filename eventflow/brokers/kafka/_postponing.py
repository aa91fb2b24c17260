"""Messages that a group puts off: stored where they wait, and only then done where they were."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from eventflow._log import EventLogger
from eventflow.brokers.kafka._partition import note_of
from eventflow.errors import PublishError
from eventflow.messaging import SettlementState

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.brokers.kafka._delivery import KafkaDelivery
    from eventflow.brokers.kafka._producer import Call
    from eventflow.brokers.kafka._progress import Note
    from eventflow.brokers.kafka.publisher import KafkaPublisher

__all__ = ("Postponing", "counts_of")

AGAIN_S = 0.1
"""Seconds until the client is asked again that has no room."""
GIVE_UP_S = 30.0

log = EventLogger("eventflow.kafka")


class Postponing:
    """Stores what is put off; what can't be stored waits in the process instead.

    Args:
        publisher: Stores.
        ladder: The topic where messages wait.
        ended: Is called with each delivery, and whether it is stored.

    Attributes:
        under_way: Deliveries that have not ended: what is on its way, or a timer.
    """

    def __init__(
        self,
        publisher: KafkaPublisher,
        ladder: str,
        ended: Callable[[KafkaDelivery, bool], None],
    ) -> None:
        self.under_way: dict[KafkaDelivery, Call | asyncio.TimerHandle] = {}
        self._publisher = publisher
        self._ladder = ladder
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._is_closing = False

    def begin(self, delivery: KafkaDelivery) -> None:
        """Put off a delivery for as long as its nack, or its release, says."""
        self._try(delivery, time.time() + delivery.nack_delay, self._loop.time() + GIVE_UP_S)

    def _try(self, delivery: KafkaDelivery, due: float, until: float) -> None:
        try:
            call = self._publisher.begin_again(delivery, self._ladder, counts_of(delivery), due)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the message has to stay
            self._failed(delivery, due, exc)
            return
        if call is not None:
            self.under_way[delivery] = call
            call.ended.add_done_callback(partial(self._sent, delivery, due, call))
        elif self._is_closing or self._loop.time() >= until:
            self._failed(delivery, due, PublishError("the client has no room, or has given up"))
        else:
            again = self._loop.call_later(AGAIN_S, self._try, delivery, due, until)
            self.under_way[delivery] = again

    def _sent(self, delivery: KafkaDelivery, due: float, call: Call, _: object) -> None:
        failure = self._publisher.failure_of(call)
        if failure is None:
            self._end(delivery, True)
        else:
            self._failed(delivery, due, failure)

    def _failed(self, delivery: KafkaDelivery, due: float, failure: Exception) -> None:
        goes = self._is_closing or delivery.partition.is_ending or delivery.partition.is_lost
        left = 0.0 if goes else max(due - time.time(), 0.0)
        log.warning(
            "eventflow.message_not_postponed",
            topic=delivery.topic,
            event_id=delivery.message.id,
            to=self._ladder,
            reason=str(failure),
            waits_s=round(left, 3),
        )
        # Not at once, though nothing is left: whoever has settled it is not done with that.
        self.under_way[delivery] = self._loop.call_later(left, self._end, delivery, False)

    def _end(self, delivery: KafkaDelivery, is_stored: bool) -> None:
        del self.under_way[delivery]
        self._ended(delivery, is_stored)

    def close(self) -> None:
        """Wait no more in the process."""
        self._is_closing = True
        self.hurry(lambda _: True)

    def hurry(self, is_meant: Callable[[KafkaDelivery], bool]) -> None:
        """Wait no more in the process for some: they come again at once, to whoever is there."""
        for delivery, handle in [*self.under_way.items()]:
            if isinstance(handle, asyncio.TimerHandle) and is_meant(delivery):
                handle.cancel()
                self._end(delivery, False)


def counts_of(delivery: KafkaDelivery) -> Note:
    """What is known of a delivery that was nacked or released."""
    return note_of(
        delivery, failures=delivery.nack_failures, counts=delivery.state is SettlementState.NACKED
    )
