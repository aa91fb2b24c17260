"""Messages and events between Watermill and ours, over Kafka, both ways."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from eventflow import Event
from eventflow.context import EventContext, current
from eventflow.events import BigInt, event_name
from eventflow.failure import FailurePolicy
from eventflow.messaging import BrokerEventPublisher, Message, Router
from tests.brokers.kafka.support import broker_at, records, until
from tests.interop.support import BUILT_WITHIN_S, Watermill, Written

if TYPE_CHECKING:
    from eventflow.messaging import Deliveries, Delivery
    from tests.servers.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(BUILT_WITHIN_S)]

# What a text can be: empty, other alphabets, beyond 16 bits, what lines and JSON mean something by.
TEXTS = {
    "plain": "x",
    "empty": "",
    "zażółć": "gęślą jaźń",
    "キー": "値",
    "🔑": "🏴‍☠️ \U0010ffff",
    "with space: and\ttab": 'line\r\nline "quoted" \\ \x00 \x7f \u2028 <&>',
    "Case": "A",
    "case": "a",
    "combining e\u0301": "\u00e9",
    "correlation_id": "ż-1",
    "name": "orders.Zmieniono",
    "long": "ż" * 5_000,
}
PAYLOADS = (b"", b"\x00", b"\xff\xfe\x00", b'{"a": 1}', bytes(range(256)) * 400)


class Transferred(Event, topic="interop.transferred", name="main.Transferred"):
    """What Go's struct of the same name has."""

    memo: str
    amount: int
    least: int
    parts: tuple[BigInt, ...]


class Booked(Event, topic="interop.booked", name="main.Booked"):
    """What the Go program answers."""

    memo: str
    amount: int
    least: int
    parts: tuple[BigInt, ...]


class Refused(Event, topic="interop.refused"):
    """One that no handler can do."""

    n: int


@pytest.fixture
def topic(kafka: Kafka) -> str:
    return kafka.create_topic(f"interop.{uuid.uuid4().hex[:12]}")


@pytest.fixture
def group() -> str:
    return f"interop-{uuid.uuid4().hex[:12]}"


async def take(deliveries: Deliveries, number: int) -> list[Delivery]:
    """So many, acked."""
    came: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(came) < number:
            for delivery in await deliveries.receive(number - len(came)):
                assert delivery.ack()
                came.append(delivery)
    return came


async def test_what_watermill_writes_we_read(
    kafka: Kafka, watermill: Watermill, topic: str, group: str
) -> None:
    """Id, key, payload and metadata, to the letter; no value at all is an empty payload."""
    sent = [Written(p, TEXTS, f"żółw-{n}", key=f"klucz-ż-{n}") for n, p in enumerate(PAYLOADS)]
    sent += [Written(b"no key", {}, "no-key"), Written(None, {"a": "b"}, "nil")]
    await watermill.publish(topic, *sent)
    async with (
        broker_at(kafka.address) as broker,
        broker.subscriber(group=group).subscribe(topic) as deliveries,
    ):
        came = {d.message.id: d.message for d in await take(deliveries, len(sent))}
    assert set(came) == {message.id for message in sent}
    for message in sent:
        read = came[message.id]
        assert read.metadata == message.metadata
        assert (read.payload, read.key) == (message.payload or b"", message.key)
        assert read.headers == ()


async def test_what_we_write_watermill_reads(
    kafka: Kafka, watermill: Watermill, topic: str, group: str
) -> None:
    """Id, key, payload and metadata, to the letter; name and correlation where it looks for them.

    Of a header that comes twice it takes the last one, which is our metadata.
    """
    sent = [Message(p, TEXTS, id=f"żółw-{n}", key=f"klucz-{n}") for n, p in enumerate(PAYLOADS)]
    sent += [Message(b"no key"), Message(b"", {"a": "last"}, headers=(("a", b"first"),))]
    async with broker_at(kafka.address) as broker:
        await broker.publisher().publish(topic, *sent)
    async with watermill.running("consume", topic=topic, group=group) as reader:
        came = {one.id: one for one in await reader.wait(len(sent))}
    assert set(came) == {message.id for message in sent}
    for message in sent:
        read = came[message.id]
        assert read.metadata == message.metadata
        assert (read.payload, read.key) == (message.payload, message.key)
        assert read.name == message.metadata.get("name", "")
        assert read.correlation_id == message.metadata.get("correlation_id", "")


