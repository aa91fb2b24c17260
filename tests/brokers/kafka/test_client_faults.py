"""What the client library may do at a bad moment: give up, answer late, or never."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import traceback
import uuid
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from eventflow.brokers.kafka import _consumer, _feed
from eventflow.errors import (
    BrokerConnectionError,
    BrokerError,
    InvalidOptionError,
    PublishError,
    PublishTimeoutError,
    SettleError,
    TopicNotFoundError,
)
from eventflow.messaging import Message
from tests.brokers.kafka.fatal import FENCED, OUT_OF_ORDER, give_up
from tests.brokers.kafka.support import broker_at, committed, records, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventflow.messaging import Deliveries, Delivery
    from tests.servers.kafka import Kafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]


@pytest.fixture
def topic(kafka: Kafka) -> str:
    return kafka.create_topic(f"faults.{uuid.uuid4().hex[:12]}", partitions=2)


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:12]}"


async def take(deliveries: Deliveries, count: int, *, ack: bool = False) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            came = await deliveries.receive(count - len(found))
            found += [d for d in came if not ack or d.ack()]
    return found


@pytest.fixture
def threads() -> Callable[[], list[str]]:
    """The backend's threads that were not there before the test."""
    before = set(threading.enumerate())

    def names() -> list[str]:
        new = set(threading.enumerate()) - before
        return [thread.name for thread in new if thread.name.startswith("eventflow:kafka")]

    return names


def clients() -> int:
    """How many clients of the library are not gone: each has one thread of this name."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            found += (task / "comm").read_text() == "rdk:main\n"
    return found


# --------------------------------------------------------------------------- publishing


async def test_a_producer_that_gives_up(
    kafka: Kafka, topic: str, threads: Callable[[], list[str]]
) -> None:
    """What is under way ends, as one that may be stored; the next publish has another producer."""
    async with broker_at(kafka.address, publish_timeout=5.0) as broker:
        publisher = broker.publisher()
        await publisher.publish(topic, Message(b"1"))
        kafka.freeze()
        try:
            cut = Message(b"2")
            under_way = asyncio.create_task(publisher.publish(topic, cut))
            await asyncio.sleep(0.2)
            client: Any = await broker.producer()
            give_up(client._producer, OUT_OF_ORDER)
            with pytest.raises(PublishError) as caught:
                async with asyncio.timeout(8):
                    await under_way
            assert caught.value.unknown == (cut.id,)
        finally:
            kafka.thaw()
        for n in range(10):
            with suppress(PublishError):  # the one that finds out
                await publisher.publish(topic, Message(b"3", {"n": str(n)}))
                break
        else:
            raise AssertionError("nothing can be published any more")
    await until(lambda: not threads(), "its threads end")


async def test_what_was_sent_and_purged_may_be_stored(kafka: Kafka, topic: str) -> None:
    """Timed out once, it waits in the library's queue, and may have been stored all the same."""
    messages = [Message(b"x") for _ in range(3)]
    broker = broker_at(kafka.address, properties={"socket.timeout.ms": 1_000})
    async with broker:
        await broker.publisher().publish(topic, Message(b"before"))
        kafka.freeze()
        try:
            publishing = asyncio.create_task(broker.publisher().publish(topic, *messages))
            await asyncio.sleep(3.5)
            await broker.__aexit__(None, None, None)
            with pytest.raises(PublishError) as caught:
                await publishing
        finally:
            kafka.thaw()
    assert set(caught.value.unknown) == {message.id for message in messages}


@pytest.mark.parametrize("what", ["a topic that is new", "no room for one more"])
async def test_a_publish_has_one_deadline(kafka: Kafka, topic: str, what: str) -> None:
    """Looking the topic up and waiting for room count, too."""
    full = {"queue.buffering.max.kbytes": 1_000} if "room" in what else {}
    async with broker_at(kafka.address, publish_timeout=2.0, properties=full) as broker:
        publisher = broker.publisher()
        if "room" in what:
            await publisher.publish(topic, Message(b"x"))
        kafka.freeze()
        try:
            began = time.monotonic()
            messages = [Message(b"x" * 300_000) for _ in range(8)]
            with pytest.raises(PublishTimeoutError) as caught:
                await publisher.publish(topic, *messages)
            assert time.monotonic() - began < 3.5
        finally:
            kafka.thaw()
        told = caught.value.unknown + caught.value.not_stored
        assert told == tuple(message.id for message in messages)
        if "room" not in what:
            assert not caught.value.unknown


