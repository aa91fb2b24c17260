"""Messages and events between Watermill and ours, over RabbitMQ, both ways."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from eventflow import Event
from eventflow.brokers.rabbitmq import Field, RabbitMQBroker
from eventflow.context import EventContext, current
from eventflow.events import BigInt, event_name
from eventflow.failure import FailurePolicy
from eventflow.messaging import BrokerEventPublisher, Message, Router
from tests.brokers.kafka.support import until
from tests.interop.rabbitmq import DURABLE, PRESETS, AnyHeaders, Preset, left_in, member_of
from tests.interop.support import BUILT_WITHIN_S, Written

if TYPE_CHECKING:
    from pathlib import Path

    from eventflow.messaging import Deliveries, Delivery
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(BUILT_WITHIN_S)]

AGAIN = "_watermill_amqp_redelivered"
"""Metadata that Watermill's subscriber adds to what was delivered before."""

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
    "ż" * 127: "the longest name",
    "correlation_id": "ż-1",
    "name": "orders.Zmieniono",
    "long": "ż" * 5_000,
}
PAYLOADS = (b"", b"\x00", b"\xff\xfe\x00", b'{"a": 1}', bytes(range(256)) * 1_600)

# A header of each type that the server takes, but for texts.
FOREIGN = (
    ("flag", b"t\x01"),
    ("int8", b"b\xff"),
    ("uint8", b"B\xff"),
    ("int16", b"s\xff\xff"),
    ("uint16", b"u\xff\xff"),
    ("int32", b"I\xff\xff\xff\xff"),
    ("uint32", b"i\xff\xff\xff\xff"),
    ("int64", b"l\x00\x20\x00\x00\x00\x00\x00\x01"),
    ("float", b"f\x3f\x80\x00\x00"),
    ("double", b"d\x3f\xf8\x00\x00\x00\x00\x00\x00"),
    ("decimal", b"D\x02\x00\x00\x00\x05"),
    ("time", b"T\x00\x00\x00\x00\x00\x00\x00\x05"),
    ("bytes", b"x\x00\x00\x00\x02\xff\x00"),
    ("nothing", b"V"),
    ("list", b"A\x00\x00\x00\x02t\x01"),
    ("table", b"F\x00\x00\x00\x04\x01at\x01"),
)


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
def preset(request: pytest.FixtureRequest, rabbitmq: RabbitMQ, program: Path) -> Preset:
    return Preset(str(request.param), rabbitmq.address, program)


every_preset = pytest.mark.parametrize("preset", PRESETS, indirect=True)
durable_presets = pytest.mark.parametrize("preset", DURABLE, indirect=True)


@pytest.fixture
def topic() -> str:
    return f"interop.{uuid.uuid4().hex[:12]}"


@pytest.fixture
def group() -> str:
    return f"interop-{uuid.uuid4().hex[:12]}"


def broker_of(rabbitmq: RabbitMQ, preset: Preset) -> RabbitMQBroker:
    return RabbitMQBroker(rabbitmq.address, topology=preset.topology)


async def take(deliveries: Deliveries, number: int) -> list[Delivery]:
    """So many, acked."""
    came: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(came) < number:
            for delivery in await deliveries.receive(number - len(came)):
                assert delivery.ack()
                came.append(delivery)
    return came


@every_preset
async def test_what_watermill_writes_we_read(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str
) -> None:
    """Id, payload and metadata, to the letter; ``nil`` is an empty payload."""
    sent = [Written(p, TEXTS, f"żółw-{n}") for n, p in enumerate(PAYLOADS)]
    sent += [Written(b"none", {}, "no-metadata"), Written(None, {"a": "b"}, "nil")]
    async with (
        broker_of(rabbitmq, preset) as broker,
        member_of(broker, preset, group).subscribe(topic) as deliveries,
    ):
        await preset.watermill.publish(topic, *sent)
        came = await take(deliveries, len(sent))
    assert [d.message.id for d in came] == [message.id for message in sent]
    for message, delivery in zip(sent, came, strict=True):
        read = delivery.message
        assert read.metadata == message.metadata
        assert read.payload == (message.payload or b"")
        assert read.headers == ()
        assert delivery.coordinates["redelivered"] == 0


