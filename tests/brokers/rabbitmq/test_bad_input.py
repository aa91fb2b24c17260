"""What the server or we can't take: who is told, and that nobody beside it is harmed."""

from __future__ import annotations

import asyncio
import struct
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiormq
import pamqp.commands
import pytest
from aiormq.abc import ChannelFrame

from eventflow import Event
from eventflow.brokers.rabbitmq import (
    Binding,
    Exchange,
    Field,
    PubSub,
    Queue,
    RabbitMQBroker,
    Route,
    Source,
    WorkQueue,
)
from eventflow.brokers.rabbitmq._frames import content_frames, publish_frame
from eventflow.errors import (
    BrokerAuthenticationError,
    BrokerError,
    EventFlowError,
    InvalidMessageError,
    InvalidOptionError,
    InvalidTopicError,
    MessageTooLargeError,
    PublishError,
    TopologyError,
)
from eventflow.messaging import Delivery, Message, Router
from tests.servers.secure_rabbitmq import LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from eventflow.brokers.rabbitmq.topology import Part
    from eventflow.messaging import Group
    from tests.servers.rabbitmq import RabbitMQ
    from tests.servers.secure_rabbitmq import SecureRabbitMQ

pytestmark = pytest.mark.rabbitmq

WITHIN_S = 10.0


def topic_of(begin: str = "open") -> str:
    return f"{begin}.{uuid.uuid4().hex[:12]}"


class Neighbours:
    """Publishers and a reader of other topics on the same connection, while something goes wrong.

    Each publish has to return, and each message has to come once.
    """

    def __init__(self, broker: RabbitMQBroker) -> None:
        self.broker = broker
        self.published = 0
        self.came: list[str] = []
        self._stop = asyncio.Event()

    async def run(self, topic: str, ready: asyncio.Event) -> None:
        """Publish and receive until told to end."""
        subscriber = self.broker.subscriber(group="g")
        async with subscriber.subscribe(topic) as deliveries:
            reading = asyncio.create_task(self._read(deliveries))
            ids: list[str] = []
            while not self._stop.is_set():
                sent = [Message(b"x") for _ in range(20)]
                await asyncio.gather(*(self.broker.publisher().publish(topic, one) for one in sent))
                ids += [one.id for one in sent]
                ready.set()
            async with asyncio.timeout(WITHIN_S):
                while len(self.came) < len(ids):
                    await asyncio.wait([reading], timeout=0.01)
            reading.cancel()
            await asyncio.wait([reading])
        assert self.came == ids
        self.published = len(ids)

    async def _read(self, deliveries: Any) -> None:
        while got := await deliveries.receive(100):
            for delivery in got:
                self.came.append(delivery.message.id)
                delivery.ack()

    def stop(self) -> None:
        """Enough."""
        self._stop.set()


