"""What may be published inside a transaction, and what becomes of what the broker refuses."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin
import pytest

from eventflow import Event, EventBus
from eventflow.brokers.kafka import KafkaBroker
from eventflow.errors import (
    InvalidMessageError,
    InvalidOptionError,
    MessageTooLargeError,
    OutsideTransactionError,
    Permanent,
    TopicNotFoundError,
)
from eventflow.failure import CallOnFailure, FailurePolicy, Log, Retry
from eventflow.messaging import (
    Batch,
    Bridge,
    Broadcast,
    BrokerEventPublisher,
    Message,
    Router,
)
from tests.brokers.kafka.support import broker_at, committed, records, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from eventflow.brokers.kafka import KafkaSubscriber
    from tests.servers.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

_library: Any = confluent_kafka.admin
ONCE = FailurePolicy(retry=Retry(attempts=2, initial=0.01), then=Log())


@pytest.fixture
def topic(kafka: Kafka) -> str:
    name = kafka.create_topic(f"outputs.{uuid.uuid4().hex[:12]}", partitions=1)
    for more in (".out", ".dead_letter"):
        kafka.create_topic(name + more, partitions=1)
    return name


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def handling(
    kafka: Kafka, topic: str, group: str, handler: Callable[..., Any], **options: Any
) -> AsyncGenerator[tuple[KafkaBroker, KafkaSubscriber]]:
    """A router with one transactional handler of the topic's messages."""
    async with broker_at(kafka.address) as broker:
        subscriber = broker.subscriber(group=group, transactional=True)
        router = Router()
        publisher = subscriber.publisher()

        async def handle(message: Message) -> Any:
            return await handler(publisher, message)

        router.add_handler("work", topic, handle, subscriber=subscriber, **options)
        async with router:
            yield broker, subscriber


async def done(subscriber: KafkaSubscriber, topic: str) -> None:
    """Until nothing waits for its group."""
    async with asyncio.timeout(40):
        while await subscriber.lag(topic):  # noqa: ASYNC110 - a broker does it
            await asyncio.sleep(0.02)


def stored(kafka: Kafka, topic: str) -> list[bytes]:
    return [record.value() for record in records(kafka, topic, partitions=1)]


async def test_nothing_is_stored_before_the_ack(kafka: Kafka, topic: str, group: str) -> None:
    """A publish returns at once; a reader sees it, as it was sent, when its message is acked."""
    published, go_on = asyncio.Event(), asyncio.Event()

    async def handle(publisher: Any, message: Message) -> None:
        await publisher.publish(f"{topic}.out", message.copy(metadata={"a": "ż"}), Message(b"2"))
        published.set()
        await go_on.wait()

    async with handling(kafka, topic, group, handle) as (broker, subscriber):
        sent = Message(b"1", key="k")
        await broker.publisher().publish(topic, sent)
        await published.wait()
        assert stored(kafka, f"{topic}.out") == []
        go_on.set()
        await done(subscriber, topic)
        first, second = records(kafka, f"{topic}.out", partitions=1)
    assert (first.key(), first.value(), second.value()) == (b"k", b"1", b"2")
    assert dict(first.headers()) == {"_watermill_message_uuid": sent.id.encode(), "a": "ż".encode()}


async def test_a_leftover_of_a_failed_attempt(kafka: Kafka, topic: str, group: str) -> None:
    """A task that the attempt has left behind can't publish any more: neither can one after it."""
    refused: list[BaseException | None] = []
    release, attempts = asyncio.Event(), 0
    leftovers: list[asyncio.Task[None]] = []

    async def handle(publisher: Any, message: Message) -> None:
        nonlocal attempts
        attempts += 1
        await publisher.publish(f"{topic}.out", Message(b"%d" % attempts))

        async def later() -> None:
            await release.wait()
            await publisher.publish(f"{topic}.out", Message(b"late"))

        leftovers.append(asyncio.create_task(later()))
        if attempts == 1:
            raise ValueError
        release.set()
        (ended,), _ = await asyncio.wait(leftovers[:1])
        refused.append(ended.exception())

    async with handling(kafka, topic, group, handle, on_failure=ONCE) as (broker, subscriber):
        await broker.publisher().publish(topic, Message(b"x"))
        await done(subscriber, topic)
        await asyncio.wait(leftovers)
    (error,) = refused
    assert isinstance(error, OutsideTransactionError)
    assert "is over" in str(error)
    # What the second one has left behind may have been in time.
    assert stored(kafka, f"{topic}.out") in ([b"2"], [b"2", b"late"])


