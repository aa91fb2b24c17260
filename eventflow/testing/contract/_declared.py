"""What a backend declares, and says no to: groups, broadcast, lag, pauses, wrong use."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest

from eventflow.errors import (
    BrokerClosedError,
    InvalidOptionError,
    InvalidTopicError,
    UnsupportedFeatureError,
)
from eventflow.failure import FailurePolicy, Log, Retry
from eventflow.messaging import Broadcast, Features, Message, Publisher, Router, Subscriber
from eventflow.testing.contract._case import ContractCase

__all__ = ("DeclaredContract",)

CAPABILITIES = tuple(
    field.name
    for field in fields(Features)
    if field.type == "bool" and field.name != "at_most_once"
)


class DeclaredContract(ContractCase):
    """Features and their refusal, groups, broadcast, lag, pause, and wrong use."""

    async def test_what_is_not_declared_is_refused(self) -> None:
        """Asking for a feature that is not there raises, with its name and the backend's."""
        features = self.new_broker().features
        assert features.backend
        for name in CAPABILITIES:
            if getattr(features, name):
                features.require(name)
            else:
                with pytest.raises(UnsupportedFeatureError) as caught:
                    features.require(name)
                assert (caught.value.feature, caught.value.backend) == (name, features.backend)

    async def test_everything_made_of_a_broker_declares_the_same(self) -> None:
        """The broker, its publishers and subscribers, and a subscriber's publisher."""
        async with self.opened() as broker:
            subscriber = broker.subscriber(group=self.new_group())
            publisher = broker.publisher()
            assert isinstance(publisher, Publisher)
            assert isinstance(subscriber, Subscriber)
            assert publisher.features == subscriber.features == broker.features
            assert subscriber.publisher().features == broker.features

    async def test_subscribers_of_one_group_are_equal(self) -> None:
        """And hash alike; those of another group, or of another broker, are not."""
        broker, group = self.new_broker(), self.new_group()
        subscriber = broker.subscriber(group=group)
        assert subscriber.group == group
        assert subscriber == broker.subscriber(group=group)
        assert hash(subscriber) == hash(broker.subscriber(group=group))
        assert subscriber != self.new_broker().subscriber(group=group)
        assert subscriber != object()
        if broker.features.groups:
            assert subscriber != broker.subscriber(group=self.new_group())

    async def test_a_partition_is_told_and_kept(self) -> None:
        """A key has one, and what is in it comes in order; or none is told."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            keyed = [Message(str(n).encode(), key=f"key-{n % 5}") for n in range(30)]
            await self.publish(broker.publisher(), topic, keyed, tally, batch=10)
            places: dict[str | None, set[object]] = {}
            seen: dict[object, list[int]] = {}
            async with self.subscribed(subscriber, topic) as deliveries:
                while not tally.is_complete:
                    delivery = await self.next(deliveries, tally)
                    assert ("partition" in delivery.coordinates) == broker.features.partitions
                    number = delivery.coordinates.get("partition")
                    places.setdefault(delivery.message.key, set()).add(number)
                    seen.setdefault(number, []).append(int(delivery.message.payload))
                    assert delivery.ack()
            if broker.features.partitions:
                assert all(len(numbers) == 1 for numbers in places.values())
                assert all(order == sorted(order) for order in seen.values())
            tally.check(duplicates=self.max_duplicates)

    async def test_a_group_has_a_name(self) -> None:
        """An empty one is refused at once, with what would happen."""
        broker = self.new_broker()
        for wrong in ("", "a\n", None, 5):
            with pytest.raises(InvalidOptionError):
                broker.subscriber(group=wrong)  # type: ignore[arg-type]

    async def test_wrong_use_is_a_typed_error(self) -> None:
        """A pattern or no topic at all, and a bound below 1; nothing is left of the attempt."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            for wrong in ("a.*", "a.>", "", "a b", "a" * 1_000):
                with pytest.raises(InvalidTopicError):
                    async with self.subscribed(subscriber, wrong):
                        pass
                with pytest.raises(InvalidTopicError):
                    await broker.publisher().publish(wrong, Message(b"x"))
            with pytest.raises(InvalidOptionError):
                async with self.subscribed(subscriber, topic, max_in_flight=0):
                    pass

    async def test_a_broker_that_is_not_open(self) -> None:
        """Before it is entered and after it was left, every use raises `BrokerClosedError`.

        What was made of it before it was entered works while it is open.
        """
        broker = self.new_broker()
        publisher, subscriber = broker.publisher(), broker.subscriber(group=self.new_group())
        topic = self.new_topic()

        async def uses() -> None:
            with pytest.raises(BrokerClosedError):
                await self.bounded(publisher.publish(topic, Message(b"x")), "publish()")
            with pytest.raises(BrokerClosedError):
                async with self.subscribed(subscriber, topic):
                    pass
            with pytest.raises(BrokerClosedError):
                await self.bounded(publisher.prepare(topic), "prepare() of a publisher")
            with pytest.raises(BrokerClosedError):
                await self.bounded(subscriber.prepare(topic), "prepare() of a subscriber")

        await uses()
        tally = self.tally()
        async with broker:
            await publisher.prepare(topic)
            await subscriber.prepare(topic)
            async with self.reading(subscriber, topic, tally):
                await self.publish(publisher, topic, self.messages(3), tally)
                await self.complete(tally)
        await uses()
        tally.check(duplicates=self.max_duplicates)

    async def test_broadcast_reaches_every_instance(self) -> None:
        """Each gets what is published while it is there, and nothing from before it came."""
        async with self.opened() as broker:
            if not broker.features.broadcast:
                with pytest.raises(UnsupportedFeatureError):
                    broker.subscriber(group=Broadcast())
                return
            topic, publisher = self.new_topic(), broker.publisher()
            await publisher.prepare(topic)
            first, second = (
                broker.subscriber(group=Broadcast()),
                broker.subscriber(group=Broadcast()),
            )
            await first.prepare(topic)
            await self.publish(publisher, topic, self.messages(3))  # nobody is there
            tallies = [self.tally(), self.tally()]
            async with self.reading(first, topic, tallies[0]):
                await self.publish(publisher, topic, self.messages(5), tallies[0])
                async with self.reading(second, topic, tallies[1]):
                    messages = self.messages(20)
                    tallies[1].published(*messages)
                    await self.publish(publisher, topic, messages, tallies[0])
                    for tally in tallies:
                        await self.complete(tally)
                await self.publish(publisher, topic, self.messages(5), tallies[0])
                await self.complete(tallies[0])
            await self.publish(publisher, topic, self.messages(3))  # kept for nobody
            tallies.append(self.tally())
            async with self.reading(second, topic, tallies[2]):
                await self.publish(publisher, topic, self.messages(2), tallies[2])
                await self.complete(tallies[2])
            for tally in tallies:
                tally.check(duplicates=self.max_duplicates)

    async def test_a_nacked_broadcast_comes_again_to_the_same_instance(self) -> None:
        """One nacks, the other acks: only the one gets it again."""
        async with self.opened() as broker:
            if not broker.features.broadcast:
                with pytest.raises(UnsupportedFeatureError):
                    broker.features.require("broadcast")
                return
            topic, subscriber = self.new_topic(), broker.subscriber(group=Broadcast())
            await broker.publisher().prepare(topic)
            async with (
                self.subscribed(subscriber, topic) as one,
                self.subscribed(subscriber, topic) as other,
            ):
                await self.publish(broker.publisher(), topic, self.messages(1))
                (await self.next(other)).ack()
                (await self.next(one)).nack()
                (await self.next(one)).ack()
                await self.is_silent(other)
                await self.is_silent(one)

    async def test_outputs_are_stored_with_the_ack(self) -> None:
        """Those of an attempt that fails are not, where that is declared; else they stay."""
        async with self.opened() as broker:
            (topic, subscriber), (out, reader) = await self.place(broker), await self.place(broker)
            publisher, attempts = subscriber.publisher(), 0

            async def fail_once(message: Message) -> None:
                nonlocal attempts
                attempts += 1
                await publisher.publish(out, message.copy(payload=str(attempts).encode()))
                if attempts == 1:
                    raise ValueError

            router = Router()
            router.add_handler(
                "outputs",
                topic,
                fail_once,
                subscriber=subscriber,
                on_failure=FailurePolicy(retry=Retry(attempts=2, initial=0.01), then=Log()),
            )
            wanted = [b"2"] if broker.features.transactional else [b"1", b"2"]
            await self.bounded(router.__aenter__(), "entering a router")
            try:
                async with self.subscribed(reader, out) as deliveries:
                    await self.publish(broker.publisher(), topic, self.messages(1))
                    found = await self.take(deliveries, len(wanted))
                    assert sorted(delivery.message.payload for delivery in found) == wanted
                    await self.is_silent(deliveries)
            finally:
                await self.bounded(router.__aexit__(None, None, None), "leaving a router")
            if subscriber.features.lag:
                assert await subscriber.lag(topic) == 0

    async def test_lag_is_what_is_not_settled(self) -> None:
        """Waiting, in flight and nacked count, acked don't; asking changes nothing."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            if not broker.features.lag:
                with pytest.raises(UnsupportedFeatureError):
                    await subscriber.lag(topic)
                return
            assert await subscriber.lag(topic) == 0
            await self.publish(broker.publisher(), topic, self.messages(5), batch=5)
            assert await subscriber.lag(topic) == 5
            async with self.subscribed(subscriber, topic, max_in_flight=3) as deliveries:
                one, two, three = await self.take(deliveries, 3)
                assert await subscriber.lag(topic) == 5
                one.ack()
                two.nack()
                for delivery in (one, two):
                    await self.bounded(delivery.settled(), "settled()")
                assert await subscriber.lag(topic) == 4
                three.ack()
                await self.bounded(three.settled(), "settled()")
            assert await subscriber.lag(topic) == 3

    async def test_a_pause_holds_back_and_resume_gives(self) -> None:
        """Nothing comes while paused, also to a `receive` that was waiting before; nothing is lost.

        What is unsettled stays and can be settled. Pausing and resuming twice is allowed.
        """
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            publisher, tally = broker.publisher(), self.tally()
            async with self.subscribed(subscriber, topic, max_in_flight=10) as deliveries:
                await self.publish(publisher, topic, self.messages(1), tally)
                held = await self.next(deliveries, tally)
                deliveries.pause()
                deliveries.pause()
                await self.publish(publisher, topic, self.messages(3), tally)
                await self.is_silent(deliveries)
                assert held.ack()
                deliveries.resume()
                deliveries.resume()
                for delivery in await self.take(deliveries, 3, tally):
                    delivery.ack()

                async with asyncio.TaskGroup() as group:
                    waiting = group.create_task(deliveries.receive())
                    await asyncio.sleep(0)
                    deliveries.pause()
                    await self.publish(publisher, topic, self.messages(1), tally)
                    await asyncio.sleep(self.silence)
                    # Broker and reader may have crossed: then it came before the pause.
                    deliveries.resume()
                    for delivery in await self.bounded(waiting, "receive() after resume()"):
                        tally.received(delivery)
                        delivery.ack()
                await self.is_silent(deliveries)
            tally.check(duplicates=self.max_duplicates)

    async def test_leaving_while_paused_gives_back(self) -> None:
        """What a paused member holds, or has fetched and not delivered, goes to another."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(10), tally)
            async with self.subscribed(subscriber, topic, max_in_flight=10) as deliveries:
                tally.asked_again(await self.next(deliveries, tally))
                deliveries.pause()
            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)
