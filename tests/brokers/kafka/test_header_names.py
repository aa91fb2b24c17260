"""A header's name that is no UTF-8: others can write it, and the client library can't read it."""

from __future__ import annotations

import asyncio
import ctypes
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka
import pytest

from eventflow import Event
from eventflow.brokers.kafka._delivery import KafkaDelivery
from eventflow.brokers.kafka._partition import Partition
from eventflow.brokers.kafka._record import readable
from eventflow.brokers.kafka._step import Step
from eventflow.errors import InvalidMessageError
from eventflow.messaging import Router
from tests.brokers.kafka.support import broker_at, records, until
from tests.brokers.kafka.test_partition import FakeRecord

if TYPE_CHECKING:
    from tests.servers.kafka import Kafka

PAYLOAD = b'{"n":1}'
TOPIC, VALUE, FLAGS, HEADER = 1, 4, 7, 9
COPY = 2


class Named(Event, topic="header.names"):
    """An event of a topic of its own."""

    n: int


class Unread(FakeRecord):
    """As the library's: its headers are an error once, and may not be asked for again."""

    is_told = False

    def headers(self) -> Any:
        assert not self.is_told
        self.is_told = True
        raise SystemError


@pytest.mark.parametrize("first", ["head", "message", "original", "headers", "lost"])
def test_it_is_asked_for_once(first: str) -> None:
    """Whoever comes first: to read the message is an error; what came is there, but for those."""
    delivery = KafkaDelivery(Unread(0), 0, Partition("t", 0), Any)  # type: ignore[arg-type]
    asked = getattr(delivery, first)
    if first in {"head", "lost"}:
        asked()
    assert delivery.head() == (None, delivery.message.id, "", None)
    with pytest.raises(InvalidMessageError, match="headers"):
        assert delivery.message.payload
    assert delivery.original.payload == FakeRecord(0).value()
    assert delivery.headers == delivery.original.headers == ()
    again = delivery.again(Any, (1, 0))  # type: ignore[arg-type]
    assert again.message.id == delivery.message.id
    with pytest.raises(InvalidMessageError, match="headers"):
        assert again.message.payload


def write(kafka: Kafka, topic: str, *headers: tuple[bytes, bytes], count: int = 1) -> None:
    """Store records as a program without Python's texts does."""
    beside = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    (path,) = beside.glob("librdkafka-*")
    library = ctypes.CDLL(str(path))
    for function in (library.rd_kafka_conf_new, library.rd_kafka_new):
        function.restype = ctypes.c_void_p
    why = ctypes.create_string_buffer(512)
    size = ctypes.c_size_t(512)
    settings = ctypes.c_void_p(library.rd_kafka_conf_new())
    hosts = kafka.address.encode()
    assert library.rd_kafka_conf_set(settings, b"bootstrap.servers", hosts, why, size) == 0
    producer = ctypes.c_void_p(library.rd_kafka_new(0, settings, why, size))
    value = (VALUE, PAYLOAD, ctypes.c_size_t(len(PAYLOAD)))
    rest: list[Any] = []
    for name, text in headers:
        rest += (HEADER, name, text, ctypes.c_ssize_t(len(text)))
    for _ in range(count):
        given = (TOPIC, topic.encode(), *value, FLAGS, COPY, *rest, 0)
        assert library.rd_kafka_producev(producer, *given) == 0
    assert library.rd_kafka_flush(producer, 10_000) == 0
    library.rd_kafka_destroy(producer)


def test_one_that_has_waited() -> None:
    """The same: the thread has found out, and nobody asks again."""
    assert readable(plain := FakeRecord(0)) is plain
    step = Step("t", 3, origin="o")
    step.ready.append(readable(Unread(0)))
    step.prepare()
    step.permit()
    taken: list[KafkaDelivery] = []
    step.take(taken, 1, Any)  # type: ignore[arg-type]
    assert len(readable(Unread(0))) == 1
    with pytest.raises(InvalidMessageError, match="headers"):
        assert taken[0].message.payload
    assert taken[0].coordinates["timestamp"] == 5


@pytest.mark.kafka
@pytest.mark.timeout(60)
async def test_it_ends_as_a_dead_letter(kafka: Kafka) -> None:
    """Each, at once, with its payload; others are handled, and nobody's process ends."""
    topic = kafka.create_topic("header.names", partitions=1)
    letters = kafka.create_topic("header.names.dead_letter", partitions=1)
    good = ((b"name", b"Named"), (b"_watermill_message_uuid", b"good"))
    before = len(records(kafka, letters, partitions=1))
    write(kafka, topic, (b"\xff\xfe", b"v"), *good, count=40)
    write(kafka, topic, *good)
    handled = asyncio.Event()

    async def handle(event: Named) -> None:
        assert event.id == "good"
        handled.set()

    async with broker_at(kafka.address) as broker:
        router = Router()
        group = broker.subscriber(group=f"group-{uuid.uuid4().hex[:12]}")
        router.add_handler("all", Named, handle, subscriber=group)
        async with router, asyncio.timeout(30):
            await handled.wait()
            await until(lambda: len(records(kafka, letters, partitions=1)) == before + 40, "all")
    found = records(kafka, letters, partitions=1)[before:]
    assert [record.value() for record in found] == [PAYLOAD] * 40
