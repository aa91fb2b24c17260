"""Slow handlers, blocked loops, a broker that stands still: the group keeps its members."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.kafka import _consumer, _feed
from eventflow.brokers.kafka._settings import Settings
from eventflow.messaging import Broadcast, Message, Router
from tests.brokers.kafka.support import broker_at, until

if TYPE_CHECKING:
    from eventflow.brokers.kafka import KafkaBroker
    from eventflow.messaging import Deliveries, Delivery, Subscriber
    from tests.servers.kafka import Kafka

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def topic(kafka: Kafka) -> str:
    return kafka.create_topic(f"waits.{uuid.uuid4().hex[:12]}")


async def take(deliveries: Deliveries, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            found += await deliveries.receive(count - len(found))
    return found


async def handle(deliveries: Deliveries, count: int) -> list[str]:
    """Take and ack so many; their ids."""
    found: list[str] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            for delivery in await deliveries.receive(count - len(found)):
                found.append(delivery.message.id)
                delivery.ack()
    return found


async def no_lag(subscriber: Subscriber, topic: str) -> None:
    async with asyncio.timeout(10):
        while await subscriber.lag(topic):  # noqa: ASYNC110 - a broker does it
            await asyncio.sleep(0.05)


@pytest.mark.fault("KFK-01")
@pytest.mark.stress
async def test_a_handler_longer_than_the_longest_poll(kafka: Kafka, topic: str) -> None:
    """With ``max.poll.interval.ms`` of 6 s a message is held for 20: nobody else gets it.

    2.5 and 4 in a short run. Meanwhile more messages wait than there is room for, so that
    partitions are paused.
    """
    longest, seconds = (6_000, 20) if STRESS else (2_500, 4)
    options = {"properties": {"max.poll.interval.ms": longest}}
    count = 3_000
    async with broker_at(kafka.address, **options) as one, broker_at(kafka.address) as other:
        publisher = one.publisher()
        messages = [Message(str(n).encode()) for n in range(count)]
        await publisher.publish(topic, *messages)
        async with one.subscriber(group="slow").subscribe(topic, max_in_flight=1) as deliveries:
            (held,) = await take(deliveries, 1)
            await asyncio.sleep(seconds)
            assert held.ack()
            await held.settled()
        seen = [held.message.id]
        async with other.subscriber(group="slow").subscribe(topic) as others:
            seen += await handle(others, count - 1)
    assert sorted(seen) == sorted(message.id for message in messages)


async def test_a_reader_that_stands_still_gets_everything_once(kafka: Kafka, topic: str) -> None:
    """Longer than partitions stay unpaused; then they go on where they were."""
    count = 5_000
    async with broker_at(kafka.address) as broker:
        messages = [Message(str(n).encode(), key=str(n % 9)) for n in range(count)]
        await broker.publisher().publish(topic, *messages)
        seen: list[str] = []
        async with broker.subscriber(group="still").subscribe(topic) as deliveries:
            for part in (100, 2_500):
                seen += await handle(deliveries, part)
                deliveries.pause()
                await asyncio.sleep(1.5)
                deliveries.resume()
            seen += await handle(deliveries, count - 2_600)
    assert len(seen) == count
    assert set(seen) == {message.id for message in messages}


@pytest.mark.fault("KFK-12")
async def test_a_loop_that_is_blocked_for_longer_than_its_session(kafka: Kafka, topic: str) -> None:
    """The client library goes on saying that it lives: nothing comes twice."""
    async with broker_at(kafka.address, session_timeout=1.0) as broker:
        await broker.publisher().publish(topic, *(Message(b"x") for _ in range(100)))
        async with broker.subscriber(group="blocked").subscribe(topic) as deliveries:
            held = await take(deliveries, 100)
            time.sleep(3)  # noqa: ASYNC251 - the subject
            assert all(delivery.ack() for delivery in held)
            for delivery in held:
                await delivery.settled()
        assert await broker.subscriber(group="blocked").lag(topic) == 0


@pytest.mark.stress
async def test_a_partition_that_is_new(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found within 15 s, by a group and by a broadcast, with what was published to it before.

    Both look every 10 s; in a short run every 2 s.
    """
    interval = "topic.metadata.refresh.interval.ms"
    assert Settings(("localhost",)).consumer("g")[interval] == 10_000
    assert _consumer.LOOK_S == 10
    options: dict[str, Any] = {}
    if not STRESS:
        monkeypatch.setattr(_consumer, "LOOK_S", 2.0)
        options = {"properties": {interval: 2_000}}
    async with broker_at(kafka.address, **options) as broker:
        group = broker.subscriber(group="grows").subscribe(topic)
        alone = broker.subscriber(group=Broadcast()).subscribe(topic)
        async with group as one, alone as other:
            kafka.add_partitions(topic, 8)
            began = time.monotonic()
            async with broker_at(kafka.address) as writer:
                await until(lambda: kafka.partitions(topic) == 8, "the partitions are there")
                messages = [Message(b"x", key=str(n)) for n in range(200)]
                await writer.publisher().publish(topic, *messages)
            for deliveries in (one, other):
                came = await take(deliveries, 200)
                assert len({d.coordinates["partition"] for d in came}) == 8
                assert len({d.message.id for d in came}) == 200
            assert time.monotonic() - began < (20 if STRESS else 12)


