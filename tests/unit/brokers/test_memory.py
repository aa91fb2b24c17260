"""What is particular to the memory broker: room, retention, entering again, wrong use."""

from __future__ import annotations

import asyncio
import tracemalloc
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import (
    BrokerClosedError,
    BrokerError,
    InvalidMessageError,
    InvalidOptionError,
    PublishError,
    PublishTimeoutError,
)
from eventflow.messaging import Broadcast, Message
from eventflow.messaging.metadata import FAILURES, delay_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventflow.messaging import Deliveries, Delivery

pytestmark = pytest.mark.virtual_clock

TOPIC = "orders"


def numbered(*numbers: int, key: str | None = None) -> list[Message]:
    return [Message(str(n).encode(), id=f"m-{n}", key=key) for n in numbers]


def numbers(deliveries: Iterable[Delivery]) -> list[int]:
    return [int(delivery.message.payload) for delivery in deliveries]


async def there(deliveries: Deliveries, limit: int = 1_000) -> list[Delivery]:
    """What can be had now, in the order it comes."""
    found: list[Delivery] = []
    try:
        async with asyncio.timeout(0.001):
            while True:
                found += await deliveries.receive(limit)
    except TimeoutError:
        return found


# Room


async def test_a_publisher_waits_for_room() -> None:
    """Until a message that a group still needs is acked; then it is woken at once."""
    async with MemoryBroker(capacity=2) as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group="g")
        loop = asyncio.get_running_loop()
        async with subscriber.subscribe(TOPIC) as deliveries, asyncio.TaskGroup() as group:
            await publisher.publish(TOPIC, *numbered(1, 2))
            first, second = await deliveries.receive(2)
            waiting = group.create_task(publisher.publish(TOPIC, *numbered(3)))
            await asyncio.sleep(5)
            assert not waiting.done()
            first.ack()
            await waiting
            assert loop.time() == 5.0
            second.ack()
            assert numbers(await there(deliveries)) == [3]


async def test_room_that_comes_in_steps_is_enough() -> None:
    """A publish of several waits until there is room for all, however it comes."""
    async with MemoryBroker(capacity=10) as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group="g")
        async with subscriber.subscribe(TOPIC) as deliveries, asyncio.TaskGroup() as group:
            await publisher.publish(TOPIC, *numbered(*range(10)))
            held = await deliveries.receive(10)
            waiting = group.create_task(publisher.publish(TOPIC, *numbered(*range(10, 15))))
            for delivery in held[:5]:
                await asyncio.sleep(1)
                assert not waiting.done()
                delivery.ack()
            await waiting
            assert asyncio.get_running_loop().time() == 5.0
            assert numbers(await there(deliveries)) == [10, 11, 12, 13, 14]


async def test_room_is_what_is_not_acked() -> None:
    """One that is not acked takes one place, however many come after it; the last place too."""
    async with MemoryBroker(capacity=4, publish_timeout=1) as broker:
        publisher = broker.publisher()
        async with broker.subscriber(group="g").subscribe(TOPIC) as deliveries:
            await publisher.publish(TOPIC, *numbered(0))
            (first,) = await there(deliveries)
            for number in range(1, 20, 3):
                await publisher.publish(TOPIC, *numbered(number, number + 1, number + 2))
                with pytest.raises(PublishTimeoutError):
                    await publisher.publish(TOPIC, *numbered(99))
                for delivery in await there(deliveries):
                    delivery.ack()
            assert first.nack()
            assert numbers(await there(deliveries)) == [0], "it is kept, outside the topic's log"


async def test_a_publish_gives_up_after_its_timeout() -> None:
    """The error says how long it waited, and that nothing of the call is stored."""
    async with MemoryBroker(capacity=2, publish_timeout=3) as broker:
        subscriber = broker.subscriber(group="g")
        await subscriber.prepare(TOPIC)
        await broker.publisher().publish(TOPIC, *numbered(1))
        with pytest.raises(PublishTimeoutError, match="was full for 3 s") as caught:
            await broker.publisher().publish(TOPIC, *numbered(2, 3))
        assert caught.value.waited_s == 3.0
        assert (caught.value.topic, caught.value.not_stored) == (TOPIC, ("m-2", "m-3"))
        assert await subscriber.lag(TOPIC) == 1


