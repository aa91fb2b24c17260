"""Delayed messages and delayed retries on a real Kafka: when they come, and with what."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin
import pytest
from confluent_kafka import Producer

from eventflow import Event, FailurePolicy, Retry, current
from eventflow.brokers.kafka import _forwarder, _ladder, _waiting
from eventflow.brokers.kafka._ladder import (
    DELAYS,
    STAMP,
    STEPS,
    Stamp,
    retry_group,
    retry_topic,
)
from eventflow.brokers.kafka._progress import Note
from eventflow.errors import BrokerError, InvalidTopicError, TopicNotFoundError
from eventflow.messaging import Broadcast, BrokerEventPublisher, Message, Router, ladder
from eventflow.messaging.metadata import DELAYED_UNTIL, delay_metadata, format_time
from tests.brokers.kafka.support import broker_at, committed, records, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.brokers.kafka import KafkaBroker
    from eventflow.messaging import Deliveries, Delivery
    from tests.servers.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

SLACK_S = 5.0
"""What a loaded machine may take beyond the second that is promised of an idle one."""


class Place:
    """A topic and a group that nobody else has."""

    def __init__(self, kafka: Kafka) -> None:
        name = uuid.uuid4().hex[:12]
        self.kafka = kafka
        self.topic = kafka.create_topic(f"delays.{name}")
        self.group = f"g-{name}"
        self.retries = retry_topic(self.topic, self.group)

    def broker(self, **options: Any) -> KafkaBroker:
        return broker_at(self.kafka.address, delays=True, **options)

    async def prepare(self, **options: Any) -> None:
        async with self.broker() as broker:
            await broker.ensure_topics(self.topic, self.retries, **options)


@pytest.fixture
async def place(kafka: Kafka) -> Place:
    found = Place(kafka)
    await found.prepare()
    return found


async def received(deliveries: Deliveries, count: int, within: float = 30) -> Sequence[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(within):
        while len(found) < count:
            found += await deliveries.receive(count - len(found))
    return found


@pytest.mark.fault("RTR-09")
async def test_a_delayed_retry_outlives_its_process(place: Place) -> None:
    """Never early, at most a second late; and all that it had it has still, counts as well."""
    message = Message(b"\xff\x00body", {"some": "thing"}, key="k", headers=(("bin", b"\xff"),))
    async with place.broker() as broker:
        subscriber = broker.subscriber(group=place.group)
        async with subscriber.subscribe(place.topic) as deliveries:
            await broker.publisher().publish(place.topic, message)
            (first,) = await received(deliveries, 1)
            nacked = time.time()
            assert first.nack(delay=1.5, failures=3)
            await first.settled()
        assert await subscriber.lag(place.topic) == 1
    async with place.broker() as broker:
        subscriber = broker.subscriber(group=place.group)
        async with subscriber.subscribe(place.topic) as deliveries:
            (again,) = await received(deliveries, 1)
            waited = time.time() - nacked
            assert 1.5 <= waited < 2.5 + SLACK_S
            assert (again.failures, again.deliveries, again.topic) == (3, 2, place.topic)
            assert again.message == first.message == message
            assert again.headers == first.headers
            # Into the same step, with what was counted since.
            assert again.nack(delay=0.5, failures=4)
            (third,) = await received(deliveries, 1)
            assert (third.failures, third.deliveries) == (4, 3)
            assert third.release()
            (fourth,) = await received(deliveries, 1)
            assert (fourth.failures, fourth.deliveries) == (4, 3)
            fourth.ack()
            await fourth.settled()
        assert await subscriber.lag(place.topic) == 0
    assert committed(place.kafka, place.topic, place.group)
    waited_in = {
        record.partition() for record in records(place.kafka, place.retries, partitions=STEPS)
    }
    assert waited_in == {ladder.step_for(1.5), 0}


async def test_a_delayed_message_outlives_its_publisher(place: Place) -> None:
    """Whoever has delays set hands it on, to all groups, also those without."""
    async with place.broker() as broker:
        metadata = delay_metadata(1.5, now=datetime.now(UTC))
        due = datetime.fromisoformat(metadata[DELAYED_UNTIL]).timestamp()
        await broker.publisher().publish(
            place.topic, Message(b"later", metadata, key="k"), Message(b"now")
        )
    plain = broker_at(place.kafka.address)
    group = plain.subscriber(group="plain")
    async with plain, group.subscribe(place.topic) as deliveries:
        (first,) = await received(deliveries, 1)
        assert first.message.payload == b"now"
        async with place.broker():
            (second,) = await received(deliveries, 1)
            assert due <= time.time() < due + 1 + SLACK_S
        assert (second.message.payload, second.message.key) == (b"later", "k")
        assert second.message.metadata == metadata
    assert STAMP not in {
        name for record in records(place.kafka, place.topic) for name, _ in record.headers()
    }


async def test_a_router_lets_others_pass(place: Place) -> None:
    """Relaxed: what fails waits in Kafka, with its failures, and ends as a dead letter."""
    began: list[tuple[int, float]] = []
    done = asyncio.Event()

    class Placed(Event, topic=place.topic):
        n: int

    async def handler(event: Placed) -> None:
        began.append((event.n, time.time()))
        if event.n == 0:
            raise ValueError("not yet")
        if {n for n, _ in began} == {*range(10)}:
            done.set()

    router = Router(on_failure=FailurePolicy(retry=Retry(attempts=3, initial=1.0, jitter=0.0)))
    async with place.broker() as broker:
        router.add_handler(
            "jobs",
            Placed,
            handler,
            subscriber=broker.subscriber(group=place.group),
            order="relaxed",
            concurrency=1,
        )
        assert place.retries in router.topics
        await broker.ensure_topics(*router.topics, partitions=1)
        async with router:
            publisher = BrokerEventPublisher(broker.publisher())
            await publisher.publish(Placed(n=0))
            await until(lambda: bool(began), "the first one has failed")
            for n in range(1, 10):
                await publisher.publish(Placed(n=n))
            async with asyncio.timeout(30):
                await done.wait()
            await until(lambda: router.ledger["jobs"].dead_lettered == 1, "no dead letter")
            starts = [at for n, at in began if n == 0]
            assert len(starts) == 3
            assert max(at for n, at in began if n) < starts[2]
            assert starts[1] - starts[0] >= 1
            assert starts[2] - starts[1] >= 2
    (letter,) = records(place.kafka, f"{place.topic}.dead_letter", partitions=1)
    headers = dict(letter.headers())
    assert headers["topic_poisoned"].decode() == place.topic
    assert headers["eventflow_attempts"] == b"3"
    assert STAMP not in headers


async def test_many_wait_and_none_is_early(place: Place) -> None:
    """More of a step than are kept in the process, in two processes of a group."""
    count = 4 * _waiting.MOST
    came: Counter[bytes] = Counter()
    dues: dict[bytes, float] = {}

    async def read(deliveries: Deliveries) -> None:
        async for delivery in deliveries:
            if delivery.deliveries == 1:
                n = int(delivery.message.payload)
                dues[delivery.message.payload] = time.time() + 2 + n / count
                delivery.nack(delay=2 + n / count)
                continue
            assert time.time() >= dues[delivery.message.payload]
            came[delivery.message.payload] += 1
            delivery.ack()

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        readers: list[asyncio.Task[None]] = []
        brokers = [await stack.enter_async_context(place.broker()) for _ in range(2)]
        for broker in brokers:
            subscriber = broker.subscriber(group=place.group)
            deliveries = await stack.enter_async_context(subscriber.subscribe(place.topic))
            readers.append(group.create_task(read(deliveries)))
        messages = [Message(str(n).encode()) for n in range(count)]
        await brokers[0].publisher().publish(place.topic, *messages)
        await until(lambda: len(came) == count, "some are missing", within=60)
        async with asyncio.timeout(30):
            while await brokers[0].subscriber(group=place.group).lag(place.topic):  # noqa: ASYNC110 - a broker does it
                await asyncio.sleep(0.05)
        for reader in readers:
            reader.cancel()
    assert set(came.values()) == {1}


async def test_a_wait_that_is_longer_than_any_step(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes over steps, one after another, and is not handed out between them."""
    short = (1,) * STEPS
    for module in (ladder, _ladder, _waiting):
        monkeypatch.setattr(module, "LADDER_S", short)
    async with place.broker() as broker:
        subscriber = broker.subscriber(group=place.group)
        async with subscriber.subscribe(place.topic) as deliveries:
            await broker.publisher().publish(place.topic, Message(b"x"))
            (first,) = await received(deliveries, 1)
            nacked = time.time()
            first.nack(delay=3.0, failures=1)
            (again,) = await received(deliveries, 1)
            assert time.time() - nacked >= 3.0
            assert (again.failures, again.deliveries) == (1, 2)
            assert deliveries.lag is not None
            again.ack()
            await again.settled()
        assert await subscriber.lag(place.topic) == 0
    # As many records as there were steps to go over.
    assert len(records(place.kafka, place.retries, partitions=STEPS)) >= 3


