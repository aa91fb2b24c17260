"""Faults that only a more particular test notices."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from eventflow.errors import (
    BrokerError,
)
from eventflow.messaging import (
    Deliveries,
    Delivery,
    Features,
    Group,
    Message,
    Publisher,
)
from tests.contract.planting import noticed_by
from tests.contract.proxy import (
    Messages,
    ProxyBroker,
    ProxyDeliveries,
    ProxyPublisher,
    ProxySubscriber,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable


@noticed_by("a_payload_is_kept_to_the_byte", "a_poison_body_passes_through_and_blocks_nothing")
class LosesEmptyPayloads(ProxyBroker):
    def changed(self, messages: Messages) -> Iterable[Message]:
        return [m for m in messages if m.payload]


@noticed_by("publishing_nothing_does_nothing")
class PublishesAtLeastOne(ProxyBroker):
    def changed(self, messages: Messages) -> Iterable[Message]:
        return messages or (Message(),)


@noticed_by("a_redelivery_keeps_the_order")
class RequeuesAtTheEnd(ProxyBroker):
    def changed(self, messages: Messages) -> Iterable[Message]:
        return [Message(m.payload, m.metadata, id=m.id) for m in messages]

    def nack(self, inner: Delivery, *, delay: float, failures: int | None) -> bool:
        return inner.nack(delay=delay or 0.001, failures=failures)


@noticed_by("a_cancelled_publish_that_waits")
class KeepsALockWhenCancelled(ProxyBroker):
    def __init__(self) -> None:
        super().__init__()
        self._locks: dict[str, asyncio.Lock] = {}

    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        if not messages or messages[0].payload == b"in the way":
            await publisher.publish(topic, *messages)
            return
        lock = self._locks.setdefault(topic, asyncio.Lock())
        await lock.acquire()
        await publisher.publish(topic, *messages)
        lock.release()


class _Locked(ProxySubscriber):
    async def prepare(self, topic: str) -> None:
        if self.broker.is_preparing:
            raise BrokerError("one is at it already")
        self.broker.is_preparing = True
        await asyncio.sleep(0)
        await super().prepare(topic)
        self.broker.is_preparing = False


@noticed_by("a_cancelled_look_changes_nothing")
class PreparesForGoodWhenCancelled(ProxyBroker):
    def subscriber(self, *, group: Group) -> ProxySubscriber:
        return _Locked(self, self.inner.subscriber(group=group))


class _Bare(Delivery):
    async def settled(self) -> None:
        if not self.is_ended:
            if self._watcher is None:
                self._watcher = asyncio.get_running_loop().create_future()
            await self._watcher


class _BareDeliveries(ProxyDeliveries):
    made = _Bare


@noticed_by("a_cancelled_settled_leaves_the_others_waiting")
class CancelsAllWhoWait(ProxyBroker):
    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _BareDeliveries(self, inner)


class _Prefetches(ProxySubscriber):
    _held: list[object] = []  # noqa: RUF012 - or else the garbage collector would close it

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AsyncGenerator[Deliveries]:
        manager = self.inner.subscribe(topic, max_in_flight=max_in_flight, concurrency=concurrency)
        self._held.append(manager)
        inner = await manager.__aenter__()
        fetched = await inner.receive()
        await asyncio.sleep(0)
        for delivery in fetched:
            delivery.nack()
        try:
            yield self.broker.deliveries(inner)
        finally:
            await manager.__aexit__(None, None, None)


@noticed_by("a_cancelled_subscription_holds_nothing")
class HoldsWhatItFetchedWhenCancelled(ProxyBroker):
    def subscriber(self, *, group: Group) -> ProxySubscriber:
        return _Prefetches(self, self.inner.subscriber(group=group))


class _Counted(ProxySubscriber):
    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AsyncGenerator[Deliveries]:
        async with super().subscribe(
            topic, max_in_flight=max_in_flight, concurrency=concurrency
        ) as deliveries:
            if topic in self.broker.dead:
                deliveries.pause()
            yield deliveries
            if len(self.broker.open) > 1:
                self.broker.dead.add(topic)


@noticed_by("subscribers_opened_and_closed_at_once")
class DiesWhenSeveralLeave(ProxyBroker):
    def subscriber(self, *, group: Group) -> ProxySubscriber:
        return _Counted(self, self.inner.subscriber(group=group))


@noticed_by("a_broker_can_be_entered_again")
class OpensOnce(ProxyBroker):
    _was_open = False

    async def __aenter__(self) -> Self:
        if self._was_open:
            raise BrokerError("it was left")
        self._was_open = True
        return await super().__aenter__()


@noticed_by("nothing_starts_before_it_is_entered")
class ConnectsWhenMade(ProxyBroker):
    files: list[socket.socket] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket()
        self.files.append(self._socket)


class _Silent(Features):
    __slots__ = ()

    def require(self, feature: str) -> None:
        pass


@noticed_by("what_is_not_declared_is_refused")
class RefusesNothing(ProxyBroker):
    @property
    def features(self) -> Features:
        return _Silent(backend="proxy")


class _Boasts(ProxyPublisher):
    @property
    def features(self) -> Features:
        return dataclasses.replace(super().features, persistent=True)


@noticed_by("everything_made_of_a_broker_declares_the_same")
class PublisherBoasts(ProxyBroker):
    def publisher(self) -> ProxyPublisher:
        return _Boasts(self, self.inner.publisher())


@noticed_by("a_nack_with_a_delay")
class DelaysEverythingBehind(ProxyBroker):
    def nack(self, inner: Delivery, *, delay: float, failures: int | None) -> bool:
        for deliveries in [*self.open] if delay else ():
            deliveries.inner.pause()
            asyncio.get_running_loop().call_later(delay, deliveries.inner.resume)
        return inner.nack(delay=delay, failures=failures)