async def test_a_broker_closed_while_a_publish_waits_for_room(kafka: Kafka, topic: str) -> None:
    """The error says what was sent before."""
    properties = {"queue.buffering.max.kbytes": 1_000}
    async with broker_at(kafka.address, properties=properties) as broker:
        await broker.publisher().publish(topic, Message(b"before"))
        kafka.freeze()
        try:
            messages = [Message(b"x" * 300_000) for _ in range(8)]
            publishing = asyncio.create_task(broker.publisher().publish(topic, *messages))
            await asyncio.sleep(0.3)
            await broker.__aexit__(None, None, None)
            with pytest.raises(PublishError) as caught:
                async with asyncio.timeout(5):
                    await publishing
        finally:
            kafka.thaw()
    ids = [message.id for message in messages]
    assert 0 < len(caught.value.unknown) < 8
    assert [*caught.value.unknown, *caught.value.not_stored] == ids


async def test_sizes_are_of_bytes(kafka: Kafka, topic: str) -> None:
    """Names beyond ASCII: refused before anything of the call is sent."""
    async with broker_at(kafka.address) as broker:
        messages = [Message(b"x"), Message(b"x", {"ż" * 9_000: "v", "ź" * 9_000: "v"})]
        with pytest.raises(PublishError) as caught:
            await broker.publisher().publish(topic, *messages)
        assert caught.value.not_stored == tuple(message.id for message in messages)
    assert not records(kafka, topic, partitions=2)


# ----------------------------------------------------------------------------- receiving


@pytest.mark.parametrize(
    ("assignor", "transactional"), [("cooperative-sticky", False), ("range", True)]
)
async def test_a_consumer_that_gives_up(
    kafka: Kafka, topic: str, group: str, assignor: str, *, transactional: bool
) -> None:
    """The subscription says so, and can be made again; acks are not made up.

    Its threads end, also the client library's, though that does not end its close.
    """
    async with broker_at(kafka.address, assignor=assignor, session_timeout=1.0) as broker:
        await broker.publisher().publish(topic, *(Message(b"x") for _ in range(4)))
        subscriber = broker.subscriber(group=group, transactional=transactional)
        before = clients()
        async with subscriber.subscribe(topic) as deliveries:
            held = await take(deliveries, 4)
            feed: Any = next(iter(broker.feeds.values()))
            give_up(feed._thread._consumer, FENCED)
            with pytest.raises(BrokerConnectionError):
                async with asyncio.timeout(10):
                    await deliveries.receive()
            await until(lambda: feed.is_ended and clients() <= before, "the consumer is gone")
            assert not any(delivery.ack() for delivery in held)
        async with subscriber.subscribe(topic) as deliveries:
            again = await take(deliveries, 4)
            assert {d.message.id for d in again} == {d.message.id for d in held}