async def test_after_the_ack_it_is_too_late(kafka: Kafka, topic: str, group: str) -> None:
    """Also for the handler itself, where its message was acked by hand, nacked or given back."""
    refused: list[OutsideTransactionError] = []
    ends = ["ack", "nack", "release"]

    async def around(delivery: Any, call_next: Any) -> Any:
        end = ends.pop(0) if ends else "late"
        if end == "ack":
            delivery.ack()
        elif end != "late":
            await call_next(delivery)
            getattr(delivery, end)()
        return await call_next(delivery)

    async def handle(publisher: Any, message: Message) -> None:
        try:
            await publisher.publish(f"{topic}.out", Message(message.payload))
        except OutsideTransactionError as exc:
            refused.append(exc)

    options = {"middlewares": [around]}
    async with handling(kafka, topic, group, handle, **options) as (broker, subscriber):
        await broker.publisher().publish(topic, *(Message(b"%d" % n) for n in range(3)))
        await done(subscriber, topic)
        await until(lambda: len(refused) == 3, "three were too late")
    assert not ends
    assert sorted(stored(kafka, f"{topic}.out")) == [b"1", b"2"]
    assert all(error.not_stored and not error.retriable for error in refused)


async def test_outside_of_any_handler(kafka: Kafka, topic: str, group: str) -> None:
    """By itself, in a handler of somebody else, and of the bus: refused, with what to do."""
    async with broker_at(kafka.address) as broker, broker_at(kafka.address) as other:
        subscriber = broker.subscriber(group=group, transactional=True)
        publisher, refused = subscriber.publisher(), list[OutsideTransactionError]()

        async def publish(_: object) -> None:
            with pytest.raises(OutsideTransactionError) as caught:
                await publisher.publish(f"{topic}.out", Message(b"x"))
            refused.append(caught.value)

        await publish(None)
        bus, router = EventBus(), Router()

        class Heard(Event, topic=f"{topic}.heard"):
            n: int

        bus.subscribe(Heard, publish)
        await broker.ensure_topics(f"{topic}.heard", f"{topic}.heard.dead_letter")
        for name, of in (
            ("plain", broker.subscriber(group=f"{group}-plain")),
            ("other", broker.subscriber(group=f"{group}-other", transactional=True)),
            ("elsewhere", other.subscriber(group=group, transactional=True)),
        ):
            router.add_handler(name, topic, publish, subscriber=of)
        bridge = Bridge(subscriber, bus, events=[Heard])
        async with bus, router, bridge:
            await broker.publisher().publish(topic, Message(b"x"))
            await BrokerEventPublisher(broker.publisher()).publish(Heard(n=1))
            await until(lambda: len(refused) == 5, "five have tried")
    for error in refused:
        assert "broker.publisher()" in str(error)
        assert error.topic == f"{topic}.out"
        assert len(error.not_stored) == 1
    assert stored(kafka, f"{topic}.out") == []


async def test_what_the_publisher_itself_refuses(kafka: Kafka, topic: str, group: str) -> None:
    """A topic that is not there, what is too large, and what is no message: at once."""
    caught: list[type[Exception]] = []

    async def handle(publisher: Any, message: Message) -> None:
        for where, what in (
            ("nowhere", Message(b"x")),
            (f"{topic}.out", Message(b"x" * 1_000_001)),
            (f"{topic}.out", "x"),
        ):
            try:
                await publisher.publish(where, Message(b"before"), what)
            except Exception as exc:  # noqa: BLE001 - looked at below
                caught.append(type(exc))

    async with handling(kafka, topic, group, handle) as (broker, subscriber):
        await broker.publisher().publish(topic, Message(b"x"))
        await done(subscriber, topic)
    assert caught == [TopicNotFoundError, MessageTooLargeError, InvalidMessageError]
    assert stored(kafka, f"{topic}.out") == []


async def test_a_failure_callback_publishes_once(kafka: Kafka, topic: str, group: str) -> None:
    """What it published before it failed itself is dropped, as is the handler's."""
    called = 0
    async with broker_at(kafka.address) as broker:
        subscriber = broker.subscriber(group=group, transactional=True)
        publisher = subscriber.publisher()

        async def handle(message: Message) -> None:
            await publisher.publish(f"{topic}.out", Message(b"handler"))
            raise Permanent

        async def failed(message: Any, error: BaseException, attempts: int) -> None:
            nonlocal called
            called += 1
            await publisher.publish(f"{topic}.out", Message(b"callback %d" % called))
            if called == 1:
                raise ValueError

        router = Router()
        policy = FailurePolicy(then=CallOnFailure(failed))
        router.add_handler("work", topic, handle, subscriber=subscriber, on_failure=policy)
        async with router:
            await broker.publisher().publish(topic, Message(b"x"))
            await done(subscriber, topic)
    assert stored(kafka, f"{topic}.out") == [b"callback 2"]