async def test_without_an_id_it_gets_one(
    kafka: Kafka, watermill: Watermill, topic: str, group: str
) -> None:
    """Watermill publishes messages without one, and says nothing."""
    await watermill.publish(topic, Written(b"1"), Written(b"2"))
    async with (
        broker_at(kafka.address) as broker,
        broker.subscriber(group=group).subscribe(topic) as deliveries,
    ):
        ids = {d.message.id for d in await take(deliveries, 2)}
    assert [len(i) for i in ids] == [36, 36]


async def test_an_event_through_watermill_and_back(
    kafka: Kafka, watermill: Watermill, group: str
) -> None:
    """Decoded there into a struct, by the name in its metadata, and published as another event.

    Integers that a float64 would round are the same to the last digit, and texts too. The
    correlation id goes the whole way; the id that Watermill gives its event is the event's here.
    """
    for event_class in (Transferred, Booked):
        kafka.create_topic(str(event_class.topic))
    kafka.create_topic("interop.booked.dead_letter")
    numbers = [2**53 + 1, 2**63 - 1, -(2**53) - 1, 0]
    sent = [
        Transferred(
            memo=f"zażółć <&> \u2028 🔑 {n}", amount=n, least=-(2**63), parts=(2**64 - 1, 1)
        )
        for n in numbers
    ]
    came: dict[int, tuple[Booked, EventContext]] = {}

    async def keep(event: Booked) -> None:
        came[event.amount] = (event, current())

    router = Router()
    async with broker_at(kafka.address) as broker:
        router.add_handler("keep", Booked, keep, subscriber=broker.subscriber(group=group))
        options = {"topic": Transferred.topic, "out": Booked.topic, "group": f"{group}-go"}
        async with router, watermill.running("answer", **options):
            transfers = BrokerEventPublisher(broker.publisher())
            for event in sent:
                await transfers.publish(event)
            await until(lambda: len(came) == len(sent), "all are answered")
    for event in sent:
        booked, context = came[event.amount]
        assert booked.memo == event.memo
        assert (booked.amount, booked.least, booked.parts) == (
            event.amount,
            event.least,
            event.parts,
        )
        assert context.correlation_id == event.id
        assert booked.id not in ("", event.id)


async def test_watermill_nacks_and_gets_it_again(
    kafka: Kafka, watermill: Watermill, topic: str, group: str
) -> None:
    """The same id and bytes, at once, before what comes behind it."""
    sent = [Message(str(n).encode(), {"n": str(n)}, key="one") for n in range(5)]
    async with broker_at(kafka.address) as broker:
        await broker.publisher().publish(topic, *sent)
        async with watermill.running("consume", topic=topic, group=group, nack=True) as reader:
            came = await reader.wait(10)
            assert [(one.id, one.did) for one in came] == [
                (message.id, did) for message in sent for did in ("nacked", "acked")
            ]
            assert [one.payload for one in came] == [m.payload for m in sent for _ in (1, 2)]
        assert await broker.subscriber(group=group).lag(topic) == 0