@pytest.mark.fault("KFK-11")
@pytest.mark.stress
async def test_a_broker_that_stands_still(kafka: Kafka, topic: str) -> None:
    """Frozen for longer than the session (45 s in a stress run): nothing lost, and it goes on."""
    seconds = 45 if STRESS else 3
    async with broker_at(kafka.address) as broker:
        publisher = broker.publisher()
        messages = [Message(str(n).encode()) for n in range(400)]
        await publisher.publish(topic, *messages[:200])
        seen: set[str] = set()
        async with broker.subscriber(group="frozen").subscribe(topic) as deliveries:

            async def read() -> None:
                async for delivery in deliveries:
                    seen.add(delivery.message.id)
                    delivery.ack()

            reading = asyncio.create_task(read())
            await until(lambda: len(seen) > 50, "some have come")
            kafka.freeze()
            try:
                await asyncio.sleep(seconds)
            finally:
                kafka.thaw()
            await publisher.publish(topic, *messages[200:])
            await until(lambda: len(seen) == 400, "all have come", within=60)
        await reading
        assert await broker.subscriber(group="frozen").lag(topic) == 0


@pytest.mark.fault("KFK-09")
@pytest.mark.stress
async def test_a_broker_that_is_away(proxied_kafka: Kafka) -> None:
    """For 90 s (3 s in a short run): 30 s after it is back, both members get messages again."""
    kafka = proxied_kafka  # it has few topics, and so is there again sooner
    topic = kafka.create_topic(f"away.{uuid.uuid4().hex[:12]}")
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(broker_at(kafka.address)) for _ in range(2)]
        seen: list[Counter[str]] = [Counter(), Counter()]

        async def read(number: int) -> None:
            async with brokers[number].subscriber(group="away").subscribe(topic) as deliveries:
                async for delivery in deliveries:
                    delivery.ack()
                    seen[number][delivery.message.id] += 1

        reading = [asyncio.create_task(read(number)) for number in range(2)]
        published: set[str] = set()

        async def reaches_both(within: float) -> None:
            """Until each of them got something of what is published from now on."""
            began, before = time.monotonic(), [seen[0].total(), seen[1].total()]
            while not all(c.total() > n for c, n in zip(seen, before, strict=True)):
                assert time.monotonic() < began + within
                messages = [Message(b"x", key=str(n)) for n in range(20)]
                await brokers[0].publisher().publish(topic, *messages)
                published.update(message.id for message in messages)
                await asyncio.sleep(0.05)

        await reaches_both(30)
        kafka.kill()
        await asyncio.sleep(90 if STRESS else 3)
        await kafka.start_again(within=60)
        await reaches_both(30)
        await until(lambda: {*seen[0], *seen[1]} == published, "all have come")
        assert not any(task.done() for task in reading)
        await no_lag(brokers[0].subscriber(group="away"), topic)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


