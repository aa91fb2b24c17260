"""What a nack or a release has stored anew: to wait, or with another number of failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.brokers.rabbitmq._confirms import Call
from eventflow.brokers.rabbitmq._ladder import AGAIN, Note, again, due_ms, waiting
from eventflow.brokers.rabbitmq._wire import table_of
from eventflow.errors import MessageTooLargeError
from eventflow.messaging import SettlementState

if TYPE_CHECKING:
    from eventflow.messaging import Delivery

__all__ = ("is_postponed", "postponed")


def is_postponed(delivery: Delivery) -> bool:
    """Whether it has to be stored anew; else it goes straight back to its queue."""
    failures = delivery.nack_failures
    return bool(delivery.nack_delay) or failures not in (None, delivery.failures)


def postponed(delivery: Delivery, name: str, *, most: int) -> Call:
    """Its message, with what is known of it, on the way back to where it came from.

    Args:
        delivery: What was nacked or released.
        name: What the queue of its group is called, or an instance's name for what it tries again.
        most: Bytes that its headers may have, with ours.

    Raises:
        MessageTooLargeError: They have more.
    """
    failures, delay = delivery.nack_failures, delivery.nack_delay
    counted = (delivery.deliveries or 0) - (delivery.state is SettlementState.RELEASED)
    note = Note(
        AGAIN,
        name,
        due_ms(delay),
        delivery.failures if failures is None else failures,
        max(counted, 0),
    )
    # Classic queues, which don't count, may be shared with Watermill.
    texts_only = delivery.deliveries is None
    pairs = note.pairs() if delay else note.counts()
    table = table_of(delivery.original, pairs, texts_only=texts_only)
    if len(table) > most:
        raise MessageTooLargeError(
            f"the headers of message {delivery.original.id!r} have {len(table):,} bytes, with what "
            f"is noted of it; RabbitMQ takes {most:,}",
            topic=delivery.topic,
            message_id=delivery.original.id,
            size=len(table),
            limit=most,
        )
    route = waiting(delay) if delay else again(name)
    return Call(delivery.topic, [(delivery.original, route, table)])