@pytest.mark.parametrize("how", ["an error of the library", "an error of ours"])
async def test_a_thread_that_fails_confirms_nothing(
    kafka: Kafka, topic: str, group: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts as acked is committed, and the subscription is broken, not left."""
    monkeypatch.setattr(_feed, "FLUSH_S", 60.0)  # no commit before
    async with broker_at(kafka.address) as broker:
        await broker.publisher().publish(topic, *(Message(b"x") for _ in range(4)))
        async with broker.subscriber(group=group).subscribe(topic) as deliveries:
            held = await take(deliveries, 4)
            assert all(delivery.ack() for delivery in held)
            error: Exception = ZeroDivisionError()
            if "library" in how:
                error = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

            def fail(*_: object) -> None:
                raise error

            monkeypatch.setattr(_consumer.ConsumerThread, "_wait_for_room", fail)
            with pytest.raises(BrokerError):
                async with asyncio.timeout(10):
                    await deliveries.receive()
            async with asyncio.timeout(10):
                for delivery in held:
                    with suppress(SettleError):
                        await delivery.settled()
    ends = committed(kafka, topic, group, partitions=2)
    for delivery in held:
        place = delivery.coordinates
        assert delivery.is_confirmed == (int(place["offset"]) < ends[int(place["partition"])][0])


@pytest.mark.parametrize("how", ["raised", "of a partition"])
async def test_a_group_whose_place_is_not_known_yet(
    kafka: Kafka, topic: str, group: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a group is, is asked again and again, at no cost to the subscription."""
    error = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)
    refusals = [error] * 5

    class Unsure(Consumer):
        def committed(self, *args: Any, **options: Any) -> Any:
            found = super().committed(*args, **options)
            if not refusals:
                return found
            if how == "raised":
                raise KafkaException(refusals.pop())
            return [*found[1:], SimpleNamespace(error=refusals.pop())]

    monkeypatch.setattr(_consumer, "Consumer", Unsure)
    async with broker_at(kafka.address) as broker:
        await broker.publisher().publish(topic, *(Message(b"x") for _ in range(8)))
        async with broker.subscriber(group=group).subscribe(topic) as deliveries:
            await take(deliveries, 8, ack=True)
    assert not refusals


async def revoking(broker: Any, group: str, topic: str) -> list[int]:
    """Wait until partitions are being taken from a member; which."""
    feed: Any = broker.feeds[group, topic]
    await until(lambda: feed._revocation is not None, "a partition is being taken away")
    return [partition.number for partition in feed._revocation.partitions]


@pytest.mark.parametrize("acked", ["all", "some"])
@pytest.mark.parametrize("assignor", ["cooperative-sticky", "range"])
async def test_a_member_that_leaves_while_a_partition_is_taken_from_it(
    kafka: Kafka, topic: str, group: str, assignor: str, acked: str
) -> None:
    """Its acks are committed, and say so; only what was not acked comes to the other."""
    options = {"assignor": assignor}
    messages = [Message(str(n).encode(), key=f"k{n}") for n in range(16)]
    async with (
        broker_at(kafka.address, **options) as one,
        broker_at(kafka.address, **options) as two,
    ):
        await one.publisher().publish(topic, *messages)
        leaving = one.subscriber(group=group).subscribe(topic)
        held = await take(await leaving.__aenter__(), 16)
        joining = two.subscriber(group=group).subscribe(topic)
        others = await joining.__aenter__()
        numbers = await revoking(one, group, topic)
        mine = [d for d in held if d.coordinates["partition"] in numbers]
        done = mine if acked == "all" else mine[::2]
        for delivery in done:
            assert delivery.ack()
        await leaving.__aexit__(None, None, None)
        async with asyncio.timeout(10):
            for delivery in done:
                await delivery.settled()
        came = await take(others, 16 - len(done), ack=True)
        assert {d.message.id for d in came} == {message.id for message in messages} - {
            d.message.id for d in done
        }
        await joining.__aexit__(None, None, None)


