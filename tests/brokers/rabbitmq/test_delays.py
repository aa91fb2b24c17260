"""Delayed messages and delayed retries on a real RabbitMQ: when they come, and with what."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands

from eventflow import Event, FailurePolicy, Retry, current
from eventflow.brokers.rabbitmq import PubSub, RabbitMQBroker, Topics, WorkQueue, _forwarder
from eventflow.brokers.rabbitmq._ladder import BROADCAST, DUE_QUEUE, Note, due_ms
from eventflow.errors import UnsupportedFeatureError
from eventflow.messaging import BrokerEventPublisher, Message, Router
from eventflow.messaging.metadata import DELAYED_UNTIL, delay_metadata
from tests.brokers.rabbitmq.support import named, outside, take, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.brokers.rabbitmq import Topology
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]

SLACK_S = 5.0
"""What a loaded machine may take beyond the step."""


async def taken(channel: Any, queue: str, count: int) -> Sequence[Any]:
    """Messages as the server has them, by a client of its own."""
    found: list[Any] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            got = await channel.basic_get(queue, no_ack=True)
            if isinstance(got.delivery, commands.Basic.GetEmpty):
                await asyncio.sleep(0.02)
            else:
                found.append(got)
    return found


@pytest.mark.fault("RTR-09")
async def test_a_delayed_retry_outlives_its_process(rabbitmq: RabbitMQ) -> None:
    """Never early; and all that it had it has still, counts as well."""
    topic = named("topic")
    message = Message(b"\xff\x00body", {"some": "thing"}, headers=(("bin", b"\xff"),))
    async with RabbitMQBroker(rabbitmq.address) as broker:
        subscriber = broker.subscriber(group="g")
        async with subscriber.subscribe(topic) as deliveries:
            await broker.publisher().publish(topic, message)
            (first,) = await take(deliveries, 1)
            nacked = time.time()
            assert first.nack(delay=0.8, failures=3)
            await first.settled()
    async with RabbitMQBroker(rabbitmq.address) as broker:
        subscriber = broker.subscriber(group="g")
        async with subscriber.subscribe(topic) as deliveries:
            (again,) = await take(deliveries, 1)
            assert 0.8 <= time.time() - nacked < 1 + SLACK_S
            assert (again.failures, again.deliveries, again.topic) == (3, 2, topic)
            assert again.message == first.message == message
            # At once, with what was counted since.
            assert again.nack(failures=4)
            (third,) = await take(deliveries, 1)
            assert (third.failures, third.deliveries) == (4, 3)
            assert third.release(delay=0.5)
            (fourth,) = await take(deliveries, 1)
            assert (fourth.failures, fourth.deliveries) == (4, 3)
            assert fourth.nack()
            (fifth,) = await take(deliveries, 1)
            assert (fifth.failures, fifth.deliveries) == (4, 4)
            fifth.ack()
            await fifth.settled()


async def test_a_delayed_message_outlives_its_publisher(rabbitmq: RabbitMQ) -> None:
    """Whoever has delays set hands it on, also to groups without."""
    topic = named("topic")
    async with RabbitMQBroker(rabbitmq.address) as broker:
        await broker.subscriber(group="plain", topology=PubSub()).prepare(topic)
        metadata = delay_metadata(0.5, now=datetime.now(UTC))
        due = datetime.fromisoformat(metadata[DELAYED_UNTIL]).timestamp()
        await broker.publisher().publish(topic, Message(b"later", metadata), Message(b"now"))
    async with RabbitMQBroker(rabbitmq.address, delays=False) as plain:
        group = plain.subscriber(group="plain")
        async with group.subscribe(topic) as deliveries:
            (first,) = await take(deliveries, 1)
            assert first.message.payload == b"now"
            async with RabbitMQBroker(rabbitmq.address):
                (second,) = await take(deliveries, 1)
                assert due <= time.time() < due + 2 + SLACK_S
            assert second.message.payload == b"later"
            assert second.message.metadata == metadata
            with pytest.raises(UnsupportedFeatureError, match="nack delay"):
                second.nack(delay=1)


@pytest.mark.parametrize(
    "topology",
    [
        PubSub(queue_type="classic"),
        WorkQueue(queue_type="classic"),
        WorkQueue(),
        Topics(exchange="delays-test", queue_type="classic"),
        Topics(exchange="delays-test"),
    ],
)
async def test_headers_are_texts_in_every_topology(rabbitmq: RabbitMQ, topology: Topology) -> None:
    """After a delay as well: Watermill's reader asks for others again at once, for ever."""
    topic = named("topic")
    async with RabbitMQBroker(rabbitmq.address, topology=topology) as broker:
        subscriber = broker.subscriber(group="g")
        async with subscriber.subscribe(topic) as deliveries:
            later = Message(b"1", {**delay_metadata(0.1, now=datetime.now(UTC))})
            await broker.publisher().publish(topic, later)
            (first,) = await take(deliveries, 1)
            assert first.message == later
            first.nack(delay=0.1, failures=1)
        async with outside(rabbitmq.address) as look:
            queue = str(first.coordinates["queue"])
            (got,) = await taken(look.channel, queue, 1)
        assert got.body == b"1"
        headers = {**got.header.properties.headers}
        headers.pop("x-delivery-count", None)  # which quorum queues add to all that they hand out
        assert all(isinstance(value, str) for value in headers.values()), headers
        assert got.header.properties.delivery_mode == 2