async def test_what_a_publisher_writes_is_not_believed(place: Place) -> None:
    """A stamp means nothing in a topic that others write; and in ours, what is none is due."""
    forged = f"9{'0' * 13} 9{'0' * 13} 99 99 elsewhere"
    outside = Producer({"bootstrap.servers": place.kafka.address})
    outside.produce(place.retries, b"stray", partition=3)
    elsewhere = Stamp(0, 0, Note(5, 4), "elsewhere").header()
    outside.produce(place.retries, b"to be led astray", partition=4, headers=[elsewhere])
    outside.flush(30)
    broker = place.broker()
    group = broker.subscriber(group=place.group)
    async with broker, group.subscribe(place.topic) as deliveries:
        await broker.publisher().publish(place.topic, Message(b"forged", {STAMP: forged}))
        found = {d.message.payload: d for d in await received(deliveries, 3)}
        forgery = found[b"forged"]
        assert (forgery.failures, forgery.deliveries, forgery.topic) == (0, 1, place.topic)
        assert forgery.message.metadata == {STAMP: forged}
        assert {delivery.topic for delivery in found.values()} == {place.topic}
        assert found[b"to be led astray"].failures == 4
        assert found[b"stray"].coordinates["topic"] == place.retries
        forgery.nack(delay=0.2, failures=1)
        (again,) = await received(deliveries, 1)
        assert (again.failures, again.deliveries) == (1, 2)
        assert again.message.metadata == {STAMP: forged}


