"""Groups: partitions that come and go, what is committed, and what a kill leaves."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from eventflow.errors import BrokerConnectionError
from eventflow.failure import FailurePolicy, Retry
from eventflow.messaging import BrokerEventPublisher, Message, Router
from tests.brokers.kafka.support import Counted, broker_at, committed, records, until

if TYPE_CHECKING:
    from eventflow.messaging import Deliveries, Delivery
    from tests.servers.kafka import Kafka

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.fixture
def topic(kafka: Kafka) -> str:
    return kafka.create_topic(f"groups.{uuid.uuid4().hex[:12]}")


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:12]}"


def numbered(count: int, *, keys: int = 16) -> list[Message]:
    return [Message(str(n).encode(), key=f"key-{n % keys}") for n in range(count)]


@pytest.mark.fault("KFK-02")
@pytest.mark.parametrize("assignor", ["cooperative-sticky", "range"])
async def test_members_come_and_go_under_load(
    kafka: Kafka, topic: str, group: str, assignor: str
) -> None:
    """One to three and back, while messages are published and handled: none lost, none twice.

    A partition that goes waits for what is being handled, and keys stay in order.
    """
    count = 3_000
    seen: list[tuple[str, int]] = []

    async def member(leave: asyncio.Event) -> None:
        async with broker_at(kafka.address, assignor=assignor) as broker:
            subscriber = broker.subscriber(group=group)
            async with subscriber.subscribe(topic, max_in_flight=50) as deliveries:
                reading = asyncio.create_task(read(deliveries))
                await leave.wait()
            await reading

    async def reached(fifths: int) -> None:
        await until(lambda: len(seen) > fifths * count // 5, f"{fifths} fifths handled")

    async def read(deliveries: Deliveries) -> None:
        async for delivery in deliveries:
            await asyncio.sleep(0)
            if delivery.ack():
                seen.append((str(delivery.message.key), int(delivery.message.payload)))

    async with broker_at(kafka.address) as broker, asyncio.TaskGroup() as tasks:
        publisher = broker.publisher()
        leaves = [asyncio.Event() for _ in range(3)]
        members: list[asyncio.Task[None]] = []

        async def publish() -> None:
            messages = numbered(count)
            for at in range(0, count, 50):
                await publisher.publish(topic, *messages[at : at + 50])
                await asyncio.sleep(0.02)

        members.append(tasks.create_task(member(leaves[0])))
        publishing = tasks.create_task(publish())
        for n in (1, 2):
            await reached(n)
            members.append(tasks.create_task(member(leaves[n])))
        await reached(3)
        leaves[0].set()
        await members[0]
        await reached(4)
        leaves[1].set()
        await publishing
        await until(lambda: len({n for _, n in seen}) == count, "all handled")
        leaves[2].set()
    numbers = Counter(n for _, n in seen)
    assert set(numbers) == set(range(count))
    assert sum(numbers.values()) == count, [n for n, times in numbers.items() if times > 1]
    for key in {key for key, _ in seen}:
        mine = [n for k, n in seen if k == key]
        assert mine == sorted(mine)


@pytest.mark.parametrize("assignor", ["cooperative-sticky", "range"])
async def test_a_member_without_partitions_leaves_at_once(
    kafka: Kafka, topic: str, group: str, assignor: str
) -> None:
    """The group does not wait for it until its session has run out, and the others can commit."""
    options = {"assignor": assignor, "session_timeout": 20.0}
    kafka.create_topic(f"{topic}.one", partitions=1)
    async with (
        broker_at(kafka.address, **options) as one,
        broker_at(kafka.address, **options) as other,
        one.subscriber(group=group).subscribe(f"{topic}.one") as deliveries,
    ):
        await until(lambda: len(kafka.members(group)) == 1, "one is a member")
        async with other.subscriber(group=group).subscribe(f"{topic}.one"):
            await until(lambda: len(kafka.members(group)) == 2, "both are members")
        await until(lambda: len(kafka.members(group)) == 1, "the other has left", within=5)
        async with asyncio.timeout(5):
            await one.publisher().publish(f"{topic}.one", *numbered(1))
            (delivery,) = await deliveries.receive()
            assert delivery.ack()
            await delivery.settled()


async def test_a_group_that_shares_in_another_way(kafka: Kafka, topic: str, group: str) -> None:
    """Its error names the option; the group stays as it is, and others can join it."""
    async with (
        broker_at(kafka.address, assignor="range") as one,
        broker_at(kafka.address) as other,
        one.subscriber(group=group).subscribe(topic) as deliveries,
    ):
        await one.publisher().publish(topic, *numbered(1))
        (delivery,) = await deliveries.receive()
        async with asyncio.timeout(20), other.subscriber(group=group).subscribe(topic) as none:
            with pytest.raises(BrokerConnectionError, match="assignor="):
                await none.receive()
        assert delivery.ack()
        await delivery.settled()


async def test_who_has_which_partition_is_told(
    kafka: Kafka, topic: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On lines of level INFO, as they come and go."""
    caplog.set_level(logging.INFO, "eventflow.kafka")

    def told(what: str) -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if f"partitions_{what}" in line and group in line]

    async with (
        broker_at(kafka.address) as one,
        broker_at(kafka.address) as other,
        one.subscriber(group=group).subscribe(topic),
    ):
        await until(lambda: bool(told("assigned")), "all are assigned")
        assert "[0, 1, 2, 3]" in told("assigned")[0]
        async with other.subscriber(group=group).subscribe(topic):
            await until(lambda: bool(told("revoked")), "some are revoked")
            await until(lambda: len(told("assigned")) > 1, "and assigned again")


