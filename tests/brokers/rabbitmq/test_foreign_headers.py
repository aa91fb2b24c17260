"""Headers of others that mean something to the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands

from eventflow.brokers.rabbitmq import WorkQueue
from tests.brokers.rabbitmq.support import Outside, broker_at, named, outside, take

if TYPE_CHECKING:
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbitmq


async def _publish(look: Outside, exchange: str, key: str, headers: dict[str, Any]) -> None:
    properties = commands.Basic.Properties(headers=headers)
    await look.channel.basic_publish(
        b"x", exchange=exchange, routing_key=key, properties=properties
    )


async def test_copies_that_others_have_routed_are_not_made_again(rabbitmq: RabbitMQ) -> None:
    """A ``CC`` of somebody's is told, and is no part of the message that is tried again."""
    topic, audit = named("copied"), named("audit")
    queues = WorkQueue(queue_type="classic")
    async with (
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address, topology=queues) as broker,
        broker.subscriber().subscribe(topic) as deliveries,
    ):
        copies = broker.subscriber()
        await copies.prepare(audit)
        await _publish(look, "", topic, {"CC": [audit]})
        assert await copies.messages_ready(audit) == 1
        (one,) = await take(deliveries, 1)
        assert "CC" in dict(one.headers)
        assert "CC" not in dict(one.message.headers)
        one.nack(delay=0.5, failures=1)
        (again,) = await take(deliveries, 1)
        assert again.failures == 1
        assert await copies.messages_ready(audit) == 1
        assert again.ack()
        await again.settled()


async def test_a_count_of_deliveries_that_others_have_written(rabbitmq: RabbitMQ) -> None:
    """It is no count of the server's, and makes nobody think that it crashes its readers."""
    topic = named("counted")
    async with (
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        await _publish(look, topic, "", {"x-delivery-count": 21})
        (one,) = await take(deliveries, 1)
        assert one.deliveries == 1
        one.nack()
        (two,) = await take(deliveries, 1)
        assert two.deliveries == 2
        assert two.ack()
        await two.settled()