async def test_waiting_publishers_all_get_their_turn() -> None:
    """Fifty of them on a topic of one place; a cancelled one in the middle stops nobody."""
    async with MemoryBroker(capacity=1) as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group="g")
        came: list[int] = []
        async with subscriber.subscribe(TOPIC) as deliveries, asyncio.TaskGroup() as group:
            tasks = [group.create_task(publisher.publish(TOPIC, m)) for m in numbered(*range(50))]
            await asyncio.sleep(0)
            tasks[25].cancel()
            while len(came) < 49:
                for delivery in await deliveries.receive(10):
                    came += numbers([delivery])
                    delivery.ack()
        assert came == [n for n in range(50) if n != 25]


async def test_a_broadcast_that_leaves_makes_room() -> None:
    """What it had not settled is needed by nobody any more."""
    async with MemoryBroker(capacity=3) as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group=Broadcast())
        # The subscription is left first: the group then waits for the publish.
        async with asyncio.TaskGroup() as group, subscriber.subscribe(TOPIC):
            await publisher.publish(TOPIC, *numbered(1, 2, 3))
            waiting = group.create_task(publisher.publish(TOPIC, *numbered(4)))
            await asyncio.sleep(1)
            assert not waiting.done()


async def test_more_at_once_than_a_topic_holds_is_refused() -> None:
    """At once: waiting would not help."""
    async with MemoryBroker(capacity=2) as broker:
        with pytest.raises(PublishError, match="in parts") as caught:
            await broker.publisher().publish(TOPIC, *numbered(1, 2, 3))
        assert not isinstance(caught.value, TimeoutError)
        assert caught.value.not_stored == ("m-1", "m-2", "m-3")


# Retention


async def test_without_a_group_the_oldest_falls_out() -> None:
    """Nobody needs it, so nobody waits for room."""
    async with MemoryBroker(capacity=3) as broker:
        await broker.publisher().publish(TOPIC, *numbered(1, 2))
        await broker.publisher().publish(TOPIC, *numbered(3, 4, 5))
        async with broker.subscriber(group="late").subscribe(TOPIC) as deliveries:
            assert numbers(await there(deliveries)) == [3, 4, 5]