@every_preset
async def test_what_we_write_watermill_reads(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str
) -> None:
    """Id, payload and metadata, to the letter; name and correlation where it looks for them.

    Of a header that comes twice it takes the last one, which is our metadata.
    """
    sent = [Message(p, TEXTS, id=f"żółw-{n}") for n, p in enumerate(PAYLOADS)]
    sent += [Message(b"none"), Message(b"", {"a": "last"}, headers=(("a", b"first"),))]
    assert await preset.watermill.declare(topic, group) == ""
    async with broker_of(rabbitmq, preset) as broker:
        await broker.publisher().publish(topic, *sent)
        assert not broker.unrouted
    async with preset.watermill.running("consume", topic=topic, group=group) as reader:
        came = await reader.wait(len(sent))
    assert [one.id for one in came] == [message.id for message in sent]
    for message, read in zip(sent, came, strict=True):
        assert read.metadata == message.metadata
        assert read.payload == message.payload
        assert read.name == message.metadata.get("name", "")
        assert read.correlation_id == message.metadata.get("correlation_id", "")


@durable_presets
async def test_without_an_id_it_gets_one(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str
) -> None:
    """Another one each time it comes: Watermill publishes such messages, and says nothing."""
    async with (
        broker_of(rabbitmq, preset) as broker,
        member_of(broker, preset, group).subscribe(topic) as deliveries,
    ):
        await preset.watermill.publish(topic, Written(b"1"))
        (first,) = await deliveries.receive()
        assert first.nack()
        (again,) = await take(deliveries, 1)
    ids = {first.message.id, again.message.id}
    assert [len(i) for i in ids] == [36, 36]


@durable_presets
async def test_an_event_through_watermill_and_back(
    rabbitmq: RabbitMQ, preset: Preset, group: str
) -> None:
    """Decoded there into a struct, by the name in its metadata, and published as another event.

    Integers that a float64 would round are the same to the last digit, and texts too. The
    correlation id goes the whole way; the id that Watermill gives its event is the event's here.
    """
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
    async with broker_of(rabbitmq, preset) as broker:
        router.add_handler("keep", Booked, keep, subscriber=member_of(broker, preset, group))
        assert await preset.watermill.declare(str(Transferred.topic), group) == ""
        options = {"topic": Transferred.topic, "out": Booked.topic, "group": group}
        async with router, preset.watermill.running("answer", **options):
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


@durable_presets
async def test_watermill_nacks_and_gets_it_again(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str
) -> None:
    """The same id and bytes, at once, with a pair more in the metadata; then nothing is left."""
    sent = [Message(str(n).encode(), {"n": str(n)}) for n in range(5)]
    assert await preset.watermill.declare(topic, group) == ""
    async with broker_of(rabbitmq, preset) as broker:
        await broker.publisher().publish(topic, *sent)
    options = {"topic": topic, "group": group, "nack": True}
    async with preset.watermill.running("consume", **options) as reader:
        came = await reader.wait(10)
    assert [(one.id, one.did) for one in came] == [
        (message.id, did) for message in sent for did in ("nacked", "acked")
    ]
    assert [one.payload for one in came] == [m.payload for m in sent for _ in (1, 2)]
    assert [one.metadata for one in came] == [
        {**message.metadata, **more} for message in sent for more in ({}, {AGAIN: "true"})
    ]
    assert await left_in(rabbitmq, preset.topology.source(topic, group).queue) == 0


@durable_presets
async def test_we_nack_what_watermill_wrote_and_get_it_again(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str
) -> None:
    """The same id, bytes and metadata; that it comes again is told beside the message."""
    sent = [Written(str(n).encode(), {"n": str(n)}, f"m-{n}") for n in range(5)]
    first: dict[str, Message] = {}
    again: dict[str, Message] = {}
    async with broker_of(rabbitmq, preset) as broker:
        subscriber = member_of(broker, preset, group)
        await subscriber.prepare(topic)
        await preset.watermill.publish(topic, *sent)
        async with subscriber.subscribe(topic) as deliveries:
            while len(again) < len(sent):
                for delivery in await deliveries.receive(10):
                    message = delivery.message
                    is_again = message.id in first
                    assert delivery.coordinates["redelivered"] == is_again
                    assert message.id not in again
                    (again if is_again else first)[message.id] = message
                    assert delivery.ack() if is_again else delivery.nack()
    assert set(first) == {message.id for message in sent}
    assert again == first
    assert await left_in(rabbitmq, preset.topology.source(topic, group).queue) == 0


