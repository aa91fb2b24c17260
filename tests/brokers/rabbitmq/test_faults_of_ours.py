"""A fault of ours while a message is taken in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.rabbitmq import RabbitMQBroker, _deliveries
from eventflow.brokers.rabbitmq._delivery import RabbitMQDelivery
from eventflow.messaging import Message
from tests.brokers.rabbitmq.support import named, take

if TYPE_CHECKING:
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(60)]


async def test_it_ends_no_connection(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The message comes again, after a while, and neighbours keep what they hold."""
    bad, good = named("bad"), named("good")
    faults: list[int] = []

    class Faulty(RabbitMQDelivery):
        __slots__ = ()

        def __init__(self, arrived: Any, *args: Any, **options: Any) -> None:
            super().__init__(arrived, *args, **options)
            if self.topic == bad and len(faults) < 2:
                faults.append(arrived.tag)
                raise ZeroDivisionError

    monkeypatch.setattr(_deliveries, "RabbitMQDelivery", Faulty)
    async with (
        RabbitMQBroker(rabbitmq.address, delays=False) as broker,
        broker.subscriber(group="g").subscribe(good) as beside,
        broker.subscriber(group="g").subscribe(bad) as deliveries,
    ):
        await broker.publisher().publish(good, Message(b"held"))
        (held,) = await take(beside, 1)
        await broker.publisher().publish(bad, Message(b"x"))
        (came,) = await take(deliveries, 1)
        assert came.deliveries == 3
        came.ack()
        held.ack()
        await held.settled()  # its channel is the one it came on
    assert len(faults) == 2
    assert "ZeroDivisionError" in caplog.text
    assert "broker_lost" not in caplog.text