async def test_we_nack_what_watermill_wrote_and_get_it_again(
    kafka: Kafka, watermill: Watermill, topic: str, group: str
) -> None:
    """The same id, bytes and metadata; once it is acked, the group has nothing left."""
    sent = [Written(str(n).encode(), {"n": str(n)}, f"m-{n}", key="one") for n in range(5)]
    await watermill.publish(topic, *sent)
    nacked: dict[str, Message] = {}
    again: dict[str, Message] = {}
    async with broker_at(kafka.address) as broker:
        subscriber = broker.subscriber(group=group)
        async with subscriber.subscribe(topic) as deliveries:
            while len(again) < len(sent):
                for delivery in await deliveries.receive(10):
                    message = delivery.message
                    if message.id in nacked:
                        assert delivery.ack()
                        assert message.id not in again
                        again[message.id] = message
                    else:
                        assert delivery.nack()
                        nacked[message.id] = message
        assert await subscriber.lag(topic) == 0
    assert set(nacked) == {message.id for message in sent}
    assert again == nacked


async def test_our_dead_letters_have_watermills_four_keys(
    kafka: Kafka, watermill: Watermill, group: str
) -> None:
    """Reason, topic, handler and subscriber, under the names of its poison queue; the id stays."""
    kafka.create_topic("interop.refused")
    kafka.create_topic("interop.refused.dead_letter")

    async def refuse(event: Refused) -> None:
        raise ValueError(f"zażółć {event.n}")

    router = Router(on_failure=FailurePolicy())
    event = Refused(n=7)
    async with broker_at(kafka.address) as broker:
        router.add_handler("refuse", Refused, refuse, subscriber=broker.subscriber(group=group))
        async with router:
            await BrokerEventPublisher(broker.publisher()).publish(event, key="ż")
            await until(lambda: router.ledger["refuse"].failed == 1, "the dead letter is stored")
    options = {"topic": "interop.refused.dead_letter", "group": group}
    async with watermill.running("consume", **options) as reader:
        (letter,) = await reader.wait(1)
    assert letter.poisoned == ("zażółć 7", "interop.refused", "refuse", group)
    assert (letter.id, letter.key, letter.name) == (event.id, "ż", event_name(event))
    assert letter.payload == event.to_json()
    assert letter.correlation_id == event.id


async def test_watermills_poison_queue_is_read_here(
    kafka: Kafka, watermill: Watermill, topic: str, group: str
) -> None:
    """What its router could not do has its four keys, its id, its bytes and its metadata."""
    queue = kafka.create_topic(f"{topic}.poison")
    async with broker_at(kafka.address) as broker:
        sent = Message(b"ten", {"tenant": "ż"}, key="k")
        await broker.publisher().publish(topic, sent)
        async with (
            watermill.running("poison", topic=topic, out=queue, group=f"{group}-go"),
            broker.subscriber(group=group).subscribe(queue) as deliveries,
        ):
            (delivery,) = await take(deliveries, 1)
    read = delivery.message
    assert (read.id, read.payload) == (sent.id, sent.payload)
    assert read.metadata == {
        "tenant": "ż",
        "reason_poisoned": "no room for ten",
        "topic_poisoned": topic,
        "handler_poisoned": "fails",
        "subscriber_poisoned": "kafka.Subscriber",
    }


@pytest.mark.parametrize("partitions", [1, 4, 7])
async def test_a_key_has_one_partition_for_both(
    kafka: Kafka, watermill: Watermill, partitions: int
) -> None:
    """``partitioner="fnv1a"`` places keys as Watermill's partitioning marshaler does.

    Also the empty key, and one whose hash is the least int32, which has no positive one.
    """
    topics = [f"interop.{uuid.uuid4().hex[:12]}" for _ in range(2)]
    for topic in topics:
        kafka.create_topic(topic, partitions=partitions)
    keys = [f"customer-{n}" for n in range(200)] + [
        "",
        "rdklaij",
        "j7b3a04",
        "ż",
        "値🔑",
        "k" * 900,
    ]
    async with broker_at(kafka.address, partitioner="fnv1a") as broker:
        await broker.publisher().publish(topics[0], *(Message(b"x", key=key) for key in keys))
    await watermill.publish(topics[1], *(Written(b"x", key=key) for key in keys))
    ours, theirs = (
        {r.key().decode(): r.partition() for r in records(kafka, topic, partitions=partitions)}
        for topic in topics
    )
    assert set(ours) == set(keys)
    assert ours == theirs
