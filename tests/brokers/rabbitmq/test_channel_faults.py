"""What ends a channel, or a part of it: it costs that channel alone, and comes back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.rabbitmq import PubSub, WorkQueue, _sending
from eventflow.brokers.rabbitmq.topology import Queue, Route, Source
from eventflow.errors import PublishError, PublishTimeoutError, SettleError, TopologyError
from eventflow.messaging import Message, Router
from tests.brokers.rabbitmq.support import BACK_S, broker_at, fresh, named, outside, take, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.brokers.rabbitmq import RabbitMQBroker
    from eventflow.messaging import Group
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]


async def channels(rabbitmq: RabbitMQ) -> int:
    """How many channels there are on the server, as it says."""
    told = await asyncio.to_thread(rabbitmq.control, "list_channels", "pid", "--no-table-headers")
    return len(told.split())


# --------------------------------------------------------------------------- receiving


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_a_queue_that_is_deleted_under_its_receiver(rabbitmq: RabbitMQ, kind: str) -> None:
    """Declared again, and received from; nothing empty is handed out, no channel stays behind."""
    topic, neighbour = named("deleted"), named("neighbour")
    topology = PubSub(queue_type=kind)  # type: ignore[arg-type]
    async with (
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address, topology=topology) as broker,
    ):
        publisher = broker.publisher()
        async with (
            broker.subscriber(group="g").subscribe(topic) as deliveries,
            broker.subscriber(group="g").subscribe(neighbour) as others,
        ):
            await publisher.publish(neighbour, beside := Message(b"beside"))
            (kept,) = await take(others, 1)
            before = 0
            for number in range(3):
                await publisher.publish(topic, Message(b"old"))
                (held,) = await take(deliveries, 1)
                before = before or await channels(rabbitmq)
                waiting = asyncio.create_task(take(deliveries, 1))
                await look.channel.queue_delete(f"{topic}_g")
                await until(lambda: bool(deliveries.problem), "it is noticed", within=2)
                assert not others.problem
                await look.received_again(f"{topic}_g", within=BACK_S)
                await until(lambda: not deliveries.problem, "it says so", within=BACK_S)
                held.ack()
                with pytest.raises(SettleError):
                    await held.settled()
                await publisher.publish(topic, new := Message(b"new"))
                (delivery,) = await waiting
                assert (delivery.message.id, delivery.message.payload) == (new.id, b"new"), number
                assert delivery.ack()
                await delivery.settled()
            assert await channels(rabbitmq) == before
            assert kept.ack()
            await kept.settled()
            assert kept.message.id == beside.id


async def test_a_queue_that_is_deleted_before_it_is_received(rabbitmq: RabbitMQ) -> None:
    """Between the declaration and the first message that is asked for."""
    topic = named("deleted")
    async with outside(rabbitmq.address) as look, broker_at(rabbitmq.address) as broker:
        subscriber = broker.subscriber(group="g")
        await subscriber.prepare(topic)
        await look.channel.queue_delete(f"{topic}_g")
        async with subscriber.subscribe(topic) as deliveries:
            await look.channel.queue_delete(f"{topic}_g")
            receiving = asyncio.create_task(take(deliveries, 1))
            await look.received_again(f"{topic}_g", within=BACK_S)
            await broker.publisher().publish(topic, message := Message(b"x"))
            (delivery,) = await receiving
            assert delivery.message.id == message.id


async def test_what_is_held_when_the_server_cancels_comes_again(rabbitmq: RabbitMQ) -> None:
    """The channel of a consumer that is cancelled is closed: it holds nothing back."""
    topic = named("cancelled")
    async with outside(rabbitmq.address) as look, broker_at(rabbitmq.address) as broker:
        publisher = broker.publisher()
        async with broker.subscriber(group="g").subscribe(topic) as deliveries:
            messages = [Message(b"x") for _ in range(3)]
            await publisher.publish(topic, *messages)
            held = await take(deliveries, 3)
            # What the server sends where a queue's leader goes: the messages stay.
            subscription: Any = deliveries
            channel = subscription._channel
            for callback in channel.channel.on_consumer_cancel_callbacks:
                callback(None)
            again = await take(deliveries, 3, within=BACK_S)
            assert {d.message.id for d in again} == {d.message.id for d in held}
            for old in held:
                old.ack()
                with pytest.raises(SettleError):
                    await old.settled()
            for delivery in again:
                assert delivery.ack()
                await delivery.settled()
        await look.settled(f"{topic}_g")


@pytest.mark.fault("ACK-04")
@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_what_a_member_holds_when_it_leaves_goes_to_another(
    rabbitmq: RabbitMQ, kind: str
) -> None:
    """A hundred messages, at once, and the acks of before it left count."""
    topic = named("leaves")
    topology = PubSub(queue_type=kind)  # type: ignore[arg-type]
    messages = [Message(b"x") for _ in range(100)]
    async with (
        broker_at(rabbitmq.address, topology=topology) as one,
        broker_at(rabbitmq.address, topology=topology) as two,
        two.subscriber(group="g").subscribe(topic, max_in_flight=100) as others,
    ):
        async with one.subscriber(group="g").subscribe(topic, max_in_flight=100) as leaving:
            receiving = asyncio.create_task(take(leaving, 100))
            async with outside(rabbitmq.address) as look:
                await look.received(f"{topic}_g")
            await one.publisher().publish(topic, *messages)
            held = await receiving
            acked = {d.message.id for d in held[::10] if d.ack()}
            began = time.monotonic()
        again = await take(others, 90, within=BACK_S)
        assert time.monotonic() - began < BACK_S
        assert {d.message.id for d in again} == {m.id for m in messages} - acked
        for delivery in again:
            assert delivery.ack()
            await delivery.settled()
    async with outside(rabbitmq.address) as look:
        await look.settled(f"{topic}_g")


@asynccontextmanager
async def impatient(rabbitmq: RabbitMQ, *, timeout_s: float) -> AsyncGenerator[None]:
    """New channels of the server are closed where a delivery is unsettled for longer."""

    async def say(*settings: str) -> None:
        told = ", ".join(settings)
        await asyncio.to_thread(rabbitmq.control, "eval", f"{told}.")

    def set_to(name: str, milliseconds: int) -> str:
        return f"application:set_env(rabbit, {name}, {milliseconds})"

    await say(
        set_to("consumer_timeout", int(timeout_s * 1_000)), set_to("channel_tick_interval", 200)
    )
    try:
        yield
    finally:
        await say(set_to("consumer_timeout", 1_800_000), set_to("channel_tick_interval", 60_000))


@pytest.mark.fault("RMQ-03")
async def test_a_handler_that_takes_longer_than_the_server_waits(rabbitmq: RabbitMQ) -> None:
    """That channel is closed, and what it held comes again; those beside it are not bothered.

    Health says what has happened.
    """
    topic, neighbour = named("slow"), named("neighbour")
    async with (
        impatient(rabbitmq, timeout_s=1.0),
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address) as broker,
    ):
        publisher = broker.publisher()
        async with (
            broker.subscriber(group="g").subscribe(topic) as deliveries,
            broker.subscriber(group="g").subscribe(neighbour) as others,
        ):
            messages = [Message(b"x") for _ in range(3)]
            await publisher.publish(topic, *messages)
            held = await take(deliveries, 3)
            assert held[0].ack()
            waiting = asyncio.create_task(take(others, 1))
            await until(lambda: bool(deliveries.problem), "it is closed", within=5)
            assert "timed out" in deliveries.problem or "timeout" in deliveries.problem
            assert not others.problem
            again = await take(deliveries, 2, within=BACK_S)
            assert {d.message.id for d in again} == {m.id for m in messages[1:]}
            for old in held[1:]:
                old.ack()
                with pytest.raises(SettleError):
                    await old.settled()
            assert not (await look.kept(f"{topic}_g")).ready
            for delivery in again:
                assert delivery.ack()
                await delivery.settled()
            # On the connection and the channel of before
            await publisher.publish(neighbour, beside := Message(b"x"))
            (delivery,) = await waiting
            assert delivery.message.id == beside.id
            assert delivery.ack()
            await delivery.settled()
        await look.settled(f"{topic}_g")


@pytest.mark.fault("RMQ-03")
@pytest.mark.parametrize(("lasts", "warned"), [(0.9, False), (1.0, True), (None, True)])
async def test_whoever_starts_a_handler_that_may_take_longer_is_warned(
    rabbitmq: RabbitMQ, lasts: float | None, caplog: pytest.LogCaptureFixture, *, warned: bool
) -> None:
    """Also one that takes too long is handled in the end, where it does not do so each time."""
    topic = named("slow")
    began, done = Counter[str](), Counter[str]()
    async with (
        impatient(rabbitmq, timeout_s=1.0),
        broker_at(rabbitmq.address, consumer_timeout=1.0) as broker,
    ):

        async def handle(message: Message) -> None:
            began[message.id] += 1
            if lasts is None and began[message.id] == 1:
                await asyncio.sleep(2.5)
            done[message.id] += 1

        router = Router()
        router.add_handler(
            "slow", topic, handle, subscriber=broker.subscriber(group="g"), timeout=lasts
        )
        async with router:
            lines = [r for r in caplog.records if "handler_may_be_cut" in r.getMessage()]
            assert len(lines) == warned
            await broker.publisher().publish(topic, message := Message(b"x"))
            wanted = 2 if lasts is None else 1
            await until(lambda: done[message.id] == wanted, "it is handled", within=10)
    async with outside(rabbitmq.address) as look:
        await look.settled(f"{topic}_g")


# --------------------------------------------------------------------------- publishing


async def test_an_exchange_that_is_deleted_under_its_publisher(rabbitmq: RabbitMQ) -> None:
    """One publish fails, and says what it knows; then it is declared again."""
    topic, neighbour = named("deleted"), named("neighbour")
    async with outside(rabbitmq.address) as look, broker_at(rabbitmq.address) as broker:
        publisher = broker.publisher()
        async with broker.subscriber(group="g").subscribe(neighbour) as others:
            await publisher.publish(neighbour, held := Message(b"x"))
            (delivery,) = await take(others, 1)
            await publisher.publish(topic, Message(b"x"))
            await look.channel.exchange_delete(topic)
            messages = [Message(b"x") for _ in range(3)]
            with pytest.raises(PublishError) as caught:
                await publisher.publish(topic, *messages)
            assert {*caught.value.unknown, *caught.value.not_stored} == {m.id for m in messages}
            assert "no exchange" in str(caught.value)
            for _ in range(3):
                await publisher.publish(topic, Message(b"x"))
                await publisher.publish(neighbour, Message(b"x"))
            assert delivery.message.id == held.id
            assert delivery.ack()
            await delivery.settled()


async def test_a_connection_that_is_being_closed(rabbitmq: RabbitMQ) -> None:
    """Before that is said, too: a publish waits for the next one, and an ack is refused."""
    topic = named("closing")
    async with broker_at(rabbitmq.address) as broker:
        publisher = broker.publisher()
        async with broker.subscriber(group="g").subscribe(topic) as deliveries:
            messages = [Message(b"x") for _ in range(2)]
            await publisher.publish(topic, *messages)
            acked, given_back = await take(deliveries, 2)
            for link in (broker.link, broker.receiving):
                session: Any = link.session
                session._writer.write_eof()
                session._writer.close()
            publishing = asyncio.create_task(publisher.publish(topic, after := Message(b"x")))
            acked.ack()
            given_back.release()
            with pytest.raises(SettleError):
                await acked.settled()
            await publishing
            came = await fresh(deliveries, {after.id, *(m.id for m in messages)})
            assert len(came) == 3


@pytest.mark.fault("RMQ-01")
async def test_what_reaches_no_queue(rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture) -> None:
    """Where the publisher names the queue it is an error, elsewhere it is counted and logged."""
    topic, shared = named("nobody"), named("deleted")
    async with outside(rabbitmq.address) as look, broker_at(rabbitmq.address) as broker:
        await broker.publisher().publish(topic, Message(b"x"), Message(b"x"))
        assert broker.unrouted == {topic: 2}
        assert any("messages_unrouted" in record.getMessage() for record in caplog.records)
        publisher = broker.publisher(topology=WorkQueue())
        await publisher.publish(shared, Message(b"x"))
        await look.channel.queue_delete(shared)
        lost = Message(b"x")
        with pytest.raises(PublishError) as caught:
            await publisher.publish(shared, lost)
        assert caught.value.not_stored == (lost.id,)
        assert not caught.value.unknown
        await publisher.publish(shared, lost)  # the queue is declared again
        assert await look.drain(shared) == [(lost.id, b"x")]


async def test_one_message_to_a_queue_and_to_none(rabbitmq: RabbitMQ) -> None:
    """At the same time, by one name: each call is told of its own."""
    there, gone = named("there"), named("gone")
    topology = WorkQueue(queue_type="classic")
    async with outside(rabbitmq.address) as look, broker_at(rabbitmq.address) as broker:
        publisher = broker.publisher(topology=topology)
        await publisher.publish(there, Message(b"before"))
        for _ in range(20):
            await publisher.prepare(gone)
            await look.channel.queue_delete(gone)
            message = Message(b"x")
            first, second = await asyncio.gather(
                publisher.publish(there, message),
                publisher.publish(gone, message),
                return_exceptions=True,
            )
            assert first is None
            assert isinstance(second, PublishError)
            assert second.not_stored == (message.id,)


class Short:
    """A queue for two messages that takes no more, then."""

    has_groups = False

    def __init__(self, kind: str, overflow: str = "reject-publish") -> None:
        self._kind = kind
        self._overflow = overflow

    def route(self, topic: str) -> Route:
        """To the queue."""
        return Route("", topic, must_arrive=True, parts=self.source(topic, "").parts)

    def source(self, topic: str, group: Group) -> Source:
        """The queue."""
        arguments: dict[str, str | int | bool] = {
            "x-queue-type": self._kind,
            "x-max-length": 2,
            "x-overflow": self._overflow,
        }
        return Source(topic, (Queue(topic, arguments=arguments),), counts=self._kind == "quorum")

    def keeping(self, topic: str) -> Route:
        """To the queue."""
        return self.route(topic)


@pytest.mark.fault("RMQ-12")
@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_a_queue_that_is_full(rabbitmq: RabbitMQ, kind: str) -> None:
    """The publish raises, and says which are not stored; once some are taken there is room."""
    topic = named("full")
    async with outside(rabbitmq.address) as look, broker_at(rabbitmq.address) as broker:
        publisher = broker.publisher(topology=Short(kind))
        stored, not_stored = set[str](), set[str]()
        # A quorum queue takes a few more than it should before it says so.
        for _ in range(5):
            messages = [Message(b"x") for _ in range(4)]
            failure: PublishError | None = None
            try:
                await publisher.publish(topic, *messages)
            except PublishError as exc:
                failure = exc
            if failure is None:
                stored |= {message.id for message in messages}
                continue
            assert "takes no more" in str(failure)
            assert not failure.unknown
            stored |= {*failure.stored}
            not_stored |= {*failure.not_stored}
        assert len(stored) >= 2
        assert len(not_stored) >= 4
        assert len(stored) + len(not_stored) == 20
        assert {name for name, _ in await look.drain(topic)} == stored
        await publisher.publish(topic, Message(b"x"))


@pytest.mark.fault("RMQ-12")
async def test_one_of_several_groups_whose_queue_is_full(rabbitmq: RabbitMQ) -> None:
    """The others have what it refuses, so that nobody says that it is not stored."""
    topic = named("full")
    async with outside(rabbitmq.address) as look, broker_at(rabbitmq.address) as broker:
        publisher = broker.publisher()
        await broker.subscriber(group="g").prepare(topic)
        await look.channel.queue_declare(
            f"{topic}_full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await look.channel.queue_bind(f"{topic}_full", topic)
        first, refused = Message(b"x"), Message(b"x")
        await publisher.publish(topic, first)
        with pytest.raises(PublishError, match="takes no more") as caught:
            await publisher.publish(topic, refused)
        assert caught.value.unknown == (refused.id,)
        assert not caught.value.not_stored
        assert {name for name, _ in await look.drain(f"{topic}_g")} == {first.id, refused.id}
        await look.channel.queue_delete(f"{topic}_full")


async def test_another_channel_after_a_refusal(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has met a dead leader refuses all, so that it is not published on for ever.

    Not more often than once a second: a queue that is full refuses as well.
    """
    topic = named("refused")
    async with broker_at(rabbitmq.address) as broker:
        publisher = broker.publisher(topology=Short("classic"))
        await publisher.publish(topic, Message(b"x"), Message(b"x"))
        session = broker.link.session
        assert session is not None
        seen = [await session.publishing("")]
        for wait_s in (_sending.DOUBT_S, _sending.DOUBT_S, 0.0):
            monkeypatch.setattr(_sending, "DOUBT_S", wait_s)
            with pytest.raises(PublishError, match="takes no more"):
                await publisher.publish(topic, Message(b"x"))
            seen.append(await session.publishing(""))
        assert [one is seen[0] for one in seen] == [True, False, False, False]
        assert seen[1] is seen[2] is not seen[3]