async def test_a_stop_drops_what_was_not_acked(kafka: Kafka, topic: str, group: str) -> None:
    """A handler that is cut: its message comes again, and only then its output."""
    started = asyncio.Event()

    async with broker_at(kafka.address) as broker:
        subscriber = broker.subscriber(group=group, transactional=True)
        publisher, router = subscriber.publisher(), Router(drain_timeout=0.1)

        async def handle(message: Message) -> None:
            await publisher.publish(f"{topic}.out", Message(b"cut"))
            started.set()
            await asyncio.Event().wait()

        router.add_handler("work", topic, handle, subscriber=subscriber)
        async with router:
            await broker.publisher().publish(topic, Message(b"x"))
            await started.wait()
        assert stored(kafka, f"{topic}.out") == []
        assert await subscriber.lag(topic) == 1


def small(kafka: Kafka, topic: str) -> str:
    """A topic that takes no record of 2,000 bytes."""
    admin = _library.AdminClient({"bootstrap.servers": kafka.address})
    made = _library.NewTopic(topic, 1, 1, config={"max.message.bytes": "2000"})
    admin.create_topics([made])[topic].result(30)
    return topic


async def test_an_output_that_its_topic_does_not_take(
    kafka: Kafka, topic: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its message ends as a dead letter after ``max_deliveries``; all others go on.

    Also those whose outputs were sent in one batch with it.
    """
    out = small(kafka, f"{topic}.small")

    async def handle(publisher: Any, message: Message) -> None:
        size = 5_000 if message.payload in {b"7", b"8"} else 100
        await publisher.publish(out, Message(message.payload.ljust(size, b"."), key="k"))

    options = {"max_deliveries": 2, "concurrency": 40}
    async with handling(kafka, topic, group, handle, **options) as (broker, subscriber):
        await broker.publisher().publish(topic, *(Message(b"%d" % n) for n in range(40)))
        await done(subscriber, topic)
    found = sorted(int(value.rstrip(b".")) for value in stored(kafka, out))
    assert found == [n for n in range(40) if n not in {7, 8}]
    assert sorted(stored(kafka, f"{topic}.dead_letter")) == [b"7", b"8"]
    said = [text for text in caplog.messages if "eventflow.outputs_refused" in text]
    assert len(said) == 4
    assert all("MSG_SIZE_TOO_LARGE" in text for text in said)
    assert committed(kafka, topic, group, partitions=1)[0] == (40, "")


async def test_a_topic_of_outputs_is_deleted(kafka: Kafka, topic: str, group: str) -> None:
    """What can't be stored ends as dead letters, and the partition goes on."""
    first = asyncio.Event()

    async def handle(publisher: Any, message: Message) -> None:
        out = f"{topic}.out" if message.payload == b"out" else f"{topic}.gone"
        await publisher.publish(out, Message(message.payload))
        first.set()

    kafka.create_topic(f"{topic}.gone", partitions=1)
    options = {"max_deliveries": 1, "concurrency": 4}
    async with handling(kafka, topic, group, handle, **options) as (broker, subscriber):
        await broker.publisher().publish(topic, Message(b"gone"))
        await first.wait()
        await done(subscriber, topic)
        kafka.delete_topics(f"{topic}.gone")
        await broker.publisher().publish(topic, Message(b"gone"), Message(b"out"))
        await done(subscriber, topic)
    assert stored(kafka, f"{topic}.dead_letter") == [b"gone"]
    assert stored(kafka, f"{topic}.out") == [b"out"]


def test_what_can_not_be_transactional() -> None:
    """A broadcast, a batch, and readers of what was never committed."""
    broker = KafkaBroker("localhost")
    with pytest.raises(InvalidOptionError, match="keeps no place") as caught:
        broker.subscriber(group=Broadcast(), transactional=True)
    assert caught.value.option == "transactional"
    unread = KafkaBroker("localhost", properties={"isolation.level": "read_uncommitted"})
    assert not unread.subscriber(group="g").features.transactional
    with pytest.raises(InvalidOptionError, match=r"isolation\.level"):
        unread.subscriber(group="g", transactional=True)
    for name in ("transactional.id", "transaction.timeout.ms"):
        with pytest.raises(InvalidOptionError, match=name):
            KafkaBroker("localhost", properties={name: 1_000})

    async def several(batch: Batch[Message]) -> None:
        """Nothing."""

    subscriber = broker.subscriber(group="g", transactional=True)
    with pytest.raises(InvalidOptionError, match="one message at a time") as caught:
        Router().add_handler("x", "t", several, subscriber=subscriber, batch=10)
    assert caught.value.option == "batch"
    assert subscriber == broker.subscriber(group="g", transactional=True)
    assert subscriber != broker.subscriber(group="g")
    assert len({subscriber, broker.subscriber(group="g")}) == 2