@asynccontextmanager
async def beside(broker: RabbitMQBroker) -> AsyncGenerator[None]:
    """Neighbours are unharmed, and the connection stays the same one."""
    neighbours, ready = Neighbours(broker), asyncio.Event()
    running = asyncio.create_task(neighbours.run(topic_of(), ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    before = broker.link.session
    assert before is not None
    try:
        yield
    finally:
        neighbours.stop()
        await running
        await waiting
    assert neighbours.published
    assert broker.link.session is before
    assert not broker.problem


async def error_of(work: Awaitable[object]) -> EventFlowError:
    """What it raises, soon."""
    began = time.monotonic()
    with pytest.raises(EventFlowError) as caught:
        await work
    assert time.monotonic() - began < WITHIN_S
    return caught.value


async def subscribe(broker: RabbitMQBroker, topic: str) -> None:
    async with broker.subscriber(group="g").subscribe(topic) as deliveries:
        await deliveries.receive()


# What somebody may not


async def test_what_a_user_may_not(secure_rabbitmq: SecureRabbitMQ) -> None:
    """Publishing, receiving, declaring: each is refused by itself, and says why."""
    async with (
        RabbitMQBroker(secure_rabbitmq.at("bob"), delays=False) as broker,
        beside(broker),
    ):
        message = Message(b"x")
        error = await error_of(broker.publisher().publish(topic_of("closed"), message))
        assert isinstance(error, PublishError)
        assert "ACCESS_REFUSED" in str(error)
        assert (error.not_stored, error.unknown) == ((message.id,), ())
        queue = broker.publisher(topology=WorkQueue())
        for refused in (
            subscribe(broker, topic_of("closed")),
            broker.subscriber(group="g").prepare(topic_of("closed")),
            queue.publish(topic_of("closed"), Message(b"x")),
            broker.publisher(topology=PubSub()).publish("amq.ours", Message(b"x")),
        ):
            error = await error_of(refused)
            assert isinstance(error, (BrokerAuthenticationError, PublishError))
            assert "ACCESS_REFUSED" in str(error)


async def test_several_that_a_user_may_not_at_once(secure_rabbitmq: SecureRabbitMQ) -> None:
    """Each message has one verdict, and no refused one counts as stored."""
    topic = topic_of("closed")
    async with RabbitMQBroker(secure_rabbitmq.at("bob"), delays=False) as broker, beside(broker):
        messages = [Message(b"x") for _ in range(50)]
        ended = await asyncio.gather(
            *(broker.publisher().publish(topic, message) for message in messages),
            return_exceptions=True,
        )
        for message, error in zip(messages, ended, strict=True):
            assert isinstance(error, PublishError)
            assert not error.stored
            assert (*error.not_stored, *error.unknown) == (message.id,)


# What is too large


@pytest.mark.fault("PUB-07")
async def test_what_is_too_large_for_the_server(secure_rabbitmq: SecureRabbitMQ) -> None:
    """Within our bound and beyond its own: typed, not stored, also nobody else's on the channel."""
    topic = topic_of()
    async with RabbitMQBroker(secure_rabbitmq.at("alice")) as broker:
        publisher = broker.publisher()
        async with beside(broker):
            for _ in range(3):
                large, small = Message(b"x" * (LIMIT + 1)), [Message(b"x") for _ in range(20)]
                ended = await asyncio.gather(
                    publisher.publish(topic, large),
                    *(publisher.publish(topic, one) for one in small),
                    return_exceptions=True,
                )
                error, *others = ended
                assert isinstance(error, MessageTooLargeError)
                assert (error.size, error.limit, error.message_id) == (LIMIT + 1, LIMIT, large.id)
                assert error.not_stored == (large.id,)
                assert not any(others)
        assert broker.unrouted[topic] == 60


@pytest.mark.fault("PUB-07")
async def test_what_is_just_not_too_large(secure_rabbitmq: SecureRabbitMQ) -> None:
    """Large ones are tried one at a time until one is stored; all of them are."""
    topic = topic_of()
    async with RabbitMQBroker(secure_rabbitmq.at("alice")) as broker, beside(broker):
        subscriber = broker.subscriber(group="g")
        await subscriber.prepare(topic)
        messages = [Message(bytes((n,)) * (LIMIT - n)) for n in range(10)]
        await asyncio.gather(*(broker.publisher().publish(topic, one) for one in messages))
        async with subscriber.subscribe(topic) as deliveries:
            came: set[bytes] = set()
            while len(came) < 10:
                for delivery in await deliveries.receive(10):
                    came.add(delivery.message.payload)
                    delivery.ack()
        assert came == {one.payload for one in messages}


async def test_one_of_several_is_too_large(secure_rabbitmq: SecureRabbitMQ) -> None:
    """Those behind it were dropped; of those before it nobody knows."""
    topic = topic_of()
    async with RabbitMQBroker(secure_rabbitmq.at("alice")) as broker, beside(broker):
        messages = [Message(b"x"), Message(b"x" * (LIMIT + 1)), Message(b"x")]
        error = await error_of(broker.publisher().publish(topic, *messages))
        assert isinstance(error, MessageTooLargeError)
        assert error.message_id == messages[1].id
        told = (*error.stored, *error.not_stored, *error.unknown)
        assert sorted(told) == sorted(one.id for one in messages)
        assert messages[2].id in error.not_stored
        assert messages[1].id not in error.stored


@pytest.mark.fault("PUB-07")
async def test_headers_that_fill_a_frame(secure_rabbitmq: SecureRabbitMQ) -> None:
    """One more byte would end the connection: refused before."""
    topic = topic_of()
    async with RabbitMQBroker(secure_rabbitmq.at("alice")) as broker, beside(broker):
        error = await error_of(
            broker.publisher().publish(topic, Message(b"x", metadata={"n": "x" * 131_072}))
        )
        assert isinstance(error, MessageTooLargeError)
        room = 131_072 - (error.size - error.limit)
        with pytest.raises(MessageTooLargeError):
            await broker.publisher().publish(topic, Message(b"x", metadata={"n": "x" * (room + 1)}))
        subscriber = broker.subscriber(group="g")
        await subscriber.prepare(topic)
        await broker.publisher().publish(topic, Message(b"x", metadata={"n": "x" * room}))
        async with subscriber.subscribe(topic) as deliveries:
            (delivery,) = await deliveries.receive()
            assert delivery.message.metadata == {"n": "x" * room}
            delivery.ack()


# What can't be named, or declared


class Declaring:
    """A topology that declares one thing."""

    has_groups = True

    def __init__(self, *parts: Part) -> None:
        self._parts = parts

    def route(self, topic: str) -> Route:
        return Route(topic, parts=self._parts)

    def source(self, topic: str, group: Group) -> Source:
        return Source(topic, self._parts)

    keeping = route


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (Exchange("kind", "x-nobodys"), TopologyError),
        (Exchange("amq.ours"), BrokerAuthenticationError),
        (Queue("ours", arguments={"x-queue-type": "nobodys"}), TopologyError),
        (Queue("ours", durable=False, arguments={"x-queue-type": "quorum"}), TopologyError),
        (Queue("ours", arguments={"x-max-length": -1}), TopologyError),
        (Binding("nobodys", "nobodys"), TopologyError),
    ],
    ids=str,
)
async def test_what_can_not_be_declared(
    part: Part, kind: type[BrokerError], secure_rabbitmq: SecureRabbitMQ
) -> None:
    """One clear error, at once; a kind of exchange that there is not would end a connection."""
    topology: Any = Declaring(part)
    async with RabbitMQBroker(secure_rabbitmq.at("alice")) as broker, beside(broker):
        for work in (
            broker.publisher(topology=topology).publish("t", Message(b"x")),
            broker.subscriber(group="g", topology=topology).prepare("t"),
        ):
            assert type(await error_of(work)) is kind


