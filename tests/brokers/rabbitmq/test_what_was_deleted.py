"""Exchanges and bindings that somebody deletes: nobody says so, and they are made again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.rabbitmq import PubSub, Topics, WorkQueue, _deliveries, _forwarder
from eventflow.brokers.rabbitmq._ladder import AGAIN
from eventflow.errors import PublishError
from eventflow.messaging import Broadcast, Message
from eventflow.messaging.metadata import delay_metadata
from tests.brokers.rabbitmq.support import broker_at, named, outside, take, until

if TYPE_CHECKING:
    from eventflow.brokers.rabbitmq import Topology
    from eventflow.messaging import Group
    from tests.servers.rabbitmq import ProxiedRabbitMQ, RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]


@pytest.mark.parametrize("topology", [PubSub(), Topics(exchange=named("exchange"))])
@pytest.mark.parametrize("group", ["g", Broadcast()])
async def test_an_exchange_that_a_group_gets_messages_through(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, topology: Topology, group: Group
) -> None:
    """It is declared and bound again, whoever else has declared it meanwhile."""
    monkeypatch.setattr(_deliveries, "LOOK_S", 0.3)
    topic = named("deleted")
    async with (
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address, topology=topology) as broker,
        broker.subscriber(group=group).subscribe(topic) as deliveries,
    ):
        publisher = broker.publisher()
        await publisher.publish(topic, Message(b"before"))
        (before,) = await take(deliveries, 1)
        assert before.ack()
        await look.channel.exchange_delete(topology.route(topic).exchange)
        got: list[bytes] = []

        async def comes() -> bool:
            try:
                await publisher.publish(topic, Message(b"after"))
            except PublishError:  # it is not there, for now
                return False
            if broker.unrouted[topic]:
                broker.unrouted.clear()
                return False
            (after,) = await take(deliveries, 1)
            got.append(after.message.payload)
            return after.ack()

        await until(comes, "it is bound again")
        assert got == [b"after"]


async def test_an_exchange_that_can_not_be_made_again(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has made another one of that name: health says so, until it is as it was."""
    monkeypatch.setattr(_deliveries, "LOOK_S", 0.3)
    topic = named("deleted")
    async with (
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        await broker.publisher().publish(topic, Message(b"1"))
        (one,) = await take(deliveries, 1)
        await look.channel.exchange_delete(topic)
        await look.channel.exchange_declare(topic, exchange_type="direct", durable=True)
        await until(lambda: "other properties" in deliveries.problem, "it is noticed")
        assert one.ack()  # what is there goes on
        await one.settled()
        await look.channel.exchange_delete(topic)
        await until(lambda: not deliveries.problem, "it is as it was")
        assert caplog.text.count("topology_lost") == 1
        await broker.publisher().publish(topic, Message(b"2"))
        (two,) = await take(deliveries, 1)
        assert two.ack()


async def test_the_way_back_of_a_retry(rabbitmq: RabbitMQ) -> None:
    """Its binding is deleted while it waits: it comes, with what was counted."""
    topic = named("deleted")
    async with (
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        await broker.publisher().publish(topic, Message(b"1"))
        (one,) = await take(deliveries, 1)
        one.nack(delay=0.5, failures=1)
        await one.settled()
        queue = f"{topic}_g"
        await look.channel.queue_unbind(queue, AGAIN, routing_key=queue)
        (again,) = await take(deliveries, 1)
        assert (again.message.payload, again.failures) == (b"1", 1)
        assert again.ack()


async def test_the_exchange_of_all_retries(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is declared again by whoever hands on, and the queue bound to it."""
    monkeypatch.setattr(_forwarder, "AGAIN_S", 1.0)
    monkeypatch.setattr(_deliveries, "LOOK_S", 600.0)
    topic = named("deleted")
    async with (
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        await broker.publisher().publish(topic, Message(b"1"))
        (one,) = await take(deliveries, 1)
        one.nack(delay=0.5, failures=1)
        await one.settled()
        await look.channel.exchange_delete(AGAIN)
        (again,) = await take(deliveries, 1)
        assert (again.message.payload, again.failures) == (b"1", 1)
        assert again.ack()


async def test_an_instance_that_lost_its_connection(proxied_rabbitmq: ProxiedRabbitMQ) -> None:
    """Its queue has another name then, and what it wanted to try again comes to that."""
    topic = named("instance")
    async with (
        broker_at(proxied_rabbitmq.address) as other,
        broker_at(proxied_rabbitmq.linked) as broker,
        broker.subscriber(group=Broadcast()).subscribe(topic) as deliveries,
    ):
        await other.publisher().publish(topic, Message(b"1"))
        (one,) = await take(deliveries, 1)
        one.nack(delay=4, failures=1)
        await one.settled()
        proxied_rabbitmq.proxy.reset()
        (again,) = await take(deliveries, 1)
        assert (again.message.payload, again.failures) == (b"1", 1)
        assert again.coordinates["queue"] != one.coordinates["queue"]
        assert again.ack()


@pytest.mark.parametrize("topology", [PubSub(), WorkQueue()])
async def test_a_delayed_message_for_what_is_not_there_yet(
    rabbitmq: RabbitMQ, topology: Topology
) -> None:
    """What it goes through is declared when it is published, as for any other message."""
    topic = named("later")
    async with broker_at(rabbitmq.address, topology=topology) as broker:
        await broker.publisher().publish(
            topic, Message(b"x", delay_metadata(0.5, now=datetime.now(UTC)))
        )
        if topology.has_groups:
            await until(lambda: broker.unrouted[topic] == 1, "nobody gets it, which is counted")
            return
        async with broker.subscriber().subscribe(topic) as deliveries:
            (came,) = await take(deliveries, 1)
            assert came.ack()
