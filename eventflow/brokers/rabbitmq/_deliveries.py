"""`RabbitMQDeliveries`: one subscription, over all its channels."""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections import deque
from typing import TYPE_CHECKING, Any

from pamqp import commands

from eventflow._log import EventLogger
from eventflow.brokers.rabbitmq._consuming import CONSUMER, ConsumingChannel
from eventflow.brokers.rabbitmq._delivery import RabbitMQDelivery
from eventflow.brokers.rabbitmq._errors import reason_of
from eventflow.brokers.rabbitmq._frames import BESIDE
from eventflow.brokers.rabbitmq._postponing import is_postponed, postponed
from eventflow.errors import (
    BrokerClosedError,
    BrokerConnectionError,
    BrokerError,
    TopologyError,
)
from eventflow.lifecycle.supervisor import cancel_and_wait
from eventflow.lifecycle.waiters import Waiters
from eventflow.messaging import Deliveries, SettlementState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.brokers.rabbitmq._channel import Arrived
    from eventflow.brokers.rabbitmq._session import Session
    from eventflow.brokers.rabbitmq.broker import RabbitMQBroker
    from eventflow.brokers.rabbitmq.topology import Source
    from eventflow.messaging import Delivery, Features

__all__ = ("RabbitMQDeliveries",)

MOST_PREFETCHED = 65_535
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 1.0
WELL_S = 5.0
"""Seconds after which a channel that ends was a good one."""

END_S = 2.0
LOOK_S = 15.0
"""Seconds between two looks whether all is still there that messages come through."""
LONGEST_HOLD_S = 60.0
"""Most seconds that what can't be stored anew is held here instead, 1 at least."""
POSTPONING_S = 2.0
"""Seconds that what is being postponed gets when the subscription is left."""

_ACKED = SettlementState.ACKED

log = EventLogger("eventflow.rabbitmq")