@pytest.mark.fault("ACK-08")
@pytest.mark.stress
async def test_a_handler_that_keeps_the_processor_busy(kafka: Kafka, topic: str) -> None:
    """For 90 s (4 s in a short run, twice its session): nobody else gets its message.

    It is handled once, and so are the others, which go on meanwhile, also to this process.
    """
    seconds = 90 if STRESS else 4
    handled: Counter[str] = Counter()
    reached: set[KafkaBroker] = set()
    begun: list[str] = []
    kafka.create_topic(f"{topic}.dead_letter", partitions=1)

    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(broker_at(kafka.address)) for _ in range(2)]
        for broker in brokers:

            def handle(message: Message, broker: KafkaBroker = broker) -> None:
                reached.add(broker)
                if message.payload == b"busy":
                    begun.append(message.id)
                    until = time.monotonic() + seconds
                    while time.monotonic() < until:
                        sum(range(1_000))
                handled[message.id] += 1

            router = Router()
            router.add_handler(
                "work",
                topic,
                handle,
                subscriber=broker.subscriber(group="busy"),
                concurrency=8,
                timeout=None,
            )
            await stack.enter_async_context(router)
        publisher = brokers[0].publisher()
        published: set[str] = set()

        async def publish(*messages: Message) -> None:
            await publisher.publish(topic, *messages)
            published.update(message.id for message in messages)

        async with asyncio.timeout(30):
            while len(reached) < 2:
                await publish(*(Message(b"x", key=str(n)) for n in range(20)))
                await asyncio.sleep(0.05)
        busy = Message(b"busy", key="busy")
        await publish(busy)
        began = time.monotonic()
        while not handled[busy.id]:
            await publish(*(Message(b"x", key=str(n)) for n in range(20)))
            await asyncio.sleep(0.2)
            # What is not behind it does not wait for it.
            await until(lambda: len(published - {*handled}) <= 1, "the others", within=10)
            assert time.monotonic() < began + seconds + 10
        assert begun == [busy.id]
        await no_lag(brokers[0].subscriber(group="busy"), topic)
    assert {*handled} == published
    assert handled.total() == len(published)


async def test_leaving_while_the_broker_stands_still(
    kafka: Kafka, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A subscription, then the broker: within 5 s each; what was not told comes again."""
    async with broker_at(kafka.address) as broker:
        await broker.publisher().publish(topic, *(Message(b"x") for _ in range(10)))
        subscription = broker.subscriber(group="hangs").subscribe(topic)
        held = await take(await subscription.__aenter__(), 10)
        kafka.freeze()
        try:
            assert held[0].ack()
            began = time.monotonic()
            await subscription.__aexit__(None, None, None)
            assert time.monotonic() - began < 5
            began = time.monotonic()
            await broker.__aexit__(None, None, None)
            assert time.monotonic() - began < 5
        finally:
            kafka.thaw()
    assert held[0].error is not None
    assert "consumer_abandoned" in caplog.text
    async with (
        broker_at(kafka.address) as broker,
        broker.subscriber(group="hangs").subscribe(topic) as deliveries,
    ):
        # The ack may have got there after all.
        missing = {d.message.id for d in held[1:]}
        while missing:
            missing -= set(await handle(deliveries, 1))


async def test_health_while_the_broker_stands_still(
    kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lag as the broker has it; a member that its group has lost is not ready until it is back."""
    monkeypatch.setattr(_feed, "LOST_S", 0.0)
    options = {"session_timeout": 1.5, "revoke_timeout": 0.5}
    gate = asyncio.Event()

    async def handle(message: Message) -> None:
        await gate.wait()

    router = Router()
    kafka.create_topic(f"{topic}.dead_letter")
    async with broker_at(kafka.address, **options) as broker:
        subscriber = broker.subscriber(group="health")
        router.add_handler("waits", topic, handle, subscriber=subscriber, max_in_flight=10)
        async with router:
            await broker.publisher().publish(topic, *(Message(b"x") for _ in range(50)))

            def lag() -> int | None:
                return router.health().handlers[0].lag

            await until(lambda: lag() == 50, "the lag is known")
            assert router.is_ready
            kafka.freeze()
            try:
                await until(lambda: not router.is_ready, "it is not ready")
                (health,) = router.health().handlers
                assert health.state == "reconnecting"
                assert "its group" in health.reason
            finally:
                kafka.thaw()
            await until(lambda: router.is_ready, "it is ready again")
            gate.set()
            await until(lambda: lag() == 0, "all is done")
        assert await subscriber.lag(topic) == 0
