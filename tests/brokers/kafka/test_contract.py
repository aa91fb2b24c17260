"""The contract, on a real Kafka."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from eventflow.testing.contract import BrokerContract
from tests.brokers.kafka.support import broker_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from eventflow.brokers.kafka import KafkaBroker
    from eventflow.messaging import Broker
    from tests.servers.kafka import Kafka

pytestmark = pytest.mark.kafka


def broker_elsewhere(hosts: str) -> KafkaBroker:
    """The same store, for another process."""
    return broker_at(hosts)


class TestKafka(BrokerContract):
    """Topics of four partitions."""

    publish_timeout = 4.0

    @pytest.fixture(autouse=True)
    def server(self, kafka: Kafka) -> None:
        self.kafka = kafka

    def new_broker(self) -> KafkaBroker:
        return broker_at(self.kafka.address, publish_timeout=self.publish_timeout)

    def new_topic(self) -> str:
        return self.kafka.create_topic(super().new_topic())

    def elsewhere(self) -> tuple[str, ...]:
        return ("tests.brokers.kafka.test_contract:broker_elsewhere", self.kafka.address)

    async def restart_broker(self) -> bool:
        if not self.kafka.is_ours:
            return False
        self.kafka.kill()
        await self.kafka.start_again(within=60)
        return True

    def blocked(self, broker: Broker, topic: str) -> AbstractAsyncContextManager[None] | None:
        return self._frozen() if self.kafka.is_ours else None

    @asynccontextmanager
    async def _frozen(self) -> AsyncGenerator[None]:
        self.kafka.freeze()
        try:
            yield
        finally:
            self.kafka.thaw()

    @pytest.mark.fault("PUB-02", "PUB-04")
    async def test_a_publish_ends_within_its_deadline(self) -> None:
        await super().test_a_publish_ends_within_its_deadline()

    @pytest.mark.fault("KFK-07")
    async def test_a_restart_while_publishing_loses_nothing(self) -> None:
        await super().test_a_restart_while_publishing_loses_nothing()