@durable_presets
async def test_our_dead_letters_have_watermills_four_keys(
    rabbitmq: RabbitMQ, program: Path, preset: Preset, group: str
) -> None:
    """Reason, topic, handler and subscriber, under the names of its poison queue; the id stays.

    They wait in a queue that Watermill's queue preset reads, whichever preset the topic has.
    """

    async def refuse(event: Refused) -> None:
        raise ValueError(f"zażółć {event.n}")

    router = Router(on_failure=FailurePolicy())
    event = Refused(n=7)
    async with broker_of(rabbitmq, preset) as broker:
        subscriber = member_of(broker, preset, group)
        router.add_handler("refuse", Refused, refuse, subscriber=subscriber)
        async with router:
            await BrokerEventPublisher(broker.publisher()).publish(event)
            await until(lambda: router.ledger["refuse"].failed == 1, "the dead letter is stored")
    letters = Preset("durable-queue", rabbitmq.address, program)
    async with letters.watermill.running("consume", topic="interop.refused.dead_letter") as reader:
        (letter,) = await reader.wait(1)
    name = group if preset.topology.has_groups else "all"
    assert letter.poisoned == ("zażółć 7", "interop.refused", "refuse", name)
    assert (letter.id, letter.name) == (event.id, event_name(event))
    assert letter.payload == event.to_json()
    assert letter.correlation_id == event.id


@durable_presets
async def test_watermills_poison_queue_is_read_here(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str
) -> None:
    """What its router could not do has its four keys, its id, its bytes and its metadata."""
    poison = f"{topic}.poison"
    sent = Message(b"ten", {"tenant": "ż"})
    assert await preset.watermill.declare(topic, group) == ""
    async with broker_of(rabbitmq, preset) as broker:
        await broker.publisher().publish(topic, sent)
        async with member_of(broker, preset, group).subscribe(poison) as deliveries:
            options = {"topic": topic, "out": poison, "group": group}
            async with preset.watermill.running("poison", **options):
                (delivery,) = await take(deliveries, 1)
    read = delivery.message
    assert (read.id, read.payload) == (sent.id, sent.payload)
    assert read.metadata == {
        "tenant": "ż",
        "reason_poisoned": "no room for ten",
        "topic_poisoned": topic,
        "handler_poisoned": "fails",
        "subscriber_poisoned": "amqp.Subscriber",
    }


@durable_presets
async def test_what_others_have_in_their_headers_harms_no_reader(
    rabbitmq: RabbitMQ, preset: Preset, topic: str, group: str
) -> None:
    """Headers of each type come here as they were sent; what we publish has texts alone.

    Watermill's subscriber gives a message back at once where one is no text, and gets it again.
    """
    shared = f"{topic}.shared"
    assert await preset.watermill.declare(shared, group) == ""
    async with (
        broker_of(rabbitmq, preset) as broker,
        member_of(broker, preset, group).subscribe(topic) as deliveries,
    ):
        headers = [(name, Field(value)) for name, value in FOREIGN]
        original = Message(b"x", {"a": "1"}, headers=(("no UTF-8", b"\xff"), *headers))
        somebody = broker.publisher(topology=AnyHeaders(preset.topology))
        await somebody.publish(topic, original)
        (delivery,) = await take(deliveries, 1)
        assert delivery.message == original
        assert all(type(value) is Field for _, value in delivery.message.headers[1:])
        await broker.publisher().publish(shared, delivery.message, Message(b"behind it"))
    async with preset.watermill.running("consume", topic=shared, group=group) as reader:
        first, second = await reader.wait(2)
    assert second.payload == b"behind it"
    assert (first.id, first.payload) == (original.id, b"x")
    assert set(first.metadata) == {"a", *(name for name, _ in original.headers)}
    assert {name: first.metadata[name] for name in ("a", "flag", "int64", "double", "time")} == {
        "a": "1",
        "flag": "true",
        "int64": str(2**53 + 1),
        "double": "1.5",
        "time": "5",
    }
    assert "is not a string" not in reader.complaints
    assert await left_in(rabbitmq, preset.topology.source(shared, group).queue) == 0
