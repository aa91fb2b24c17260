"""Hands on what has waited, when it is due: whoever of all processes gets it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow._log import EventLogger
from eventflow.brokers.rabbitmq._confirms import REFUSED, UNROUTED, Call
from eventflow.brokers.rabbitmq._deliveries import RabbitMQDeliveries
from eventflow.brokers.rabbitmq._ladder import AGAIN, DUE, DUE_QUEUE, read_note, waiting
from eventflow.brokers.rabbitmq._wire import table_of
from eventflow.brokers.rabbitmq.topology import Exchange, Queue, Route
from eventflow.errors import BrokerClosedError, BrokerError, PublishError
from eventflow.lifecycle.supervisor import cancel_and_wait

if TYPE_CHECKING:
    from eventflow.brokers.rabbitmq._ladder import Note
    from eventflow.brokers.rabbitmq.broker import RabbitMQBroker
    from eventflow.messaging import Delivery

__all__ = ("Forwarder",)

MOST = 200
"""Messages that are on their way at once."""
LOOK_S = 10.0
"""Seconds until another attempt, where nothing can be received."""
AGAIN_S = 60.0
"""Seconds that waits what could not be handed on."""
REFUSED_S = 2.0
"""Seconds until the one other attempt where a queue refuses: its leader may just have died."""
END_S = 2.0
EARLY_S = 0.005
"""Seconds that a message may come too early by, as clocks differ."""
UNREADABLE = "eventflow.undeliverable"

log = EventLogger("eventflow.rabbitmq")


class Forwarder:
    """Forwards while its broker is open. What it can't hand on waits again, and is reported."""

    def __init__(self, broker: RabbitMQBroker) -> None:
        self._broker = broker
        self._deliveries: RabbitMQDeliveries | None = None
        self._task = broker.link.spawn(self._run(), "forwarder")

    async def _run(self) -> None:
        while True:
            try:
                deliveries = self._deliveries = RabbitMQDeliveries(
                    self._broker, DUE_QUEUE, lambda: DUE, max_in_flight=MOST
                )
            except BrokerClosedError:
                return
            try:
                while received := await deliveries.receive(MOST):
                    for delivery in received:
                        self._broker.link.spawn(self._hand_on(delivery), "hand-on")
                return
            except BrokerClosedError:
                return
            except BrokerError as exc:
                log.warning("eventflow.delays_stand_still", reason=str(exc), retried_in_s=LOOK_S)
            await deliveries.close()
            await asyncio.sleep(LOOK_S)

    async def _hand_on(self, delivery: Delivery) -> None:
        note = read_note(delivery.headers)
        try:
            try:
                await self._send(delivery, note)
            except PublishError as exc:
                if REFUSED not in str(exc):
                    raise
                await asyncio.sleep(REFUSED_S)
                await self._send(delivery, note)
        except (PublishError, BrokerError) as exc:
            await self._again(delivery, note, exc)
        else:
            delivery.ack()

    async def _send(self, delivery: Delivery, note: Note) -> None:
        message = delivery.original
        if not note.exchange and not note.routing_key:
            log.error(
                "eventflow.delay_unreadable", topic=DUE_QUEUE, event_id=message.id, at=UNREADABLE
            )
            queue = Queue(UNREADABLE, arguments={"x-queue-type": "quorum"})
            route, pairs = Route("", UNREADABLE, must_arrive=True, parts=(queue,)), note.counts()
        elif (left := note.left()) > EARLY_S:  # longer than the longest step
            route, pairs = waiting(left), note.pairs()
        else:
            route = _way(note)
            pairs = note.counts()
        table = table_of(message, pairs)
        where = note.routing_key or note.exchange
        await self._broker.sender.send(Call(where, [(message, route, table)]))

    async def _again(self, delivery: Delivery, note: Note, error: Exception) -> None:
        """Let one wait once more that could not be handed on."""
        if note.exchange == AGAIN and UNROUTED in str(error):
            delivery.ack()  # the queue was deleted, with all that was in it
            return
        message = delivery.original
        log.error(
            "eventflow.delayed_not_forwarded",
            error=error,
            topic=note.routing_key or note.exchange,
            count=1,
            event_ids=[message.id],
        )
        call = Call(DUE_QUEUE, [(message, waiting(AGAIN_S), table_of(message, note.pairs()))])
        try:
            await self._broker.sender.send(call)
        except (PublishError, BrokerError):
            delivery.nack()
        else:
            delivery.ack()

    async def close(self) -> None:
        """Stop; what is on its way comes again. Bounded."""
        await cancel_and_wait([self._task], grace=END_S)
        if self._deliveries is not None:
            await self._deliveries.close()


def _way(note: Note) -> Route:
    """Where a message goes. Its exchange is looked for before, where that can have gone.

    A publish to one that is not there ends the channel, and with it what else is under way on it.
    """
    if note.exchange in ("", AGAIN):
        return Route(note.exchange, note.routing_key, must_arrive=True)
    there = Exchange(note.exchange, must_exist=True)
    return Route(note.exchange, note.routing_key, parts=(there,))