async def test_what_falls_out_leaves_nothing_behind() -> None:
    """Also where it was delayed: a topic is bounded, however much went through it."""
    async with MemoryBroker(capacity=100) as broker:
        publisher = broker.publisher()
        until = delay_metadata(1_000.0, now=datetime.now(UTC))

        async def through(count: int) -> None:
            for _ in range(count // 100):
                await publisher.publish(TOPIC, *[Message(b"", until) for _ in range(100)])

        tracemalloc.start()
        try:
            await through(1_000)
            before, _ = tracemalloc.get_traced_memory()
            await through(10_000)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 300_000


async def test_what_all_have_acked_stays_for_groups_that_come_later() -> None:
    """Within the capacity, in order."""
    async with MemoryBroker(capacity=3) as broker:
        async with broker.subscriber(group="early").subscribe(TOPIC) as deliveries:
            for n in range(5):
                await broker.publisher().publish(TOPIC, *numbered(n))
                (await deliveries.receive())[0].ack()
        async with broker.subscriber(group="late").subscribe(TOPIC) as deliveries:
            assert numbers(await there(deliveries)) == [2, 3, 4]


async def test_asking_for_the_lag_makes_no_group() -> None:
    """A group that only a dashboard asked for would hold every message back for ever."""
    async with MemoryBroker(capacity=2, publish_timeout=1) as broker:
        publisher, curious = broker.publisher(), broker.subscriber(group="curious")
        assert await curious.lag(TOPIC) == 0
        await publisher.publish(TOPIC, *numbered(1, 2))
        assert await curious.lag(TOPIC) == 2  # what it would begin with
        await publisher.publish(TOPIC, *numbered(3, 4))
        assert await curious.lag(TOPIC) == 2


async def test_the_lag_of_broadcasts_is_of_those_that_are_there() -> None:
    async with MemoryBroker() as broker:
        subscriber = broker.subscriber(group=Broadcast())
        async with subscriber.subscribe(TOPIC), subscriber.subscribe(TOPIC):
            await broker.publisher().publish(TOPIC, *numbered(1, 2))
            assert await subscriber.lag(TOPIC) == 4
        assert await subscriber.lag(TOPIC) == 0


# Order


async def test_what_comes_again_comes_before_what_is_new() -> None:
    """In the topic's order, whether it was nacked or given back."""
    async with MemoryBroker() as broker:
        subscriber = broker.subscriber(group="g")
        await broker.publisher().publish(TOPIC, *numbered(*range(6)))
        async with subscriber.subscribe(TOPIC) as deliveries:
            held = await deliveries.receive(4)
            held[2].nack()
            held[0].nack()
        async with subscriber.subscribe(TOPIC) as deliveries:
            assert numbers(await there(deliveries)) == [0, 1, 2, 3, 4, 5]


async def test_a_key_waits_for_its_delayed_message() -> None:
    """Others pass; the next of the key comes after it."""
    async with MemoryBroker() as broker:
        messages = [*numbered(1, 2, key="a"), *numbered(3, key="b")]
        await broker.publisher().publish(TOPIC, *messages)
        loop = asyncio.get_running_loop()
        async with broker.subscriber(group="g").subscribe(TOPIC) as deliveries:
            (first,) = await deliveries.receive()
            first.nack(delay=10)
            (other,) = await deliveries.receive()
            assert numbers([other]) == [3]
            (again,) = await deliveries.receive(5)
            assert (numbers([again]), loop.time()) == ([1], 10.0)
            again.ack()
            assert numbers(await deliveries.receive(5)) == [2]


async def test_a_delayed_message_waits_for_its_key_when_it_is_due() -> None:
    """One that came later has passed it, and is in somebody's hands: two never are at once."""
    async with MemoryBroker() as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group="g")
        until = delay_metadata(5.0, now=datetime.now(UTC))
        async with subscriber.subscribe(TOPIC) as deliveries:
            await publisher.publish(TOPIC, Message(b"1", until, key="k"), *numbered(2, key="k"))
            (passed,) = await deliveries.receive(10)
            assert numbers([passed]) == [2]
            await asyncio.sleep(10)
            await publisher.publish(TOPIC, *numbered(3, key="other"))
            assert numbers(await there(deliveries)) == [3]
            passed.ack()
            assert numbers(await there(deliveries)) == [1]


@pytest.mark.parametrize("wrong", [b"text", "text", None, {"payload": b"x"}])
async def test_only_messages_are_published(wrong: Any) -> None:
    """Nothing of the call is stored, also where the others are messages."""
    async with MemoryBroker() as broker:
        with pytest.raises(InvalidMessageError, match="only messages are published"):
            await broker.publisher().publish(TOPIC, *numbered(1), wrong)
        assert await broker.subscriber(group="g").lag(TOPIC) == 0


async def test_a_reader_that_can_take_nothing_does_not_spin() -> None:
    """A message is due, and the bound is reached, or the reader paused: it sleeps."""
    async with MemoryBroker() as broker:
        await broker.publisher().publish(TOPIC, *numbered(1, 2))
        loop = asyncio.get_running_loop()
        async with broker.subscriber(group="g").subscribe(TOPIC, max_in_flight=1) as deliveries:
            (await deliveries.receive())[0].nack(delay=1)
            (held,) = await deliveries.receive()
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(deliveries.receive())
                await asyncio.sleep(100)  # time passes only where nobody spins
                deliveries.pause()
                held.ack()
                await asyncio.sleep(100)
                assert not waiting.done()
                deliveries.resume()
            assert (numbers(waiting.result()), loop.time()) == ([1], 200.0)


async def test_failures_that_come_with_a_message_are_not_believed() -> None:
    """Anybody can publish such a text; what a nack records is kept elsewhere."""
    async with MemoryBroker() as broker:
        await broker.publisher().publish(TOPIC, Message(b"1", {FAILURES: "3"}))
        async with broker.subscriber(group="g").subscribe(TOPIC) as deliveries:
            (delivery,) = await deliveries.receive()
            assert delivery.failures == 0