async def test_acks_while_a_partition_is_taken_away(kafka: Kafka, topic: str, group: str) -> None:
    """The last commit is the last: none that was asked for before follows it."""
    messages = [Message(str(n).encode(), key=f"k{n}") for n in range(16)]
    async with broker_at(kafka.address) as one, broker_at(kafka.address) as two:
        await one.publisher().publish(topic, *messages)
        async with one.subscriber(group=group).subscribe(topic) as deliveries:
            held = await take(deliveries, 16)
            joining = two.subscriber(group=group).subscribe(topic)
            await joining.__aenter__()
            numbers = await revoking(one, group, topic)
            mine = [d for d in held if d.coordinates["partition"] in numbers]
            for half in (mine[: len(mine) // 2], mine[len(mine) // 2 :]):
                for delivery in half:
                    assert delivery.ack()
                await asyncio.sleep(0.1)
            async with asyncio.timeout(10):
                for delivery in mine:
                    await delivery.settled()
            await joining.__aexit__(None, None, None)
        ends = committed(kafka, topic, group, partitions=2)
        for number in numbers:
            last = max(
                int(d.coordinates["offset"]) for d in mine if d.coordinates["partition"] == number
            )
            assert ends[number] == (last + 1, "")


async def test_leaving_while_a_partition_is_taken_and_the_server_hangs(
    kafka: Kafka, topic: str, group: str, threads: Callable[[], list[str]]
) -> None:
    """Bounded; librdkafka goes on waiting, so the thread ends when the server answers again."""
    async with broker_at(kafka.address) as one, broker_at(kafka.address) as two:
        await one.publisher().publish(topic, *(Message(b"x", key=str(n)) for n in range(8)))
        leaving = one.subscriber(group=group).subscribe(topic)
        held = await take(await leaving.__aenter__(), 8)
        joining = two.subscriber(group=group).subscribe(topic)
        await joining.__aenter__()
        await revoking(one, group, topic)
        kafka.freeze()
        try:
            assert all(delivery.ack() for delivery in held)
            began = time.monotonic()
            await leaving.__aexit__(None, None, None)
            assert time.monotonic() - began < 5
            for delivery in held:
                with pytest.raises(SettleError):
                    await delivery.settled()
        finally:
            kafka.thaw()
        await joining.__aexit__(None, None, None)
        await until(lambda: not [n for n in threads() if topic in n], "its thread ends")


# ------------------------------------------------------------- opening, closing, asking

CLOSES = """
import asyncio, sys
from tests.brokers.kafka.support import broker_at

async def main():
    broker = broker_at(sys.argv[1])
    async with broker:
        ask, looked = broker._ask, broker.look_up
        async def look_up(topic, **options):
            found = await looked(topic, **options)
            print("frozen?", flush=True)
            sys.stdin.readline()
            return found
        broker.look_up = look_up
        asking = asyncio.create_task(broker.subscriber(group="late").lag(sys.argv[2]))
        await asyncio.sleep(1.0)
    print("closed", flush=True)
    sys.stdin.readline()
    await asyncio.sleep(2.0)
    asking.cancel()

asyncio.run(main())
"""


def test_a_broker_closed_under_a_question(kafka: Kafka, topic: str) -> None:
    """The server answers late: nobody is there any more, and the process lives on."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSES, kafka.address, topic],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"frozen?\n"
        kafka.freeze()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"closed\n"
        kafka.thaw()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.wait(30) == 0
    finally:
        kafka.thaw()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


async def test_two_who_enter_at_once(kafka: Kafka, threads: Callable[[], list[str]]) -> None:
    """One of them is refused, and leaves nothing."""
    broker = broker_at(kafka.address)
    both = [broker.__aenter__(), broker.__aenter__()]
    results = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(isinstance(result, BrokerError) for result in results) == [False, True]
    await broker.__aexit__(None, None, None)
    await until(lambda: not threads(), "its threads end")


async def test_a_refused_property_beside_a_secret(kafka: Kafka, topic: str) -> None:
    """The secret is in no text, no context and no frame's variables."""
    properties = {"ssl.key.password": "hunter2", "max.poll.interval.ms": 1}
    async with broker_at(kafka.address, properties=properties) as broker:
        with pytest.raises(InvalidOptionError) as caught:
            async with broker.subscriber(group="g").subscribe(topic):
                pass
    del properties
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [line for line in shown.format() if f'File "{ROOT}/tests' not in line]
    assert "hunter2" not in "".join(ours)


async def test_topics_are_not_created_by_the_way(secure_kafka: Kafka) -> None:
    """Also on a cluster that would."""
    outside = Producer({"bootstrap.servers": secure_kafka.address})
    outside.produce("made.by-the.way", b"x")
    assert outside.flush(30) == 0
    async with broker_at(secure_kafka.address) as broker:
        subscriber = broker.subscriber(group="g")
        uses: tuple[Callable[[str], Awaitable[object]], ...] = (
            lambda topic: broker.publisher().publish(topic, Message(b"x")),
            broker.publisher().prepare,
            subscriber.prepare,
            subscriber.lag,
            lambda topic: subscriber.subscribe(topic).__aenter__(),
        )
        for n, use in enumerate(uses):
            with pytest.raises(TopicNotFoundError):
                await use(f"nobody.made.this-{n}")
    assert [name for name in secure_kafka.topics() if "nobody" in name] == []