@pytest.mark.fault("RMQ-12")
async def test_a_queue_that_drops_when_it_is_full(
    rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody learns what it has dropped, so that it does is said when it is declared."""
    for overflow, warned in (("reject-publish", False), ("drop-head", True)):
        topic = named("full")
        async with broker_at(rabbitmq.address) as broker:
            publisher = broker.publisher(topology=Short("classic", overflow))
            await publisher.prepare(topic)
            lines = [r.getMessage() for r in caplog.records if topic in r.getMessage()]
            assert any("queue_may_drop" in line for line in lines) == warned


async def use(broker: RabbitMQBroker, topic: str, side: str) -> None:
    """Come upon a queue for the first time."""
    publisher = broker.publisher(topology=WorkQueue())
    subscriber = broker.subscriber(topology=WorkQueue())
    if side == "publisher":
        await publisher.publish(topic, Message(b"x"))
    elif side == "subscriber":
        async with subscriber.subscribe(topic):
            raise AssertionError("it was entered")
    else:

        async def handle(message: Message) -> None:
            raise AssertionError(message)

        router = Router()
        router.add_handler("h", topic, handle, subscriber=subscriber)
        async with router:
            raise AssertionError("it was entered")


@pytest.mark.fault("RMQ-08")
@pytest.mark.parametrize("side", ["publisher", "subscriber", "router"])
async def test_a_queue_that_is_there_with_other_properties(
    rabbitmq: RabbitMQ, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One error, which names it; nothing is tried again, and nobody else is bothered."""
    topic, neighbour = named("clash"), named("neighbour")
    async with outside(rabbitmq.address) as look, broker_at(rabbitmq.address) as broker:
        await look.channel.queue_declare(topic, durable=True)
        async with broker.subscriber(group="g").subscribe(neighbour) as others:
            await broker.publisher().publish(neighbour, Message(b"x"))
            (held,) = await take(others, 1)
            with pytest.raises(TopologyError, match=topic):
                await use(broker, topic, side)
            count = len(caplog.records)
            await asyncio.sleep(1.0)
            assert len(caplog.records) == count, "it is tried again"
            assert held.ack()
            await held.settled()


async def test_a_queue_that_was_made_anew_with_other_properties(rabbitmq: RabbitMQ) -> None:
    """While it was received: the subscription ends with one error, rather than to try for ever."""
    topic = named("anew")
    async with (
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        receiving = asyncio.create_task(deliveries.receive())
        await look.received(f"{topic}_g")
        await look.replace(f"{topic}_g")
        with pytest.raises(TopologyError, match=topic):
            async with asyncio.timeout(BACK_S):
                await receiving
        assert topic in deliveries.problem


@pytest.mark.fault("RMQ-11")
async def test_a_server_that_is_out_of_memory(rabbitmq: RabbitMQ) -> None:
    """Publishes end in time and say what they know; what was received can be settled meanwhile."""
    topic = named("alarm")
    async with (
        outside(rabbitmq.address) as look,
        broker_at(rabbitmq.address, publish_timeout=1.5) as broker,
    ):
        publisher = broker.publisher()
        async with broker.subscriber(group="g").subscribe(topic) as deliveries:
            messages = [Message(b"x") for _ in range(3)]
            await publisher.publish(topic, *messages)
            held = await take(deliveries, 3)
            sent = Message(b"sent")
            later = Message(b"later")
            await asyncio.to_thread(
                rabbitmq.control, "set_vm_memory_high_watermark", "absolute", "1"
            )
            try:
                for message in (sent, later):
                    began = time.monotonic()
                    with pytest.raises(PublishTimeoutError, match="memory") as caught:
                        await publisher.publish(topic, message)
                    assert time.monotonic() - began < 2.5
                    told = caught.value.unknown if message is sent else caught.value.not_stored
                    assert told == (message.id,)
                assert broker.problem, "health says so"
                for delivery in held:
                    assert delivery.ack()
                    await delivery.settled()
                told_s = await until(lambda: no_unsettled(rabbitmq, f"{topic}_g"), "acks arrive")
                print(f"acks have arrived after {told_s:.1f} s")
            finally:
                await asyncio.to_thread(
                    rabbitmq.control, "set_vm_memory_high_watermark", "absolute", "512MB"
                )
            await until(lambda: not broker.problem, "health says so")
            await publisher.publish(topic, after := Message(b"after"))
            came = {d.message.id for d in await fresh(deliveries, {after.id})}
            assert came <= {after.id, sent.id}
        await look.settled(f"{topic}_g")


async def no_unsettled(rabbitmq: RabbitMQ, queue: str) -> bool:
    told = await asyncio.to_thread(
        rabbitmq.control, "list_queues", "name", "messages_unacknowledged", "--no-table-headers"
    )
    rows = (line.split("\t") for line in told.splitlines())
    return dict(row for row in rows if len(row) == 2)[queue] == "0"