async def test_what_nobody_can_read_holds_up_nobody(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.broker() as broker:
        outside = Producer({"bootstrap.servers": place.kafka.address})
        outside.produce(DELAYS, b"stray", partition=0)
        outside.flush(30)
        await until(lambda: "eventflow.delay_unreadable" in caplog.text, "it is not reported")
        async with broker.subscriber(group=place.group).subscribe(place.topic) as deliveries:
            await broker.publisher().publish(place.topic, later(b"later"))
            (delayed,) = await received(deliveries, 1)
            delayed.ack()


async def test_what_is_missing_is_said_at_the_start(kafka: Kafka) -> None:
    place = Place(kafka)
    async with place.broker() as broker:
        subscriber = broker.subscriber(group=place.group)
        with pytest.raises(TopicNotFoundError, match=place.retries):
            await subscriber.prepare(place.topic)
        kafka.create_topic(place.retries, partitions=4)
        with pytest.raises(BrokerError, match="has 4 partitions and needs 16"):
            async with subscriber.subscribe(place.topic):
                pytest.fail("subscribed")
        assert not broker.feeds
        alone = broker.subscriber(group=Broadcast())
        assert alone.required_topics(place.topic) == (place.topic,)
        assert not alone.features.nack_delay


async def test_what_cannot_be_stored_waits_in_the_process(
    kafka: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    """Too large for the topic where it would wait: it comes again, and not before it is due."""
    place = Place(kafka)
    await place.prepare()
    async with place.broker() as broker:
        async with broker.subscriber(group=place.group).subscribe(place.topic) as deliveries:
            alter(kafka, place.retries, "300")
            await broker.publisher().publish(place.topic, Message(b"x" * 500), Message(b"small"))
            by_size = {len(d.message.payload): d for d in await received(deliveries, 2)}
            large, small = by_size[500], by_size[5]
            nacked = time.time()
            large.nack(delay=1.5, failures=2)
            small.ack()
            (again,) = await received(deliveries, 1)
            assert time.time() - nacked >= 1.5
            assert (again.failures, again.deliveries) == (2, 2)
            assert "eventflow.message_not_postponed" in caplog.text
            # A stop does not wait for it.
            again.nack(delay=3_600)
            before = caplog.text.count("eventflow.message_not_postponed")
            await until(
                lambda: caplog.text.count("eventflow.message_not_postponed") > before, "stored"
            )
            left = time.monotonic()
        assert time.monotonic() - left < 10
        alter(kafka, place.retries, "1048588")
        async with broker.subscriber(group=place.group).subscribe(place.topic) as deliveries:
            (last,) = await received(deliveries, 1)
            assert len(last.message.payload) == 500
            last.ack()


def alter(kafka: Kafka, topic: str, limit: str) -> None:
    """Have a topic take smaller records from now on."""
    library: Any = confluent_kafka.admin
    client = library.AdminClient({"bootstrap.servers": kafka.address})
    entry = library.ConfigEntry(
        "max.message.bytes",
        limit,
        incremental_operation=library.AlterConfigOpType.SET,
    )
    resource = library.ConfigResource(
        library.ResourceType.TOPIC, topic, incremental_configs=[entry]
    )
    client.incremental_alter_configs([resource])[resource].result(30)


async def test_a_neighbour_gets_what_could_not_be_stored(kafka: Kafka) -> None:
    """Its member has left: nobody waits for what waits in the process for that."""
    place = Place(kafka)
    await place.prepare()
    async with place.broker() as broker, AsyncExitStack() as stack:
        subscriber = broker.subscriber(group=place.group)
        stays = await stack.enter_async_context(subscriber.subscribe(place.topic))
        async with subscriber.subscribe(place.topic) as leaves:
            alter(kafka, place.retries, "300")
            stays.pause()
            messages = [Message(bytes(size), key="k") for size in (500, 5)]
            await broker.publisher().publish(place.topic, *messages)
            first, second = await received(leaves, 2)
            first.nack(delay=3_600)
            second.release()
            await until(
                lambda: (
                    not any(f.is_postponing for f in broker.feeds.values())
                    or any(
                        isinstance(h, asyncio.TimerHandle)
                        for f in broker.feeds.values()
                        for h in f._postponing.under_way.values()  # type: ignore[union-attr]
                    )
                ),
                "it is not refused",
            )
        stays.resume()
        again = await received(stays, 2)
        assert {len(delivery.message.payload) for delivery in again} == {500, 5}
        for delivery in again:
            delivery.ack()


def later(payload: bytes) -> Message:
    """One that is due in a second."""
    return Message(payload, delay_metadata(1, now=datetime.now(UTC)))


async def test_one_that_cannot_be_handed_on_holds_up_no_other(
    kafka: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the same topic, nor of others; however often it has failed."""
    small, other, gone = Place(kafka), Place(kafka), Place(kafka)
    async with small.broker() as broker:
        small.topic += ".small"
        await broker.ensure_topics(small.topic, properties={"max.message.bytes": "1000"})
    outside = Producer({"bootstrap.servers": kafka.address})
    now = round(time.time() * 1_000)
    failed = Stamp(now, now, Note(0, 100_000), gone.topic).header()
    outside.produce(DELAYS, b"for nobody", partition=1, headers=[failed])
    outside.flush(30)
    admin: Any = confluent_kafka.admin.AdminClient({"bootstrap.servers": kafka.address})
    async with small.broker(publish_timeout=20.0) as broker:
        publisher = broker.publisher()
        await publisher.publish(gone.topic, later(b"gone"))
        admin.delete_topics([gone.topic])[gone.topic].result(30)
        messages = [later(bytes(size)) for size in (5, 3_000, 6, 7)]
        await publisher.publish(small.topic, *messages)
        await publisher.publish(other.topic, later(b"other"))
        plain = broker_at(kafka.address)
        of_other = plain.subscriber(group=other.group).subscribe(other.topic)
        of_small = plain.subscriber(group=small.group).subscribe(small.topic)
        async with plain, of_other as others, of_small as smalls:
            # Well within the time that publishing to the one that is gone takes.
            (one,) = await received(others, 1, within=15)
            assert one.message.payload == b"other"
            three = await received(smalls, 3, within=15)
            assert {len(delivery.message.payload) for delivery in three} == {5, 6, 7}
    assert "eventflow.delayed_not_forwarded" in caplog.text


async def test_delays_that_stand_still_are_not_ready(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise BrokerError("too few")

    monkeypatch.setattr(_forwarder, "check_steps", refuse)
    broker = place.broker()
    group = broker.subscriber(group=place.group)
    async with broker, group.subscribe(place.topic) as deliveries:
        await until(lambda: deliveries.problem != "", "nothing is said")
        assert deliveries.problem == "delayed messages stand still: too few"


async def test_topics_where_messages_wait_stay_as_they_have_to_be(kafka: Kafka) -> None:
    """Whatever the others are made with; and without delays a name means nothing."""
    place = Place(kafka)
    await place.prepare(properties={"cleanup.policy": "compact", "retention.ms": "60000"})
    library: Any = confluent_kafka.admin
    client = library.AdminClient({"bootstrap.servers": kafka.address})
    resource = library.ConfigResource(library.ResourceType.TOPIC, place.retries)
    found = client.describe_configs([resource])[resource].result(30)
    assert found["cleanup.policy"].value == "delete"
    assert int(found["retention.ms"].value) == 7 * 24 * 3_600 * 1_000
    async with broker_at(kafka.address) as broker:
        await broker.ensure_topics(f"{place.topic}.x.retries", partitions=3)
        assert await broker.look_up(f"{place.topic}.x.retries") == 3
    async with place.broker() as broker:
        with pytest.raises(InvalidTopicError, match="where delayed messages wait"):
            await broker.publisher().publish(DELAYS, Message(b"x"))
        assert await broker.subscriber(group=DELAYS).lag(DELAYS) >= 0


async def test_a_delayed_message_whose_topic_is_gone_waits_for_it(
    kafka: Kafka, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported, holds up no other, and comes once the topic is there again."""
    monkeypatch.setattr(_forwarder, "LONGEST_S", 2.0)
    gone, stays = Place(kafka), Place(kafka)
    await stays.prepare()
    async with stays.broker(publish_timeout=2.0) as broker:
        publisher = broker.publisher()
        await publisher.publish(gone.topic, later(b"gone"))
        admin: Any = confluent_kafka.admin.AdminClient({"bootstrap.servers": kafka.address})
        admin.delete_topics([gone.topic])[gone.topic].result(30)
        await publisher.publish(stays.topic, later(b"stays"))
        async with broker.subscriber(group=stays.group).subscribe(stays.topic) as deliveries:
            (other,) = await received(deliveries, 1)
            assert other.message.payload == b"stays"
        await until(lambda: "eventflow.delayed_not_forwarded" in caplog.text, "not reported")
        await gone.prepare(partitions=4)
        async with broker.subscriber(group=gone.group).subscribe(gone.topic) as deliveries:
            (late,) = await received(deliveries, 1, within=60)
            assert late.message.payload == b"gone"


async def test_a_delay_that_is_over_is_none(place: Place) -> None:
    """Published as any other message: nothing waits, and no topic for delays is needed."""
    async with place.broker() as broker:
        past = {DELAYED_UNTIL: format_time(datetime(2020, 1, 1, tzinfo=UTC))}
        await broker.publisher().publish(
            place.topic, Message(b"x", past), Message(b"y", {DELAYED_UNTIL: "?"})
        )
    assert len(records(place.kafka, place.topic)) == 2


async def test_a_member_leaves_while_others_stay(place: Place) -> None:
    """What it put off is not handed to its neighbour at once."""
    async with place.broker() as broker, AsyncExitStack() as stack:
        subscriber = broker.subscriber(group=place.group)
        stays = await stack.enter_async_context(subscriber.subscribe(place.topic))
        async with subscriber.subscribe(place.topic) as leaves:
            stays.pause()
            await broker.publisher().publish(place.topic, Message(b"x"))
            (first,) = await received(leaves, 1)
            stays.resume()
            nacked = time.time()
            first.nack(delay=1.0)
        (again,) = await received(stays, 1)
        assert time.time() - nacked >= 1.0
        again.ack()
        await again.settled()
    assert committed(place.kafka, place.retries, retry_group(place.group), partitions=STEPS)


async def test_what_is_put_off_is_part_of_the_transaction(place: Place) -> None:
    """Once where it waits, and once in what comes of it, by those who read what is committed."""
    count = 40
    topic = place.topic
    handled: Counter[bytes] = Counter()

    async def handler(message: Message) -> Message:
        handled[message.payload] += 1
        if int(message.payload) % 4 == 0 and current().attempt < 3:
            raise ValueError("not yet")
        return Message(b"of " + message.payload)

    retry = Retry(attempts=5, initial=1.0, multiplier=1, jitter=0.0)
    router = Router(on_failure=FailurePolicy(retry=retry))
    async with place.broker() as broker:
        subscriber = broker.subscriber(group=place.group, transactional=True)
        router.add_handler(
            "exact",
            topic,
            handler,
            subscriber=subscriber,
            publisher=subscriber.publisher(),
            publish_topic=f"{topic}.out",
            order="relaxed",
            concurrency=8,
        )
        await broker.ensure_topics(*router.topics, partitions=4)
        async with router:
            messages = [Message(str(n).encode()) for n in range(count)]
            await broker.publisher().publish(topic, *messages)
            await until(lambda: router.ledger["exact"].handled == count, "some are missing")
            places = (topic, place.group), (place.retries, f"{place.group}.retries")
            async with asyncio.timeout(30):
                for where in places:
                    while await asyncio.to_thread(open_of, place.kafka, *where):
                        pass
    outputs = Counter(record.value() for record in records(place.kafka, f"{topic}.out"))
    assert outputs == {b"of " + str(n).encode(): 1 for n in range(count)}
    waited = Counter(r.value() for r in records(place.kafka, place.retries, partitions=STEPS))
    assert waited == {str(n).encode(): 2 for n in range(0, count, 4)}
    assert not any(name == STAMP for r in records(place.kafka, topic) for name, _ in r.headers())


def open_of(kafka: Kafka, topic: str, group: str) -> int:
    """How many records of a topic a group has not done, by a client of its own."""
    partitions = STEPS if topic.endswith(".retries") else 4
    places = committed(kafka, topic, group, partitions=partitions)
    done = {n: offset for n, (offset, _) in places.items()}
    return sum(
        record.offset() >= done[record.partition()]
        for record in records(kafka, topic, partitions=partitions)
    )