async def test_what_waits_longer_than_the_longest_step(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits on one step after the other, and is not early."""
    topic = named("topic")
    monkeypatch.setattr("eventflow.brokers.rabbitmq._ladder.LADDER_S", (1,))
    monkeypatch.setattr("eventflow.messaging.ladder.LADDER_S", (1,))
    async with (
        RabbitMQBroker(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        await broker.publisher().publish(topic, Message(b"x"))
        (first,) = await take(deliveries, 1)
        nacked = time.time()
        first.nack(delay=2.5, failures=1)
        (again,) = await take(deliveries, 1)
        assert 2.5 <= time.time() - nacked < 3 + SLACK_S
        assert again.failures == 1
        again.ack()


async def test_others_can_not_write_counts(rabbitmq: RabbitMQ) -> None:
    """What is noted counts only where we have written it."""
    topic = named("topic")
    async with (
        RabbitMQBroker(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        async with outside(rabbitmq.address) as look:
            note = Note("", "", 0, failures=99, deliveries=99)
            headers: dict[str, Any] = {name: value.decode() for name, value in note.pairs()}
            properties = commands.Basic.Properties(headers=headers)
            await look.channel.basic_publish(b"x", exchange=topic, properties=properties)
        (first,) = await take(deliveries, 1)
        assert (first.failures, first.deliveries) == (0, 1)
        first.ack()


async def test_what_can_not_be_handed_on_harms_no_other(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its exchange is gone, its queue is gone, or it does not say where to: the next one comes."""
    topic, gone = named("topic"), named("gone")
    monkeypatch.setattr(_forwarder, "AGAIN_S", 1.0)
    async with (
        RabbitMQBroker(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        await broker.publisher().publish(topic, Message(b"x"))
        (first,) = await take(deliveries, 1)
        async with outside(rabbitmq.address) as look:
            long = "n" * 256
            for note in (
                *(Note(gone, ""), Note("", gone), Note(), Note("", long)),
                *(Note("eventflow.again", gone), Note("eventflow.again", f"{BROADCAST}{gone}")),
            ):
                headers: dict[str, Any] = {name: value.decode() for name, value in note.pairs()}
                await look.channel.basic_publish(
                    f"for {note.exchange or note.routing_key or 'nobody'}".encode(),
                    routing_key=DUE_QUEUE,
                    properties=commands.Basic.Properties(headers=headers, delivery_mode=2),
                )
            first.nack(delay=0.1, failures=1)
            (again,) = await take(deliveries, 1)
            assert again.failures == 1
            again.ack()
            # Whatever belongs to nobody is kept where people can look at it.
            odd = await taken(look.channel, _forwarder.ASIDE, 3)
            assert {got.body for got in odd} == {
                *(b"for nobody", b"for eventflow.again", f"for {long}".encode())
            }
            # Those with a place come once there is one.
            await look.channel.exchange_declare(gone, exchange_type="fanout", durable=True)
            await look.channel.queue_declare(gone, durable=True)
            await look.channel.queue_bind(gone, gone)
            found = await taken(look.channel, gone, 2)
            assert {got.body for got in found} == {f"for {gone}".encode()}
    assert "delayed_not_forwarded" in caplog.text
    assert caplog.text.count("message_put_aside") == 3
    assert "retry_dropped" in caplog.text


async def test_a_router_retries_through_the_server(rabbitmq: RabbitMQ) -> None:
    """Other messages pass meanwhile; the attempts are counted, and the last one is the end."""

    class Made(Event, topic=named("topic")):
        n: int

    attempts: list[tuple[int, int]] = []

    async def handle(event: Made) -> None:
        attempts.append((event.n, current().attempt))
        if event.n == 1:
            raise ValueError

    async with RabbitMQBroker(rabbitmq.address) as broker:
        router = Router()
        router.add_handler(
            "made",
            Made,
            handle,
            subscriber=broker.subscriber(group="g"),
            order="relaxed",
            on_failure=FailurePolicy(retry=Retry(attempts=3, initial=0.1, jitter=0)),
        )
        async with router:
            publisher = BrokerEventPublisher(broker.publisher())
            await publisher.publish(Made(n=1))
            await publisher.publish(Made(n=2))
            await until(lambda: len(attempts) == 4, "all attempts")
            letters = broker.subscriber(topology=WorkQueue())
            async with letters.subscribe(f"{Made.topic}.dead_letter") as deliveries:
                (letter,) = await take(deliveries, 1)
                letter.ack()
    assert sorted(attempts) == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert b'"n":1' in letter.message.payload


def test_due_is_in_milliseconds() -> None:
    assert abs(due_ms(10) - (time.time() + 10) * 1_000) < 1_000
