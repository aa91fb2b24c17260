"""What any publisher and subscriber must do: the sixteen that Watermill asks of its backends.

Its names, in its order: PublishSubscribe, ConcurrentSubscribe,
ConcurrentSubscribeMultipleTopics, ResendOnError, NoAck, ContinueAfterSubscribeClose,
ConcurrentClose, ContinueAfterErrors, PublishSubscribeInOrder, PublisherClose, Topic, MessageCtx,
SubscribeCtx, NewSubscriberReceivesOldMessages, Reconnect, ConsumerGroups. Each is a test here or,
where ours ask more, several. The sizes of a stress run are Watermill's own, or larger.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from eventflow.errors import BrokerError, PublishError, SettleError, UnsupportedFeatureError
from eventflow.messaging import Message, SettlementState
from eventflow.testing.contract._case import ContractCase

if TYPE_CHECKING:
    from eventflow.messaging import Broker, Delivery, Publisher, Subscriber
    from eventflow.testing.contract._tally import Tally

__all__ = ("UniversalContract",)


class UniversalContract(ContractCase):
    """Publishing, receiving, settling and closing, alone and by many at once."""

    @pytest.mark.stress
    async def test_everything_published_comes_once_as_it_was(self) -> None:
        """Same id, payload and metadata; after the acks nothing is left."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally(key=broker.features.order == "key")
            messages = self.messages(self.sized(everyday=100, stress=1_000), keys=7)

            async with self.reading(subscriber, topic, tally):
                await self.publish(broker.publisher(), topic, messages, tally)
                await self.complete(tally)

            tally.check(duplicates=self.max_duplicates)
            await self.nothing_is_left(subscriber, topic)

    @pytest.mark.stress
    async def test_many_subscribers_share_a_topic(self) -> None:
        """Many publish and many receive at once: each message reaches one of them."""
        count = self.sized(everyday=100, stress=5_000)
        many = self.sized(everyday=10, stress=50)
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()

            async with self.reading(subscriber, topic, tally, members=many):
                messages = self.messages(count)
                await self.publish(broker.publisher(), topic, messages, tally, at_once=many)
                await self.complete(tally)

            tally.check(duplicates=self.max_duplicates)

    @pytest.mark.stress
    async def test_topics_do_not_mix_under_load(self) -> None:
        """Many topics at once: each group gets its own messages, all of them."""
        topics = self.sized(everyday=10, stress=20)
        count = self.sized(everyday=50, stress=100)
        async with self.opened() as broker:
            publisher = broker.publisher()

            async def one() -> None:
                topic, subscriber = await self.place(broker)
                tally = self.tally()
                async with self.reading(subscriber, topic, tally):
                    await self.publish(publisher, topic, self.messages(count), tally)
                    await self.complete(tally)
                tally.check(duplicates=self.max_duplicates)

            async with asyncio.TaskGroup() as group:
                for _ in range(topics):
                    group.create_task(one())

    async def test_a_message_goes_to_its_topic_only(self) -> None:
        """Two topics, one message each."""
        async with self.opened() as broker:
            places = [await self.place(broker) for _ in range(2)]
            tallies = [self.tally() for _ in places]
            for (topic, _), tally in zip(places, tallies, strict=True):
                await self.publish(broker.publisher(), topic, self.messages(1), tally)
            for (topic, subscriber), tally in zip(places, tallies, strict=True):
                async with self.reading(subscriber, topic, tally):
                    await self.complete(tally)
                tally.check(duplicates=self.max_duplicates)

    async def test_a_nacked_message_comes_again(self) -> None:
        """Each of 100 is nacked twice: it comes three times, unchanged, and no fourth."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()

            def handle(delivery: Delivery) -> None:
                if tally.times(delivery.message.id) <= 2:
                    tally.asked_again(delivery)
                    assert delivery.nack()
                else:
                    assert delivery.ack()

            async with self.reading(subscriber, topic, tally, handle=handle):
                await self.publish(broker.publisher(), topic, self.messages(100), tally)
                await self.complete(tally)

            tally.check(duplicates=self.max_duplicates)
            await self.nothing_is_left(subscriber, topic)

    async def test_no_second_message_before_the_first_is_settled(self) -> None:
        """With one in flight the next comes after the ack, and nothing after the last one."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(2), tally)
            async with self.subscribed(subscriber, topic, max_in_flight=1) as deliveries:
                first = await self.next(deliveries, tally)
                await self.is_silent(deliveries)
                assert first.ack()
                second = await self.next(deliveries, tally)
                assert second.ack()
                await self.is_silent(deliveries)
            tally.check(duplicates=self.max_duplicates)

    async def test_at_most_so_many_are_in_flight(self) -> None:
        """Three unsettled of ten; a nack makes room as an ack does."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(10), tally)
            async with self.subscribed(subscriber, topic, max_in_flight=3) as deliveries:
                held = await self.take(deliveries, 3, tally)
                await self.is_silent(deliveries)
                held[1].ack()
                held.append(await self.next(deliveries, tally))
                await self.is_silent(deliveries)
                tally.asked_again(held[0])
                held[0].nack()
                held.append(await self.next(deliveries, tally))
                await self.is_silent(deliveries)
                for delivery in held:
                    delivery.ack()
                for delivery in await self.take(deliveries, 3, tally):
                    delivery.ack()
                while not tally.is_complete:
                    (await self.next(deliveries, tally)).ack()
                await self.is_silent(deliveries)
            tally.check(duplicates=self.max_duplicates)

    @pytest.mark.stress
    async def test_closing_and_opening_again_loses_nothing(self) -> None:
        """Subscriptions are left with messages unsettled, and opened again, many times over."""
        count = self.sized(everyday=50, stress=5_000)
        reopenings = self.sized(everyday=2, stress=20)
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            messages = self.messages(count)
            batch = -(-count // 5)
            for start in range(0, count, batch):
                await self.publish(
                    broker.publisher(), topic, messages[start : start + batch], tally
                )
                for _ in range(-(-reopenings // 5)):
                    async with self.subscribed(
                        subscriber, topic, max_in_flight=batch
                    ) as deliveries:
                        some = min(batch // 2 or 1, tally.lacking)
                        taken = await self.take(deliveries, some, tally)
                        for delivery in taken[::2]:
                            delivery.ack()
                        for delivery in taken[1::2]:
                            tally.asked_again(delivery)

            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            # Leaving gives back what was fetched, which nobody has seen: no delivery was wasted.
            tally.check(duplicates=self.max_duplicates)

    async def test_subscribers_opened_and_closed_at_once(self) -> None:
        """Ten at the same time, and the topic is as good as before: 50 messages come."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()

            async def open_and_close() -> None:
                async with self.subscribed(subscriber, topic):
                    await asyncio.sleep(0)  # all are open before the first is left

            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(open_and_close())
            async with self.reading(subscriber, topic, tally):
                await self.publish(broker.publisher(), topic, self.messages(50), tally)
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    @pytest.mark.stress
    async def test_many_nacks_lose_nothing(self) -> None:
        """Three subscribers nack 100 each (5 on an ordinary day) of 50 messages: all come."""
        nacks = self.sized(everyday=5, stress=100)
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(50), tally)

            for _ in range(3):
                left = nacks
                async with self.subscribed(subscriber, topic, max_in_flight=5) as deliveries:
                    while left:
                        for delivery in await self.take(deliveries, min(left, 5), tally):
                            tally.asked_again(delivery)
                            delivery.nack()
                            left -= 1
            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    @pytest.mark.stress
    async def test_order_is_kept_as_far_as_declared(self) -> None:
        """Of a key, by ten subscribers; of a topic, by one; where nothing is declared all come."""
        order = (features := self.new_broker().features).order
        count = self.sized(everyday=100, stress=1_000)
        members = 1 if order == "topic" else 10
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally(key=order == "key")
            came: defaultdict[str, list[int]] = defaultdict(list)

            def handle(delivery: Delivery) -> None:
                message = delivery.message
                lane = (message.key or "") if order == "key" else ""
                came[lane].append(int(message.metadata["n"]))
                asyncio.get_running_loop().call_later(0.001, delivery.ack)

            async with self.reading(
                subscriber,
                topic,
                tally,
                members=members,
                max_in_flight=None if order == "key" else 1,
                handle=handle,
            ):
                messages = self.messages(count, keys=16)
                await self.publish(broker.publisher(), topic, messages, tally, batch=40)
                await self.complete(tally)

            tally.check(duplicates=self.max_duplicates)
            if features.order != "none":
                wrong = {lane: numbers for lane, numbers in came.items() if not _grows(numbers)}
                assert not wrong, f"out of order: {wrong}"

    async def test_a_lane_is_in_order_also_in_flight(self) -> None:
        """Deliveries of one lane come in order, whatever the bound; a lane has the key's order."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(
                broker.publisher(), topic, self.messages(60, keys=3), tally, batch=60
            )
            came: defaultdict[object, list[int]] = defaultdict(list)
            lanes: defaultdict[str | None, set[object]] = defaultdict(set)
            async with self.subscribed(subscriber, topic, max_in_flight=50) as deliveries:
                while not tally.is_complete:
                    delivery = await self.next(deliveries, tally)
                    if delivery.lane is not None:
                        came[delivery.lane].append(int(delivery.message.metadata["n"]))
                        lanes[delivery.message.key].add(delivery.lane)
                    delivery.ack()
            assert all(_grows(numbers) for numbers in came.values()), came
            if broker.features.order == "key":
                assert lanes, "order='key' is declared, and deliveries have no lane"
                assert all(len(found) == 1 for found in lanes.values()), lanes

    async def test_a_redelivery_keeps_the_order(self) -> None:
        """One in flight, of one key: after a nack the same message comes, not the next one."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            messages = self.messages(5, keys=1)
            await self.publish(broker.publisher(), topic, messages, tally, batch=5)
            came: list[int] = []
            async with self.subscribed(subscriber, topic, max_in_flight=1) as deliveries:
                while not tally.is_complete:
                    delivery = await self.next(deliveries, tally)
                    came.append(int(delivery.message.metadata["n"]))
                    if tally.times(delivery.message.id) == 1:
                        tally.asked_again(delivery)
                        delivery.nack()
                    else:
                        delivery.ack()
            if broker.features.order != "none":
                assert came == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
            assert Counter(came) == dict.fromkeys(range(5), 2)

    @pytest.mark.stress
    async def test_nothing_published_before_closing_is_lost(self) -> None:
        """Many publish; the broker is left right behind the last: what outlives it is all there."""
        count = self.sized(everyday=100, stress=10_000)
        tally = self.tally()
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            async with self.reading(subscriber, topic, tally):
                messages = self.messages(count)
                await self.publish(broker.publisher(), topic, messages[::2], tally, at_once=20)
                await self.complete(tally)
            await self.publish(broker.publisher(), topic, messages[1::2], at_once=20)
        if broker.features.persistent:
            tally.published(*messages[1::2])
            async with self.new_broker() as again:
                other = again.subscriber(group=subscriber.group)
                async with self.reading(other, topic, tally):
                    await self.complete(tally)
        tally.check(duplicates=self.max_duplicates)

    async def test_a_settlement_reaches_the_broker(self) -> None:
        """``settled`` ends after an ack and after a nack; after a leave it says that it did not."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            await self.publish(broker.publisher(), topic, self.messages(3))
            async with self.subscribed(subscriber, topic, max_in_flight=3) as deliveries:
                acked, nacked, left = await self.take(deliveries, 3)
                assert acked.ack()
                assert nacked.nack()
                await self.bounded(acked.settled(), "settled() of an ack")
                await self.bounded(nacked.settled(), "settled() of a nack")
                assert acked.is_confirmed
            assert left.state is SettlementState.RELEASED
            with pytest.raises(SettleError):
                await self.bounded(left.settled(), "settled() of what was given back")
            assert not left.ack(), "what was given back can't be acked"
            assert not left.nack(), "what was given back can't be nacked"

    async def test_the_first_decision_stands(self) -> None:
        """Twice the same is fine, the opposite is refused, and the broker does the first."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(2), tally)
            async with self.subscribed(subscriber, topic, max_in_flight=2) as deliveries:
                acked, nacked = await self.take(deliveries, 2, tally)
                assert (acked.ack(), acked.ack(), acked.nack()) == (True, True, False)
                tally.asked_again(nacked)
                assert (nacked.nack(), nacked.nack(), nacked.ack()) == (True, True, False)
                again = await self.next(deliveries, tally)
                assert again.message == nacked.message
                again.ack()
                await self.is_silent(deliveries)
            tally.check(duplicates=self.max_duplicates)

    async def test_a_cancelled_subscriber_ends_and_the_next_gets_all(self) -> None:
        """Twenty messages; the first reader is cancelled with some in its hands."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            holds = asyncio.Event()

            async def read() -> None:
                async with self.subscribed(subscriber, topic) as deliveries:
                    async for delivery in deliveries:
                        tally.received(delivery)
                        tally.asked_again(delivery)
                        holds.set()

            async with asyncio.TaskGroup() as group:
                task = group.create_task(read())
                await self.publish(broker.publisher(), topic, self.messages(20), tally)
                await self.bounded(holds.wait(), "the first delivery")
                task.cancel()
                await self.bounded(asyncio.wait([task]), "the cancelled subscriber")
            assert task.cancelled()
            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_a_new_group_and_what_was_published_before_it(self) -> None:
        """Three rounds: each new group has the whole history, or only what comes after it."""
        async with self.opened() as broker:
            topic = self.new_topic()
            publisher = broker.publisher()
            await publisher.prepare(topic)
            history: list[Message] = []
            for _ in range(3):
                history += (more := self.messages(10))
                await self.publish(publisher, topic, more)
                subscriber = broker.subscriber(group=self.new_group())
                tally = self.tally()
                if broker.features.old_messages:
                    tally.published(*history)
                async with self.reading(subscriber, topic, tally):
                    await self.complete(tally)
                    last = self.messages(1)
                    await self.publish(publisher, topic, last, tally)
                    history += last
                    await self.complete(tally)
                tally.check(duplicates=self.max_duplicates)
                if not broker.features.groups:
                    break  # its one group is new once

    @pytest.mark.stress
    async def test_a_restart_while_publishing_loses_nothing(self) -> None:
        """At a third and at a half the server, or where there is none the client, goes away.

        A publish that was refused, or whose end is unknown, is tried again.
        """
        broker = self.new_broker()
        if not broker.features.persistent:
            with pytest.raises(UnsupportedFeatureError):
                broker.features.require("persistent")
            return
        count = self.sized(everyday=100, stress=10_000)
        at_once = self.sized(everyday=10, stress=100)
        tally = self.tally()
        async with broker:
            topic, subscriber = await self.place(broker)
        restarts = _Restarts(self, broker)
        async with broker, asyncio.TaskGroup() as group:
            messages = iter(self.messages(count))
            publisher = broker.publisher()

            async def work() -> None:
                for message in messages:
                    await restarts.publish(publisher, topic, message, tally)

            writers = [group.create_task(work()) for _ in range(at_once)]
            await tally.until(lambda: tally.number >= count // 3, patience=self.patience)
            await restarts.restart()  # nobody has received anything yet
            reader = group.create_task(restarts.read(subscriber, topic, tally))
            await tally.until(lambda: tally.number >= count // 2, patience=self.patience)
            await restarts.restart()
            await asyncio.wait(writers)
            await self.complete(tally)
            reader.cancel()
        # What was in flight when the link went away may come again: counted, not a failure.
        tally.check(duplicates=count * 3)

    async def test_each_group_gets_everything(self) -> None:
        """Two groups, 50 messages each; a backend without groups refuses a second one."""
        async with self.opened() as broker:
            if not broker.features.groups:
                with pytest.raises(UnsupportedFeatureError):
                    broker.subscriber(group=f"{self.new_group()}-other")
                return
            topic, first = await self.place(broker)
            second = broker.subscriber(group=self.new_group())
            await second.prepare(topic)
            tallies = [self.tally(), self.tally()]
            async with (
                self.reading(first, topic, tallies[0], members=2),
                self.reading(second, topic, tallies[1]),
            ):
                messages = self.messages(50)
                await self.publish(broker.publisher(), topic, messages, tallies[0])
                tallies[1].published(*messages)
                for tally in tallies:
                    await self.complete(tally)
            for tally in tallies:
                tally.check(duplicates=self.max_duplicates)


def _grows(numbers: list[int]) -> bool:
    """Whether numbers rise; a repeated one is a duplicate, which is counted elsewhere."""
    return numbers == sorted(numbers)


class _Restarts:
    """Publishing and receiving by clients that try again when the broker goes away."""

    def __init__(self, case: ContractCase, broker: Broker) -> None:
        self._case = case
        self._broker = broker
        self._is_there = asyncio.Event()
        self._is_there.set()

    async def restart(self) -> None:
        if await self._case.restart_broker():
            return
        self._is_there.clear()
        await self._broker.__aexit__(None, None, None)
        await self._broker.__aenter__()
        self._is_there.set()

    async def publish(
        self, publisher: Publisher, topic: str, message: Message, tally: Tally
    ) -> None:
        tally.published(message)
        for attempt in range(50):
            await self._is_there.wait()
            try:
                await publisher.publish(topic, message)
            except (BrokerError, PublishError):
                tally.may_come_again(message.id)
                await asyncio.sleep(0.01 * attempt)
            else:
                return
        raise AssertionError(f"{message.id} was refused 50 times")

    async def read(self, subscriber: Subscriber, topic: str, tally: Tally) -> None:
        while True:
            await self._is_there.wait()
            try:
                async with subscriber.subscribe(topic) as deliveries:
                    async for delivery in deliveries:
                        tally.received(delivery)
                        delivery.ack()
            except BrokerError:
                await asyncio.sleep(0.05)
