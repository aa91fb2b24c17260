"""Hands on what has waited, when it is due: whoever of all processes gets it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow._log import EventLogger
from eventflow.brokers.rabbitmq._confirms import Call
from eventflow.brokers.rabbitmq._deliveries import RabbitMQDeliveries
from eventflow.brokers.rabbitmq._ladder import (
    AGAIN,
    BROADCAST,
    DUE,
    DUE_QUEUE,
    again,
    again_to,
    read_note,
    waiting,
)
from eventflow.brokers.rabbitmq._wire import table_of
from eventflow.brokers.rabbitmq.topology import NO_LIMIT, Exchange, Queue, Route
from eventflow.errors import (
    BrokerClosedError,
    BrokerError,
    InvalidTopicError,
    PublishError,
    TopologyError,
)
from eventflow.lifecycle.supervisor import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Sequence

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
ASIDE = "eventflow.undeliverable"
"""The queue of what can't be handed on."""

log = EventLogger("eventflow.rabbitmq")


class Forwarder:
    """Forwards while its broker is open. What it can't hand on waits again, and is reported."""

    def __init__(self, broker: RabbitMQBroker) -> None:
        self._broker = broker
        self._deliveries: RabbitMQDeliveries | None = None
        self._handing_on: set[asyncio.Task[None]] = set()
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
                        task = self._broker.link.spawn(self._hand_on(delivery), "hand-on")
                        self._handing_on.add(task)
                        task.add_done_callback(self._handing_on.discard)
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
            except InvalidTopicError:
                await self._put_aside(delivery, note, "no queue or exchange has such a name")
        except Exception as exc:  # noqa: BLE001 - whatever it is, others must not wait for it
            await self._again(delivery, note, exc)
        else:
            delivery.ack()

    async def _send(self, delivery: Delivery, note: Note) -> None:
        """Hand one on; once more where something may be as it was a moment later."""
        sender = self._broker.sender
        call = self._call(delivery, note)
        try:
            await sender.send(call)
            return
        except PublishError:
            if note.exchange == AGAIN and call.has_no_queue:
                if not await self._is_bound(note.routing_key):
                    await self._give_up(delivery, note)
                    return
            elif call.is_nacked:
                await asyncio.sleep(REFUSED_S)
            else:
                raise
        call = self._call(delivery, note)
        try:
            await sender.send(call)
        except PublishError:
            if note.exchange == AGAIN or not call.partly:
                raise
            # Other queues may have it, and would get it again and again.
            await self._put_aside(delivery, note, "one of the queues of its exchange refuses it")

    def _call(self, delivery: Delivery, note: Note) -> Call:
        """One on its way to where it belongs, or to wait again, or aside."""
        if not note.exchange and not note.routing_key:
            return _aside(delivery, note, "it does not say where it belongs")
        if (left := note.left()) > EARLY_S:  # longer than the longest step
            route, pairs = waiting(left), note.pairs()
        else:
            route, pairs = _way(note), note.counts()
        return _stored_anew(note.routing_key or note.exchange, delivery, route, pairs)

    async def _is_bound(self, name: str) -> bool:
        """Whether a queue of that name is there; its binding may have been deleted, and is made."""
        if name.startswith(BROADCAST):
            return False
        try:
            await self._broker.declare(again_to(name, name))
        except TopologyError:
            return False
        return True

    async def _give_up(self, delivery: Delivery, note: Note) -> None:
        """What is to be tried again by nobody: its queue was deleted, or its instance is gone."""
        if note.routing_key.startswith(BROADCAST):
            log.warning("eventflow.retry_dropped", event_id=delivery.original.id)
        else:
            await self._put_aside(delivery, note, f"there is no queue {note.routing_key!r}")

    async def _put_aside(self, delivery: Delivery, note: Note, why: str) -> None:
        await self._broker.sender.send(_aside(delivery, note, why))

    async def _again(self, delivery: Delivery, note: Note, error: Exception) -> None:
        """Let one wait once more that could not be handed on."""
        log.error(
            "eventflow.delayed_not_forwarded",
            error=error,
            topic=note.routing_key or note.exchange,
            count=1,
            event_ids=[delivery.original.id],
        )
        try:
            call = _stored_anew(DUE_QUEUE, delivery, waiting(AGAIN_S), note.pairs())
            await self._broker.sender.send(call)
        except Exception:  # noqa: BLE001 - it is still where it was, and what is wrong was said
            await asyncio.sleep(LOOK_S)
            delivery.nack()
        else:
            delivery.ack()

    async def close(self) -> None:
        """Stop, once what is on its way has arrived; what has not comes again. Bounded."""
        await cancel_and_wait([self._task], grace=END_S)
        if self._handing_on:
            await asyncio.wait(self._handing_on, timeout=END_S)
        if self._deliveries is not None:
            await self._deliveries.close()


def _stored_anew(
    topic: str, delivery: Delivery, route: Route, pairs: Sequence[tuple[str, bytes]]
) -> Call:
    """One with other headers, on its way."""
    message = delivery.original
    return Call(topic, [(message, route, table_of(message, pairs))])


def _aside(delivery: Delivery, note: Note, why: str) -> Call:
    """One that can't be handed on, to be kept for somebody to look at."""
    log.error(
        "eventflow.message_put_aside",
        topic=note.routing_key or note.exchange or DUE_QUEUE,
        event_id=delivery.original.id,
        at=ASIDE,
        reason=why,
    )
    queue = Queue(ASIDE, arguments={"x-queue-type": "quorum", "x-delivery-limit": NO_LIMIT})
    route = Route("", ASIDE, must_arrive=True, parts=(queue,))
    return _stored_anew(ASIDE, delivery, route, note.pairs())


def _way(note: Note) -> Route:
    """Where a message goes. Its exchange is looked for before, where that can have gone.

    A publish to one that is not there ends the channel, and with it what else is under way on it.
    """
    if note.exchange == AGAIN:
        return again(note.routing_key)
    if not note.exchange:
        return Route("", note.routing_key, must_arrive=True)
    there = Exchange(note.exchange, must_exist=True)
    return Route(note.exchange, note.routing_key, parts=(there,))
