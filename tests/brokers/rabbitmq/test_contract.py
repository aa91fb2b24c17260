"""The contract, on a real RabbitMQ."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.rabbitmq import RabbitMQBroker
from eventflow.testing.contract import BrokerContract

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from eventflow.messaging import Broker
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]

DECLARED_S = 2.0


def broker_elsewhere(address: str) -> RabbitMQBroker:
    """The same store, for another process."""
    return RabbitMQBroker(address)


class TestRabbitMQ(BrokerContract):
    """With quorum queues."""

    publish_timeout = 4.0
    silence = 0.15
    counts_given_back = True

    @pytest.fixture(autouse=True)
    def server(self, rabbitmq: RabbitMQ) -> None:
        self.rabbitmq = rabbitmq

    def new_broker(self) -> RabbitMQBroker:
        return RabbitMQBroker(self.rabbitmq.address, publish_timeout=self.publish_timeout)

    def elsewhere(self) -> tuple[str, ...]:
        return ("tests.brokers.rabbitmq.test_contract:broker_elsewhere", self.rabbitmq.address)

    async def restart_broker(self) -> bool:
        if not self.rabbitmq.is_ours:
            return False
        # A quorum queue that was declared less than a second before a kill is broken for good, with
        # what was confirmed: the server has not written it down yet, and does not say when it has.
        await asyncio.sleep(DECLARED_S)
        self.rabbitmq.kill()
        await self.rabbitmq.start_again(within=60)
        return True

    def blocked(self, broker: Broker, topic: str) -> AbstractAsyncContextManager[None] | None:
        return self._frozen() if self.rabbitmq.is_ours else None

    @asynccontextmanager
    async def _frozen(self) -> AsyncGenerator[None]:
        self.rabbitmq.freeze()
        try:
            yield
        finally:
            self.rabbitmq.thaw()