async def test_a_partition_that_goes_waits_for_what_is_handled(
    kafka: Kafka, topic: str, group: str
) -> None:
    """Within the bound: its ack counts, and the other member does not get the message."""
    async with broker_at(kafka.address) as one, broker_at(kafka.address) as other:
        await one.publisher().publish(topic, *numbered(40))
        async with one.subscriber(group=group).subscribe(topic) as deliveries:
            held: list[Delivery] = []
            while len(held) < 40:
                held += await deliveries.receive(40)
            async with other.subscriber(group=group).subscribe(topic) as others:
                receiving = asyncio.create_task(others.receive(100))
                await asyncio.sleep(0.5)  # the rebalance has begun, and waits
                assert all(delivery.ack() for delivery in held)
                for delivery in held:
                    await delivery.settled()
                more = numbered(40)
                await one.publisher().publish(topic, *more)
                came = await receiving
                assert {d.message.id for d in came} <= {message.id for message in more}


async def test_a_partition_that_goes_waits_no_longer_than_the_bound(
    kafka: Kafka, topic: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is held for longer is given up: its ack is refused, and another member has it."""
    async with (
        broker_at(kafka.address, revoke_timeout=0.5, session_timeout=6.0) as one,
        broker_at(kafka.address) as other,
    ):
        await one.publisher().publish(topic, *numbered(40))
        async with one.subscriber(group=group).subscribe(topic) as deliveries:
            held: list[Delivery] = []
            while len(held) < 40:
                held += await deliveries.receive(40)
            async with other.subscriber(group=group).subscribe(topic) as others:
                came = await others.receive(100)
                lost = [d for d in held if not d.ack()]
                assert {d.message.id for d in came} <= {d.message.id for d in lost}
    assert "partition_given_up" in caplog.text


def kill_when_done(program: str) -> None:
    """Run a program until it says that it is done; then it can do nothing more."""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"done\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.fault("KFK-03")
async def test_what_was_done_out_of_turn_is_done_after_a_kill(
    kafka: Kafka, topic: str, group: str
) -> None:
    """Offset 3 hangs, those behind it are done, kill -9: only what was not done comes again."""
    program = f"""
import asyncio
from tests.brokers.kafka.support import broker_at

async def main():
    async with broker_at({kafka.address!r}) as broker:
        async with broker.subscriber(group={group!r}).subscribe("{topic}-one") as deliveries:
            held: list[Delivery] = []
            while len(held) < 10:
                held += await deliveries.receive(10)
            done = [d for d in held if int(d.message.payload) != 3]
            for delivery in done:
                delivery.ack()
            for delivery in done:
                await delivery.settled()
            print("done", flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""
    kafka.create_topic(f"{topic}-one", partitions=1)
    async with broker_at(kafka.address) as broker:
        await broker.publisher().publish(f"{topic}-one", *numbered(10))
        await asyncio.to_thread(kill_when_done, program)
        offset, metadata = committed(kafka, f"{topic}-one", group, partitions=1)[0]
        assert offset == 3
        assert metadata.startswith("eventflow1:")
        assert await broker.subscriber(group=group).lag(f"{topic}-one") == 1
        async with broker.subscriber(group=group).subscribe(f"{topic}-one") as deliveries:
            (delivery,) = await deliveries.receive(10)
            assert delivery.message.payload == b"3"
            delivery.ack()
            await broker.publisher().publish(f"{topic}-one", Message(b"10"))
            (delivery,) = await deliveries.receive(10)
            assert delivery.message.payload == b"10"


async def test_the_order_of_a_partition(kafka: Kafka, topic: str, group: str) -> None:
    """One message of each at a time, several at once; between keys too, and over retries."""
    kafka.create_topic(f"{topic}.dead_letter")
    running: Counter[int] = Counter()
    most: Counter[int] = Counter()
    at_once, failed = 0, set[bytes]()
    seen: dict[int, list[int]] = {}

    class Placed:
        """Tells where each is from."""

        def for_handler(self, handler: object) -> Any:
            async def place(delivery: Delivery, call_next: Any) -> Any:
                nonlocal at_once
                number = int(delivery.coordinates["partition"])
                running[number] += 1
                most[number] = max(most[number], running[number])
                at_once = max(at_once, sum(running.values()))
                try:
                    await asyncio.sleep(0.002)
                    if delivery.message.key == "key-3" and delivery.message.payload not in failed:
                        failed.add(delivery.message.payload)
                        raise ValueError
                    seen.setdefault(number, []).append(int(delivery.coordinates["offset"]))
                    return await call_next(delivery)
                finally:
                    running[number] -= 1

            return place

    async def handle(message: Message) -> None:
        pass

    policy = FailurePolicy(retry=Retry(attempts=3, initial=0.01))
    router = Router(on_failure=policy, middlewares=[Placed()])
    async with broker_at(kafka.address) as broker:
        await broker.publisher().publish(topic, *numbered(200))
        subscriber = broker.subscriber(group=group)
        router.add_handler(
            "h", topic, handle, subscriber=subscriber, order="partition", concurrency=8
        )
        async with router:
            await until(lambda: router.statistics().total.handled == 200, "all are handled")
    assert set(most.values()) == {1}
    assert at_once > 1
    assert len(failed) > 5
    assert all(offsets == sorted(offsets) for offsets in seen.values())


@pytest.mark.fault("OBS-04")
async def test_the_lag_is_the_brokers(kafka: Kafka, topic: str, group: str) -> None:
    """Once all is quiet: ends minus commits, as another client reads them, and none out of turn."""
    async with broker_at(kafka.address) as broker:
        subscriber = broker.subscriber(group=group)
        assert await subscriber.lag(topic) == 0
        await broker.publisher().publish(topic, *numbered(100))
        assert await subscriber.lag(topic) == 100
        async with subscriber.subscribe(topic, max_in_flight=100) as deliveries:
            held: list[Delivery] = []
            while len(held) < 60:
                held += await deliveries.receive(60 - len(held))
            for delivery in held:
                assert delivery.ack()
                await delivery.settled()
            ends = Counter(record.partition() for record in records(kafka, topic))
            done = committed(kafka, topic, group)
            outside = sum(end - max(done[n][0], 0) for n, end in ends.items())
            assert await subscriber.lag(topic) == outside == 40


async def test_a_stranger_may_commit_for_the_group(kafka: Kafka, topic: str, group: str) -> None:
    """Another client's offset counts, and what it writes beside that is passed over."""
    async with broker_at(kafka.address) as broker:
        await broker.publisher().publish(topic, *numbered(100))
        ends = Counter(record.partition() for record in records(kafka, topic))
        stranger = Consumer({"bootstrap.servers": kafka.address, "group.id": group})
        stranger.commit(
            offsets=[TopicPartition(topic, n, end - 1, metadata="{}") for n, end in ends.items()],
            asynchronous=False,
        )
        stranger.close()
        async with broker.subscriber(group=group).subscribe(topic) as deliveries:
            came: list[Delivery] = []
            while len(came) < len(ends):
                came += await deliveries.receive(100)
            assert {(d.coordinates["partition"], d.coordinates["offset"]) for d in came} == {
                (n, end - 1) for n, end in ends.items()
            }


@pytest.mark.fault("KFK-10")
async def test_a_poison_record_is_dead_lettered_and_the_partition_moves_on(
    kafka: Kafka, group: str
) -> None:
    """Written by a stranger, with a binary key and headers: its dead letter has it all."""
    kafka.create_topic("counted")
    kafka.create_topic("counted.dead_letter")
    producer = Producer({"bootstrap.servers": kafka.address})
    headers: list[tuple[str, str | bytes | None]] = [("b", b"\xff"), ("n", None), ("name", b"?")]
    producer.produce("counted", b"{", key=b"\xff\x00", headers=headers)
    assert producer.flush(30) == 0
    seen: list[int] = []

    async def handle(event: Counted) -> None:
        seen.append(event.n)

    router = Router(on_failure=FailurePolicy())
    async with broker_at(kafka.address) as broker:
        router.add_handler("count", Counted, handle, subscriber=broker.subscriber(group=group))
        async with router:
            await BrokerEventPublisher(broker.publisher()).publish(Counted(n=1))
            await until(lambda: seen == [1], "the event is handled")
            await until(lambda: router.ledger["count"].failed == 1, "the poison has ended")
    (letter,) = (r for r in records(kafka, "counted.dead_letter") if r.key() == b"\xff\x00")
    assert letter.value() == b"{"
    written = letter.headers()
    assert ("b", b"\xff") in written
    assert ("n", b"") in written
    assert dict(written)["topic_poisoned"] == b"counted"