LONG = "ü" * 128
"""Of 256 bytes."""


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Exchange(LONG), InvalidTopicError),
        (lambda: Exchange("half\ud800"), InvalidTopicError),
        (lambda: Exchange("e", "nobodys"), InvalidOptionError),
        (lambda: Exchange("e", arguments={LONG: 1}), InvalidTopicError),
        (lambda: Queue(LONG), InvalidTopicError),
        (lambda: Queue("q", arguments={"x": 2**63}), InvalidOptionError),
        (lambda: Queue("q", arguments={"x": object()}), InvalidOptionError),  # type: ignore[dict-item]
        (lambda: Binding(LONG, "e"), InvalidTopicError),
        (lambda: Binding("q", LONG), InvalidTopicError),
        (lambda: Binding("q", "e", LONG), InvalidTopicError),
        (lambda: Route(LONG), InvalidTopicError),
        (lambda: Route("e", LONG), InvalidTopicError),
        (lambda: Source(LONG), InvalidTopicError),
        (lambda: PubSub().source("t", "g" * 254), InvalidTopicError),
        (lambda: WorkQueue().route("t" * 250), InvalidTopicError),
    ],
)
def test_names_that_are_none(make: Callable[[], object], error: type[Exception]) -> None:
    """Found before anything is sent: the server would end the channel, or the connection."""
    with pytest.raises(error):
        make()


NO_FIELDS = (
    b"",
    b"?",
    b"I\0",
    b"U\0\x05",  # not of RabbitMQ
    b"t\x01t\x01",
    b"S\0\0\0\x09x",
    b"f\x7f\xc0\0\0",  # no number
    b"d\x7f\xf0" + b"\0" * 6,  # infinite
    b"A\0\0\0\x02I\0",
    b"F\0\0\0\x03\x01x?",
    b"A\0\0\0\x05f\x7f\xc0\0\0",
)


async def test_messages_that_can_not_be_written(secure_rabbitmq: SecureRabbitMQ) -> None:
    """Also found before; a name of 255 bytes goes through."""
    topic, name = topic_of(), "n" * 255
    async with RabbitMQBroker(secure_rabbitmq.at("alice")) as broker, beside(broker):
        for message in (
            Message(b"x", metadata={f"{name}n": "x"}),
            Message(b"x", metadata={LONG: "x"}),
            *(Message(b"x", headers=(("v", Field(value)),)) for value in NO_FIELDS),
        ):
            assert isinstance(
                await error_of(broker.publisher().publish(topic, message)), InvalidMessageError
            )
        subscriber = broker.subscriber(group="g")
        await subscriber.prepare(topic)
        await broker.publisher().publish(topic, Message(b"x", metadata={name: "x"}))
        async with subscriber.subscribe(topic) as deliveries:
            (delivery,) = await deliveries.receive()
            assert delivery.message.metadata == {name: "x"}
            delivery.ack()


# What others send


def table(pairs: bytes) -> bytes:
    return struct.pack(">I", len(pairs)) + pairs


