"""An ack that the broker does not get, below a router."""

from __future__ import annotations

import asyncio

import pytest

from eventflow import Event
from eventflow.messaging import BrokerEventPublisher, Delivery, Router
from tests.contract.proxy import ProxyBroker


class Placed(Event, topic="orders"):
    n: int


class LosesSomeAcks(ProxyBroker):
    """The link is down for every third ack: the broker has the message back."""

    asked = 0

    def ack(self, inner: Delivery) -> bool:
        self.asked += 1
        if self.asked % 3:
            return inner.ack()
        inner.nack()
        return False


@pytest.mark.fault("ACK-02")
@pytest.mark.virtual_clock
async def test_a_lost_ack_brings_the_message_again() -> None:
    """The handler is not marked failed, its worker goes on, and the message is handled again."""
    handled: list[int] = []

    async def handler(event: Placed) -> None:
        handled.append(event.n)

    async with LosesSomeAcks() as broker:
        subscriber = broker.subscriber(group="g")
        router = Router()
        router.add_handler("h", Placed, handler, subscriber=subscriber)
        async with router:
            publisher = BrokerEventPublisher(broker.publisher())
            for n in range(20):
                await publisher.publish(Placed(n=n))
            await asyncio.sleep(1)  # virtual: everything has been said that is going to be

        assert await subscriber.lag("orders") == 0

    assert set(handled) == set(range(20))
    lost = len(handled) - 20
    assert lost == broker.asked // 3 > 5
    ledger = router.ledger["h"]
    assert (ledger.offered, ledger.handled, ledger.failed) == (20 + lost, 20 + lost, 0)
    assert router.ledger.adds_up
