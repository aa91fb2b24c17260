"""A consumer group that Watermill and we share."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from eventflow.messaging import Message
from tests.brokers.kafka.support import broker_at, committed, records, until
from tests.interop.support import BUILT_WITHIN_S, Watermill, Written, shares

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from eventflow.brokers.kafka import KafkaBroker
    from eventflow.messaging import Deliveries, Delivery, Subscriber
    from tests.servers.kafka import Kafka

    # Ids and partitions of what one has handled so far.
    Handled = Callable[[], list[tuple[str, object]]]

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(BUILT_WITHIN_S)]

# What the clients call themselves.
OURS, THEIRS = "rdkafka", "watermill"


@pytest.fixture
def topic(kafka: Kafka) -> str:
    return kafka.create_topic(f"interop.{uuid.uuid4().hex[:12]}")


@pytest.fixture
def group() -> str:
    return f"interop-{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def our_member(broker: KafkaBroker, topic: str, group: str) -> AsyncGenerator[Handled]:
    acked: list[Delivery] = []

    async def read(deliveries: Deliveries) -> None:
        async for delivery in deliveries:
            if delivery.ack():
                acked.append(delivery)  # noqa: PERF401 - it is looked at meanwhile

    async with broker.subscriber(group=group).subscribe(topic) as deliveries:
        reading = asyncio.create_task(read(deliveries))
        yield lambda: [(d.message.id, d.coordinates["partition"]) for d in acked]
    await reading


@asynccontextmanager
async def their_member(watermill: Watermill, topic: str, group: str) -> AsyncGenerator[Handled]:
    async with watermill.running("consume", topic=topic, group=group) as reader:
        yield lambda: [(one.id, one.partition) for one in reader.received]


async def all_committed(subscriber: Subscriber, topic: str) -> None:
    async with asyncio.timeout(30):
        while await subscriber.lag(topic):  # noqa: ASYNC110 - a broker does it
            await asyncio.sleep(0.05)


async def until_committed(kafka: Kafka, topic: str, group: str, number: int) -> None:
    def stands() -> bool:
        places = committed(kafka, topic, group).values()
        return number == sum(max(int(offset), 0) for offset, _ in places)

    async with asyncio.timeout(30):
        while not await asyncio.to_thread(stands):  # noqa: ASYNC110 - a broker does it
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("leader", [OURS, THEIRS])
async def test_a_group_of_both(
    kafka: Kafka, watermill: Watermill, topic: str, group: str, leader: str
) -> None:
    """``assignor="range"``: each has half of the partitions, whoever came first and divides them.

    Each message is handled once, by the one that has its partition. When the first one leaves,
    the other one has all partitions, and goes on where that stopped.
    """
    ours = [Message(b"x", key=f"key-{n % 16}") for n in range(200)]
    theirs = [Written(b"x", id=f"theirs-{n}", key=f"key-{n % 16}") for n in range(200)]
    later = [Message(b"x", key=f"key-{n % 16}") for n in range(100)]
    options = {"assignor": "range", "partitioner": "fnv1a"}
    async with (
        broker_at(kafka.address, **options) as broker,
        AsyncExitStack() as staying,
        AsyncExitStack() as leaving,
    ):
        subscriber, publisher = broker.subscriber(group=group), broker.publisher()
        members = {
            OURS: our_member(broker, topic, group),
            THEIRS: their_member(watermill, topic, group),
        }
        first = await leaving.enter_async_context(members.pop(leader))
        await shares(kafka, group, **{leader: 4})
        ((other, joining),) = members.items()
        second = await staying.enter_async_context(joining)
        shared = await shares(kafka, group, **{leader: 2, other: 2})

        await publisher.publish(topic, *ours)
        await watermill.publish(topic, *theirs)
        sent = Counter([m.id for m in ours] + [m.id for m in theirs])
        await until(lambda: len(first()) + len(second()) >= len(sent), "all handled")
        await all_committed(subscriber, topic)
        assert Counter(i for i, _ in first() + second()) == sent
        assert {partition for _, partition in first()} <= shared[leader]
        assert {partition for _, partition in second()} <= shared[other]
        assert first()
        assert second()

        await leaving.aclose()
        assert await shares(kafka, group, **{other: 4}) == {other: {0, 1, 2, 3}}
        await publisher.publish(topic, *later)
        sent += Counter(m.id for m in later)
        await until(lambda: len(first()) + len(second()) >= len(sent), "all handled")
        await all_committed(subscriber, topic)
        assert Counter(i for i, _ in first() + second()) == sent


async def test_members_come_and_go_under_load(
    kafka: Kafka, watermill: Watermill, topic: str, group: str
) -> None:
    """Watermill joins, leaves and joins again, then ours leaves: nothing is lost.

    Nothing that we have handled is handled again. What Watermill acked when the group was already
    sharing anew, or when it was closed, may be: one message of a partition each time.
    """
    count, changes, partitions = 2_000, 4, 4
    sent = [Message(b"x", key=f"key-{n % 16}") for n in range(count)]
    handled: list[Handled] = []

    async def reached(fifths: int) -> None:
        def has() -> bool:
            return sum(len(member()) for member in handled) > fifths * count // 5

        await until(has, f"{fifths} fifths handled")

    async with (
        broker_at(kafka.address, assignor="range") as broker,
        asyncio.TaskGroup() as tasks,
        AsyncExitStack() as leaving,
    ):
        publisher = broker.publisher()

        async def publish() -> None:
            for at in range(0, count, 20):
                await publisher.publish(topic, *sent[at : at + 20])
                await asyncio.sleep(0.05)

        member = our_member(broker, topic, group)
        handled.append(await leaving.enter_async_context(member))
        publishing = tasks.create_task(publish())
        await reached(1)
        async with their_member(watermill, topic, group) as first:
            handled.append(first)
            await shares(kafka, group, **{OURS: 2, THEIRS: 2})
            await reached(2)
        await reached(3)
        async with their_member(watermill, topic, group) as second:
            handled.append(second)
            await shares(kafka, group, **{OURS: 2, THEIRS: 2})
            await reached(4)
            await leaving.aclose()
            await publishing
            await until(
                lambda: len({i for member in handled for i, _ in member()}) == count, "all handled"
            )
            await all_committed(broker.subscriber(group=group), topic)
    ours, *theirs = (Counter(i for i, _ in member()) for member in handled)
    assert all(member for member in (ours, *theirs))
    assert set(ours.values()) == {1}
    every = ours + theirs[0] + theirs[1]
    assert set(every) == {message.id for message in sent}
    again = {i for i, times in every.items() if times > 1}
    assert not [i for i in again if not (theirs[0][i] or theirs[1][i])]
    assert len(again) <= changes * partitions


async def test_what_a_member_held_is_handled_by_the_other_when_it_leaves(
    kafka: Kafka, watermill: Watermill, topic: str, group: str
) -> None:
    """Whatever it has not acked, of ours and of Watermill's, comes there; what it has, does not."""
    sent = [Message(str(n).encode(), key=f"key-{n}") for n in range(40)]
    async with broker_at(kafka.address, assignor="range") as broker:
        subscriber = broker.subscriber(group=group)
        await broker.publisher().publish(topic, *sent)
        async with subscriber.subscribe(topic) as deliveries:
            held: list[Delivery] = []
            while len(held) < len(sent):
                held += await deliveries.receive(len(sent))
            # The first half of each partition, so that no offset is skipped.
            done: list[Delivery] = []
            for partition in range(4):
                mine = [d for d in held if d.coordinates["partition"] == partition]
                done += mine[: len(mine) // 2]
            assert all(delivery.ack() for delivery in done)
            for delivery in done:
                await delivery.settled()
        left = Counter(m.id for m in sent) - Counter(d.message.id for d in done)
        async with watermill.running("consume", topic=topic, group=group, limit=10) as reader:
            came = await reader.wait(11)
            # An ack that Watermill has not looked at when it is closed is lost.
            await until_committed(kafka, topic, group, len(done) + 10)
        assert [one.did for one in came] == ["acked"] * 10 + ["held"]
        theirs = Counter(one.id for one in came if one.did == "acked")
        async with our_member(broker, topic, group) as handled:
            left -= theirs
            await until(lambda: len(handled()) >= len(left), "the rest is handled")
            await all_committed(subscriber, topic)
            assert Counter(i for i, _ in handled()) == left


async def test_a_commit_of_watermill_says_nothing_of_what_was_done_out_of_turn(
    kafka: Kafka, watermill: Watermill, group: str
) -> None:
    """We did all but offset 3, and the commit says so; Watermill does not read it, and begins at 3.

    As long as it commits nothing, what we said stays. With its first commit it is gone: what it
    had not done by then comes to us a second time. Nothing is lost.
    """
    topic = kafka.create_topic(f"interop.{uuid.uuid4().hex[:12]}", partitions=1)

    def standing() -> tuple[int, str | None]:
        offset, metadata = committed(kafka, topic, group, partitions=1)[0]
        return offset, metadata

    async with broker_at(kafka.address, assignor="range") as broker:
        await broker.publisher().publish(topic, *(Message(str(n).encode()) for n in range(10)))
        subscriber = broker.subscriber(group=group)
        async with subscriber.subscribe(topic) as deliveries:
            held: list[Delivery] = []
            while len(held) < 10:
                held += await deliveries.receive(10)
            done = [d for d in held if d.message.payload != b"3"]
            assert all(delivery.ack() for delivery in done)
            for delivery in done:
                await delivery.settled()
        offset, said = standing()
        assert offset == 3
        assert said is not None
        assert said.startswith("eventflow1:")
        assert await subscriber.lag(topic) == 1

        async with watermill.running("consume", topic=topic, group=group, limit=0) as reader:
            (first,) = await reader.wait(1)
            assert (first.payload, first.did) == (b"3", "held")
        assert standing() == (3, said)

        async with watermill.running("consume", topic=topic, group=group, limit=2) as reader:
            came = await reader.wait(3)
            # The third is there, so the second was marked: they are of one partition.
            assert [(one.payload, one.did) for one in came] == [
                (b"3", "acked"),
                (b"4", "acked"),
                (b"5", "held"),
            ]
        assert standing() == (5, None)
        assert await subscriber.lag(topic) == 5

        async with subscriber.subscribe(topic) as deliveries:
            again: list[Delivery] = []
            while len(again) < 5:
                again += await deliveries.receive(10)
            assert [d.message.payload for d in again] == [b"5", b"6", b"7", b"8", b"9"]
            assert all(delivery.ack() for delivery in again)
        assert await subscriber.lag(topic) == 0
    assert len(records(kafka, topic, partitions=1)) == 10