def pair(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + value


VALUES = {
    "boolean": b"t\x01",
    "int8": b"b\xff",
    "uint8": b"B\xff",
    "int16": b"s\xff\xfe",
    "uint16": b"u\xff\xfe",
    "int32": b"I\xff\xff\xff\xfe",
    "uint32": b"i\xff\xff\xff\xfe",
    "int64": b"l" + b"\xff" * 8,
    "float": b"f\x3f\xc0\0\0",
    "double": b"d\x3f\xf0" + b"\0" * 6,
    "decimal": b"D\x02\xff\xff\xff\xff",
    "binary": b"x\0\0\0\x02\xff\0",
    "array": b"A\0\0\0\x04t\x01b\xff",
    "table": b"F" + table(pair(b"inner", b"S\0\0\0\x01x")),
    "nothing": b"V",
    "timestamp": b"T" + b"\0" * 7 + b"\x01",
    "far timestamp": b"T\x7f" + b"\xff" * 7,
    "no utf-8": b"S\0\0\0\x02\xff\xfe",
    "empty": b"S\0\0\0\0",
}
"""Values of every type that RabbitMQ knows, and of some that a reader may stumble over."""


@asynccontextmanager
async def raw_publisher(address: str) -> AsyncGenerator[Callable[..., Awaitable[None]]]:
    """Publishes headers as they are given, which no client library would write; confirmed."""
    connection = await aiormq.connect(address)
    try:
        channel: Any = await connection.channel(publisher_confirms=False)

        async def publish(exchange: str, headers: bytes, body: bytes) -> None:
            frames = publish_frame(channel.number, exchange, "", mandatory=False)
            payload = frames + content_frames(channel.number, headers, body, 131_072)
            await channel.write_queue.put(
                ChannelFrame(payload=payload, should_close=False, drain_future=None)
            )
            # Its answer comes after all that was sent before.
            await channel.rpc(pamqp.commands.Basic.Qos(prefetch_count=1))

        yield publish
    finally:
        await connection.close()


async def test_headers_of_every_type(rabbitmq: RabbitMQ) -> None:
    """Delivered, native ones as they stand, and published again as they came."""
    topic, again = topic_of(), topic_of()
    async with (
        RabbitMQBroker(rabbitmq.address) as broker,
        raw_publisher(rabbitmq.address) as publish,
        beside(broker),
    ):
        for each in (topic, again):
            await broker.subscriber(group="g").prepare(each)
        for name, value in VALUES.items():
            await publish(
                topic, table(pair(b"text", b"S\0\0\0\x01x") + pair(b"v", value)), name.encode()
            )
        await publish(topic, table(pair(b"\xff\xfe", b"S\0\0\0\x01x")), b"name")
        async with asyncio.timeout(WITHIN_S):
            for source, target in ((topic, again), (again, None)):
                seen: dict[str, Message] = {}
                async with broker.subscriber(group="g").subscribe(source) as deliveries:
                    while len(seen) <= len(VALUES):
                        for delivery in await deliveries.receive(10):
                            seen[delivery.message.payload.decode()] = delivery.message
                            if target:
                                await broker.publisher().publish(target, delivery.message)
                            delivery.ack()
                            await delivery.settled()
                assert seen.pop("name").headers == (("\udcff\udcfe", b"x"),)
                for name, value in VALUES.items():
                    message = seen[name]
                    assert message.metadata["text"] == "x"
                    if name == "empty":
                        assert message.metadata["v"] == ""
                    elif name == "no utf-8":
                        assert message.headers == (("v", b"\xff\xfe"),)
                    else:
                        assert message.headers == (("v", Field(value)),)


class Ordered(Event, topic=f"ordered.{uuid.uuid4().hex[:12]}"):
    number: int


@pytest.mark.fault("RTR-05")
async def test_what_a_router_can_not_read(rabbitmq: RabbitMQ) -> None:
    """Dead-lettered with its bytes, at once; the next one is handled, and nothing comes again."""
    topic = Ordered.topic
    assert topic is not None
    handled: list[int] = []
    done = asyncio.Event()

    async def handle(event: Ordered) -> None:
        handled.append(event.number)
        done.set()

    bad = (b"", b"{", b"\xff\xfe", b'{"number": "x"}', b"[" * 10_000)
    async with (
        RabbitMQBroker(rabbitmq.address) as broker,
        raw_publisher(rabbitmq.address) as publish,
        beside(broker),
    ):
        subscriber = broker.subscriber(group="g")
        await subscriber.prepare(topic)
        for body in bad:
            await publish(topic, table(b""), body)
        name = f"{topic}.dead_letter"
        async with (
            broker.subscriber(topology=WorkQueue()).subscribe(name) as letters,
            asyncio.timeout(WITHIN_S),
        ):
            router = Router()
            router.add_handler("orders", Ordered, handle, subscriber=subscriber)
            async with router:
                buried: list[Delivery] = []
                while len(buried) < len(bad):
                    buried += await letters.receive(10)
                await publish(topic, table(b""), b'{"number": 7}')
                await done.wait()
            assert sorted(one.message.payload for one in buried) == sorted(bad)
            for one in buried:
                one.ack()
        assert handled == [7]