# Entering and leaving


async def test_messages_stay_while_the_broker_is_closed() -> None:
    """What was in flight comes again; what was acked does not; nothing else changed."""
    broker = MemoryBroker()
    subscriber = broker.subscriber(group="g")
    async with broker:
        await broker.publisher().publish(TOPIC, *numbered(1, 2, 3))
        async with subscriber.subscribe(TOPIC) as deliveries:
            first, second = await deliveries.receive(2)
            first.ack()
            second.nack(failures=2)
    async with broker:
        assert await subscriber.lag(TOPIC) == 2
        async with subscriber.subscribe(TOPIC) as deliveries:
            again = await there(deliveries)
            assert numbers(again) == [2, 3]
            assert [(d.deliveries, d.failures) for d in again] == [(2, 2), (1, 0)]


async def test_a_subscription_from_before_stays_ended() -> None:
    """The broker was closed under it, and is open again: it has nothing more to say."""
    broker = MemoryBroker()
    async with broker:
        manager = broker.subscriber(group="g").subscribe(TOPIC)
        before = await manager.__aenter__()
        await broker.publisher().publish(TOPIC, *numbered(1))
        (held,) = await before.receive()
    assert not held.ack()
    async with broker:
        assert not await before.receive()
        async with broker.subscriber(group="g").subscribe(TOPIC) as deliveries:
            assert numbers(await there(deliveries)) == [1]
            await manager.__aexit__(None, None, None)
            await broker.publisher().publish(TOPIC, *numbered(2))
            assert numbers(await there(deliveries)) == [2]


async def test_closing_ends_a_publish_that_waits_for_room() -> None:
    broker = MemoryBroker(capacity=1)
    async with broker:
        await broker.subscriber(group="g").prepare(TOPIC)
        await broker.publisher().publish(TOPIC, *numbered(1))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_error(broker, numbered(2)))
            await asyncio.sleep(1)
            await broker.__aexit__(None, None, None)
        assert isinstance(waiting.result(), BrokerClosedError)


async def _error(broker: MemoryBroker, messages: list[Message]) -> Exception | None:
    try:
        await broker.publisher().publish(TOPIC, *messages)
    except PublishError as error:
        return error
    except BrokerError as error:
        return error
    return None


async def test_publishing_gives_others_a_turn() -> None:
    """At least every 256 calls, though storing waits for nothing."""
    async with MemoryBroker() as broker:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        publisher = broker.publisher()
        async with asyncio.TaskGroup() as group:
            counting = group.create_task(count())
            before = turns  # an eager task has had its first turn by now
            for n in range(1_024):
                await publisher.publish(TOPIC, *numbered(n))
            assert turns - before == 4
            counting.cancel()


def test_its_repr_has_the_name_and_the_state() -> None:
    broker = MemoryBroker("orders")
    assert repr(broker) == "<MemoryBroker 'orders', closed>"
    assert repr(broker.subscriber(group="g")) == "<MemorySubscriber of group 'g'>"


# Wrong use


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"capacity": 0}, "capacity must be a whole number, 1 or more, not 0"),
        ({"capacity": 1.5}, "capacity must be a whole number"),
        ({"publish_timeout": -1}, "publish_timeout must be a number of seconds"),
        ({"publish_timeout": float("nan")}, "publish_timeout must be a number of seconds"),
        ({"max_payload_bytes": 0}, "max_payload_bytes must be a whole number"),
        ({"name": ""}, "name must be a printable text"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        MemoryBroker(**options)


@pytest.mark.parametrize("bound", [0, -1, 1.5, True, "5"])
async def test_a_bound_that_makes_no_sense_is_refused(bound: Any) -> None:
    async with MemoryBroker() as broker:
        with pytest.raises(InvalidOptionError, match="max_in_flight must be a whole number"):
            async with broker.subscriber(group="g").subscribe(TOPIC, max_in_flight=bound):
                pass
