"""Each answer takes longer than one question waits: what asks again waits longer then."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.kafka import _consumer
from eventflow.brokers.kafka._calls import SLICE_S
from eventflow.messaging import Message
from tests.brokers.kafka.support import broker_at

if TYPE_CHECKING:
    from tests.servers.proxy import ProxiedKafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

LATE_S = 0.55
A_LITTLE_LATE_S = 0.1


async def test_a_cluster_that_answers_late(
    proxied_kafka: ProxiedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client is told about the cluster and a topic; a group's member, where that stands."""
    assert SLICE_S < LATE_S
    monkeypatch.setattr(_consumer, "ASK_S", A_LITTLE_LATE_S / 2)
    topic = proxied_kafka.create_topic(f"late.{uuid.uuid4().hex[:12]}")
    messages = [Message(str(n).encode()) for n in range(5)]
    proxy, came = proxied_kafka.proxy, set[str]()
    proxy.delay(LATE_S)
    try:
        async with broker_at(proxied_kafka.linked, connect_timeout=30.0) as broker:
            await broker.publisher().publish(topic, *messages)
            proxy.delay(A_LITTLE_LATE_S)
            subscriber = broker.subscriber(group="late")
            async with subscriber.subscribe(topic) as deliveries, asyncio.timeout(30):
                while len(came) < len(messages):
                    for delivery in await deliveries.receive(10):
                        came.add(delivery.message.id)
                        delivery.ack()
        assert came == {message.id for message in messages}
    finally:
        proxy.restore()
