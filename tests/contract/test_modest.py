"""The contract, on a backend that declares next to nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import UnsupportedFeatureError
from eventflow.messaging import Broadcast, Delivery, Features
from eventflow.messaging.metadata import DELAYED_UNTIL
from eventflow.testing.contract import BrokerContract
from tests.contract.proxy import (
    TIMEOUT,
    Messages,
    ProxyBroker,
    ProxyDeliveries,
    ProxySubscriber,
)

if TYPE_CHECKING:
    from types import TracebackType

    from eventflow.messaging import Broker, Deliveries, Group, Publisher

GROUP = "all"


class ModestBroker(ProxyBroker):
    """One group, no order, no delays, no counts; and it takes messages while it is being left."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MemoryBroker(publish_timeout=TIMEOUT, max_payload_bytes=65_536)

    @property
    def features(self) -> Features:
        return Features(backend="modest", old_messages=True, max_payload_bytes=65_536)

    def subscriber(self, *, group: Group) -> ProxySubscriber:
        if isinstance(group, Broadcast):
            self.features.require("broadcast")
        checked = self.inner.subscriber(group=group)
        if group != GROUP:
            self.features.require("groups")
        return ModestSubscriber(self, checked)

    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        for message in messages:
            if message.headers:
                self.features.require("headers")
            if DELAYED_UNTIL in message.metadata:
                self.features.require("publish_delay")
        await super().publish(publisher, topic, messages)

    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return ModestDeliveries(self, inner)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.sleep(0.1)
        await super().__aexit__(exc_type, exc, traceback)


class ModestSubscriber(ProxySubscriber):
    async def lag(self, topic: str) -> int:
        raise UnsupportedFeatureError("it can't tell", feature="lag", backend="modest")


class ModestDeliveries(ProxyDeliveries):
    def outer(self, inner: Delivery) -> Delivery:
        outer = Delivery(inner.message, topic=inner.topic, settler=self)
        self.unsettled[outer] = inner
        return outer


@pytest.mark.virtual_clock
class TestModest(BrokerContract):
    """What is not declared is refused, and all the rest holds."""

    size = 0.1
    publish_timeout = TIMEOUT

    def new_broker(self) -> Broker:
        return ModestBroker()

    def new_group(self) -> str:
        return GROUP