class RabbitMQDeliveries(Deliveries):
    """Receives for one subscription: on one channel, and on another one when that is lost."""

    def __init__(
        self,
        broker: RabbitMQBroker,
        topic: str,
        source_of: Callable[[], Source],
        *,
        max_in_flight: int,
        again: str = "",
    ) -> None:
        self._broker = broker
        self._link = broker.receiving
        self._topic = topic
        self._source_of = source_of
        self._source = source_of()
        self._bound = max_in_flight
        self._again = again or self._source.queue
        self._channel: ConsumingChannel | None = None
        self._buffer: deque[RabbitMQDelivery] = deque()
        self._held: dict[int, RabbitMQDelivery] = {}  # unsettled, or not told yet; by number
        self._readers = Waiters()
        self._is_paused = self._is_closed = self._was_missing = False
        self._error: BrokerError | None = None
        self._problem = ""
        self._postponing: set[asyncio.Task[None]] = set()
        self._left: asyncio.Future[None] = broker.loop.create_future()
        self._begun: asyncio.Future[None] = broker.loop.create_future()
        self._wanted: asyncio.Future[None] = broker.loop.create_future()
        self._task = self._link.spawn(self._run(), f"subscription-{topic}")

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._broker.features

    async def begin(self) -> None:
        """Wait until messages come.

        Raises:
            BrokerError: None will.
        """
        await asyncio.shield(self._begun)

    async def _run(self) -> None:
        try:
            await self._keep_consuming()
        except asyncio.CancelledError:
            if not self._is_closed:
                self._fail(BrokerError("the subscription was cancelled"))
            raise

    async def _keep_consuming(self) -> None:
        wait = FIRST_WAIT_S
        loop = self._broker.loop
        while True:
            try:
                session = await self._link.wait()
            except BrokerClosedError:
                return
            began = loop.time()
            try:
                error = await self._consume(session)
            except BrokerError as exc:
                if not exc.retriable:
                    self._fail(exc)
                    return
                error = exc
            except Exception as exc:  # noqa: BLE001 - whatever it is, the subscription ends by it
                log.error("eventflow.reader_failed", error=exc, queue=self._source.queue)
                self._fail(BrokerError(f"the subscription has ended: {type(exc).__name__}"))
                return
            if self._is_closed:
                return
            if not session.is_open:
                self._problem = f"the connection was lost: {reason_of(error)}"
            else:
                self._problem = f"the channel was lost: {reason_of(error)}"
                session.forget(self._source.parts)  # the queue may be there no more
                log.warning(
                    "eventflow.channel_lost", queue=self._source.queue, reason=self._problem
                )
                if loop.time() - began > WELL_S:
                    wait = FIRST_WAIT_S
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_S)
            # The queue of one instance goes with its connection, which the server may still have.
            self._source = self._source_of()

    async def _consume(self, session: Session) -> BaseException | None:
        """Receive until the channel ends; returns why it did."""
        await session.declare(self._source.parts)
        channel = await session.open(ConsumingChannel)
        if self._is_closed:  # meanwhile
            await channel.close()
            return None
        ended: BaseException | None = None
        try:
            channel.came, channel.told = self._came, self._told
            self._channel = channel
            if not self._begun.done():
                self._begun.set_result(None)
            if not self._wanted.done():
                self._problem = ""
            # Others of the group may have what this one does not ask for.
            until: list[asyncio.Future[Any]] = [self._wanted, channel.ended]
            await asyncio.wait(until, return_when=FIRST_COMPLETED)
            if channel.is_open:
                await self._ask(channel)
                self._problem = ""
            while not (await asyncio.wait([channel.ended], timeout=LOOK_S))[0]:
                await self._look(session)
            ended = channel.ended.result()
        finally:
            self._lose()
            if not self._is_closed:
                await channel.close()  # also one whose consumer alone has ended
        return ended

    async def _look(self, session: Session) -> None:
        """Declare all once more: nobody says when an exchange or a binding is deleted."""
        session.forget(self._source.parts)
        try:
            await session.declare(self._source.parts)
        except BrokerError as exc:
            if exc.retriable or not session.is_open:
                return
            if self._problem != str(exc):
                self._problem = str(exc)
                log.error("eventflow.topology_lost", queue=self._source.queue, reason=self._problem)
        else:
            self._problem = ""

    async def _ask(self, channel: ConsumingChannel) -> None:
        library: Any = channel.channel

        def cancelled(_: object) -> None:
            channel.end(BrokerConnectionError("the queue was deleted, or has moved"))

        library.on_consumer_cancel_callbacks.add(cancelled)
        try:
            async with channel.session.asking(f"queue {self._source.queue!r}"):
                await library.basic_qos(prefetch_count=min(self._bound, MOST_PREFETCHED))
                await library.rpc(
                    commands.Basic.Consume(queue=self._source.queue, consumer_tag=CONSUMER)
                )
        except TopologyError as exc:
            if self._was_missing:
                raise
            # It may have been deleted since it was declared: that is tried once more.
            self._was_missing = True
            raise BrokerConnectionError(str(exc)) from None
        self._was_missing = False

    def _fail(self, error: BrokerError) -> None:
        self._error = error
        self._problem = str(error)
        if not self._begun.done():
            self._begun.set_exception(error)
            self._begun.exception()  # looked at, whoever else does
        self._readers.wake_all()

    def _lose(self) -> None:
        """Nothing that came on the channel can be settled any more: it comes again."""
        self._channel = None
        held, self._held = self._held, {}
        self._buffer.clear()
        for delivery in held.values():
            delivery.lost()

    def _came(self, arrived: Arrived) -> None:
        channel = self._channel
        if channel is None or self._is_closed:
            return
        source = self._source
        delivery = RabbitMQDelivery(
            arrived, channel, self, self._topic, source.queue, source.counts
        )
        self._held[arrived.tag] = delivery
        self._buffer.append(delivery)
        if self._readers:
            self._readers.wake()

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        if not self._wanted.done():
            self._wanted.set_result(None)
        while not self._is_closed:
            if self._error is not None:
                raise self._error
            buffer = self._buffer
            if buffer and not self._is_paused:
                return [buffer.popleft() for _ in range(min(limit, len(buffer)))]
            await self._readers.wait()
        return ()

    def settle(self, delivery: Delivery) -> None:
        """Take a decision; see `eventflow.messaging.Settler`."""
        assert isinstance(delivery, RabbitMQDelivery)
        channel, tag = delivery.channel, delivery.tag
        if channel is not self._channel or not channel.is_open:
            delivery.lost()
            return
        if delivery.state is _ACKED:
            channel.ack(tag, at_once=not self._buffer)
            return
        if self.features.nack_delay and is_postponed(delivery):
            task = self._link.spawn(self._postpone(delivery), f"postpone-{delivery.topic}")
            self._postponing.add(task)
            task.add_done_callback(self._postponing.discard)
            return
        channel.give_back(tag)
        self._held.pop(tag, None)
        delivery.confirmed()

    async def _postpone(self, delivery: RabbitMQDelivery) -> None:
        """Have it wait where it does not have to be held, then let go of it here."""
        channel, tag = delivery.channel, delivery.tag
        try:
            most = self._broker.frame_max - BESIDE
            await self._broker.sender.send(postponed(delivery, self._again, most=most))
        except Exception as exc:  # noqa: BLE001 - whatever it is, it must not stay in hand
            hold = min(max(delivery.nack_delay, 1.0), LONGEST_HOLD_S)
            log.warning(
                "eventflow.message_not_postponed",
                topic=delivery.topic,
                event_id=delivery.message.id,
                reason=str(exc),
                waits_s=hold,
            )
            # Given back at once it would come at once, again and again.
            until: list[asyncio.Future[Any]] = [self._left, channel.ended]
            await asyncio.wait(until, timeout=hold)
            if channel is self._channel and channel.is_open:
                channel.give_back(tag)
                self._held.pop(tag, None)
            delivery.lost()
            return
        if channel is self._channel and channel.is_open:
            channel.ack(tag, at_once=True)
        else:
            delivery.lost()

    def _told(self, tags: list[int]) -> None:
        held = self._held
        for tag in tags:
            if (delivery := held.pop(tag, None)) is not None:
                delivery.confirmed()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._readers.wake_all()

    @property
    def problem(self) -> str:
        return self._link.problem or self._problem

    async def close(self) -> None:
        """Give back what is unsettled, and end whoever waits in `receive`. Bounded."""
        if self._is_closed:
            return
        self._is_closed = True
        self._left.set_result(None)
        channel = self._channel
        self._readers.wake_all()
        if self._postponing:
            await asyncio.wait(self._postponing, timeout=POSTPONING_S)
        if channel is not None and channel.is_open:
            channel.flush()
        self._lose()
        if not self._begun.done():
            self._begun.cancel()
        if channel is not None:
            await channel.cancel()
            await channel.close()  # gives back what is unsettled
        await cancel_and_wait([self._task], grace=END_S)
