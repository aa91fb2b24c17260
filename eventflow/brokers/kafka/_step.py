"""A partition whose messages have waited: their counts, and whose they are, came with them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from eventflow.brokers.kafka._ladder import DELAYS, Stamp, read_stamp
from eventflow.brokers.kafka._partition import Partition
from eventflow.brokers.kafka._progress import NEVER
from eventflow.brokers.kafka._record import Headless

if TYPE_CHECKING:
    from eventflow.brokers.kafka._deliveries import KafkaDeliveries
    from eventflow.brokers.kafka._delivery import KafkaDelivery
    from eventflow.brokers.kafka._progress import Note
    from eventflow.brokers.kafka._record import Record
    from eventflow.brokers.kafka._wire import RawHeaders

__all__ = ("Step",)

UNREAD = Stamp(0, 0, NEVER, DELAYS)
"""Of what somebody else has written."""


class Step(Partition):
    """One partition of a ladder. A message of it is as it was before, in the topic it belongs to.

    Args:
        origin: The topic that all of it belongs to; ``None`` where each message says its own.
    """

    __slots__ = ("_origin", "_stamps")

    is_ladder = True

    def __init__(self, *args: Any, origin: str | None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._origin = origin
        self._stamps: dict[int, Stamp] = {}  # of what is handed out, by offset

    def left(self, delivery: KafkaDelivery) -> float:
        """Seconds until a delivery is due, where no step was as long; else 0."""
        stamp = self._stamps.get(delivery.offset, UNREAD)
        return max(stamp.due / 1_000 - time.time(), 0.0)

    def _delivery(self, record: Any, offset: int, member: KafkaDeliveries) -> KafkaDelivery:
        stamp = self._stamps[offset] = read_stamp(record.headers()) or UNREAD
        found = super()._delivery(record, offset, member)
        if isinstance(record, Headless):
            found.lose_headers()
        # Not by its stamp: whoever may write here must not say where its dead letter goes.
        found.topic = self._origin or stamp.topic
        return found

    def headers_of(self, record: Record) -> RawHeaders | None:
        raw = record.headers()
        return raw[:-1] if raw and read_stamp(raw) is not None else raw

    def _known(self, offset: int) -> Note:
        if (note := self._notes.get(offset)) is not None:
            return note
        stamp = self._stamps.get(offset)
        if stamp is None:
            of_it = (record for record in self.ready if record.offset() == offset)
            stamp = next((read_stamp(record.headers()) for record in of_it), None)
        return NEVER if stamp is None else stamp.note

    def ack(self, delivery: KafkaDelivery) -> bool:
        self._stamps.pop(delivery.offset, None)  # none, where what comes of it was not taken
        return super().ack(delivery)
