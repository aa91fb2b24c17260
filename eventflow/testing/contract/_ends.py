"""Closing at any moment, cancellation at every point, and what is left behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from eventflow.errors import BrokerError, PublishError
from eventflow.messaging import Message
from eventflow.testing.cancellation import cancel_rounds
from eventflow.testing.contract._case import ContractCase
from eventflow.testing.contract._tally import Tally
from eventflow.testing.leaks import no_leaks

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from eventflow.messaging import Broker, Deliveries
    from eventflow.testing.cancellation import CancelOutcome, CancelRound

__all__ = ("EndsContract",)

T = TypeVar("T")

LEFT_WITHIN = 5.0
"""Seconds in which leaving a subscription or a broker ends, whatever waits in it."""


class EndsContract(ContractCase):
    """Ends that come early, twice, or in the middle of a call."""

    async def test_leaving_ends_a_receive_that_waits(self) -> None:
        """It gives an empty sequence, the normal end, and so does every later call."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            manager = subscriber.subscribe(topic)
            deliveries = await self.bounded(manager.__aenter__(), "subscribing")
            async with asyncio.TaskGroup() as group:
                waiting = [group.create_task(deliveries.receive(5)) for _ in range(3)]
                await asyncio.sleep(0)
                await self._left(manager)
                await self.ended(waiting)
            assert [list(task.result()) for task in waiting] == [[], [], []]
            assert not await self.bounded(deliveries.receive(), "receive() after the end")
            assert [delivery async for delivery in deliveries] == []

    async def test_leaving_twice_does_no_harm(self) -> None:
        """Of a subscription and of a broker; the topic is as good as before."""
        broker = self.new_broker()
        tally = self.tally()
        async with broker:
            topic, subscriber = await self.place(broker)
            await self.publish(broker.publisher(), topic, self.messages(5), tally)
            manager = subscriber.subscribe(topic, max_in_flight=5)
            deliveries = await self.bounded(manager.__aenter__(), "subscribing")
            for delivery in await self.take(deliveries, 2, tally):
                tally.asked_again(delivery)
            await self._left(manager)
            await self._left(manager)
            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            await self._closed(broker)
            await self._closed(broker)
        await self._closed(broker)
        tally.check(duplicates=self.max_duplicates)

    async def test_a_broker_closed_under_its_subscriptions(self) -> None:
        """Those who wait in `receive` end; leaving the subscription afterwards does no harm."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
                entered = [
                    await stack.enter_async_context(self.subscribed(subscriber, topic))
                    for _ in range(3)
                ]
                waiting = [group.create_task(deliveries.receive()) for deliveries in entered]
                await asyncio.sleep(0)
                await self._closed(broker)
                await self.ended(waiting)
            assert not any(task.result() for task in waiting)

    async def test_a_broker_can_be_entered_again(self) -> None:
        """What was made of it works again; a subscription from before stays ended."""
        broker = self.new_broker()
        publisher, subscriber = broker.publisher(), broker.subscriber(group=self.new_group())
        tally = self.tally()
        async with broker:
            await publisher.prepare(topic := self.new_topic())
            manager = subscriber.subscribe(topic)
            before = await self.bounded(manager.__aenter__(), "subscribing")
        async with broker:
            await subscriber.prepare(topic)
            async with self.reading(subscriber, topic, tally):
                await self.publish(publisher, topic, self.messages(5), tally)
                assert not await self.bounded(before.receive(), "receive() of an old subscription")
                await self.complete(tally)
            await self._left(manager)
        tally.check(duplicates=self.max_duplicates)

    async def test_entering_twice_is_refused(self) -> None:
        """The second time raises, and the first goes on."""
        async with self.opened() as broker:
            with pytest.raises(BrokerError):
                await broker.__aenter__()
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            async with self.reading(subscriber, topic, tally):
                await self.publish(broker.publisher(), topic, self.messages(2), tally)
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_closing_while_many_publish(self) -> None:
        """Each call ends, as stored or with a typed error; what was confirmed is stored."""
        broker = self.new_broker()
        tally = self.tally() if broker.features.persistent else Tally()
        async with broker:
            topic, subscriber = await self.place(broker)
            publisher = broker.publisher()
            going = asyncio.Event()

            async def work() -> None:
                for message in self.messages(1_000):
                    try:
                        await publisher.publish(topic, message)
                    except (BrokerError, PublishError):
                        tally.may_be_stored(message)
                        return
                    tally.published(message)
                    going.set()
                    await asyncio.sleep(0)

            async with asyncio.TaskGroup() as group:
                writers = [group.create_task(work()) for _ in range(20)]
                await going.wait()
                await self._closed(broker)
                _, pending = await asyncio.wait(writers, timeout=self.patience)
                assert not pending, "a publish hangs after the broker was closed"
        if broker.features.persistent:
            async with broker, self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_closing_ends_a_publish_that_waits(self) -> None:
        """With a typed error, where a publish can be made to wait; else it was confirmed."""
        async with self.opened() as broker:
            topic, _ = await self.place(broker)
            blocked = self.blocked(broker, topic)
            async with AsyncExitStack() as stack:
                if blocked is not None:
                    await self.bounded(stack.enter_async_context(blocked), "blocked()")
                async with asyncio.TaskGroup() as group:
                    waiting = group.create_task(self._ending(broker, topic, Message(b"x")))
                    for _ in range(5):
                        await asyncio.sleep(0)
                    await self._closed(broker)
                    await self.ended([waiting])
                error = waiting.result()
                assert isinstance(error, BrokerError | PublishError) or (
                    error is None and blocked is None
                )

    async def _ending(self, broker: Broker, topic: str, message: Message) -> Exception | None:
        try:
            await broker.publisher().publish(topic, message)
        except (BrokerError, PublishError) as error:
            return error
        return None

    # Cancellation: each of these is cancelled at its k-th wait, for every k.

    async def test_a_cancelled_publish_is_stored_or_not(self) -> None:
        """All or nothing where that is declared; whole messages, no others, and none twice."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            publisher, tally = broker.publisher(), self.tally()
            async with self.reading(subscriber, topic, tally):
                for current in cancel_rounds():
                    messages = self.messages(5)
                    outcome = await self._round(current, publisher.publish(topic, *messages))
                    if outcome.status == "returned":
                        tally.published(*messages)
                    else:
                        tally.may_be_stored(*messages)
                        await asyncio.sleep(self.silence)
                        stored = sum(tally.times(m.id) for m in messages)
                        if broker.features.atomic_publish:
                            assert stored in {0, 5}, f"{stored} of 5 are stored: {outcome}"
                await self.publish(publisher, topic, self.messages(3), tally)
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_a_cancelled_publish_that_waits(self) -> None:
        """The same where the broker takes nothing at first, if it can be made so."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            publisher, tally = broker.publisher(), self.tally()
            async with self.reading(subscriber, topic, tally):
                for current in cancel_rounds():
                    blocked = self.blocked(broker, topic)
                    message = Message(b"mine")
                    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
                        if blocked is not None:
                            await self.bounded(stack.enter_async_context(blocked), "blocked()")
                        group.create_task(_later(stack, self.silence))
                        outcome = await self._round(current, publisher.publish(topic, message))
                    if outcome.status == "returned":
                        tally.published(message)
                    else:
                        tally.may_be_stored(message)
                await self.publish(publisher, topic, self.messages(3), tally)
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates, foreign=True)

    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        """What had come already is delivered by the next call, or given back, and once."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            for current in cancel_rounds():
                messages = self.messages(4)
                async with self.subscribed(subscriber, topic, max_in_flight=10) as deliveries:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._publish_soon(broker, topic, messages, tally))
                        outcome = await self._round(current, deliveries.receive(2))
                    for delivery in outcome.result or ():
                        tally.received(delivery)
                        delivery.ack()
                    while not tally.is_complete:
                        (await self.next(deliveries, tally)).ack()
            await self.nothing_is_left(subscriber, topic)
            tally.check(duplicates=self.max_duplicates)

    async def _publish_soon(
        self, broker: Broker, topic: str, messages: list[Message], tally: Tally
    ) -> None:
        await asyncio.sleep(0.01)
        tally.published(*messages)
        await broker.publisher().publish(topic, *messages)

    async def test_a_cancelled_subscription_holds_nothing(self) -> None:
        """Cancelled while it is entered, and while it is left: all goes to the next member."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(5), tally)
            for current in cancel_rounds():
                manager = subscriber.subscribe(topic)
                outcome = await self._round(current, manager.__aenter__())
                if outcome.status == "returned":
                    await self._left(manager)
            for current in cancel_rounds():
                manager = subscriber.subscribe(topic)
                deliveries = await self.bounded(manager.__aenter__(), "subscribing")
                tally.asked_again(await self.next(deliveries, tally))
                await self._round(current, manager.__aexit__(None, None, None))
                await self._left(manager)
                assert not await self.bounded(deliveries.receive(), "receive() after the end")
            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_a_cancelled_settled_leaves_the_others_waiting(self) -> None:
        """One of two who wait for the broker's word is cancelled: the other still gets it."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            await self.publish(broker.publisher(), topic, self.messages(50))
            async with self.subscribed(subscriber, topic, max_in_flight=50) as deliveries:
                for current in cancel_rounds(max_steps=24):
                    delivery = await self.next(deliveries)
                    async with asyncio.TaskGroup() as group:
                        other = group.create_task(delivery.settled())
                        await asyncio.sleep(0)
                        asyncio.get_running_loop().call_later(0.01, delivery.ack)
                        await self._round(current, delivery.settled())
                        await self.bounded(asyncio.wait([other]), "the other settled()")
                    assert delivery.is_confirmed
            await asyncio.sleep(0)

    async def test_a_cancelled_look_changes_nothing(self) -> None:
        """`prepare` of both, and `lag`: the next call works, and the group gets everything."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(5), tally)
            for current in cancel_rounds():
                await self._round(current, broker.publisher().prepare(topic))
            for current in cancel_rounds():
                await self._round(current, subscriber.prepare(topic))
            if broker.features.lag:
                for current in cancel_rounds():
                    await self._round(current, subscriber.lag(topic))
                assert await subscriber.lag(topic) == 5
            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_a_cancelled_opening_or_closing_can_be_repeated(self) -> None:
        """Entered, or not, and then left: nothing stays, and the broker can be entered again."""
        broker = self.new_broker()
        with no_leaks():
            for current in cancel_rounds():
                entered = await self._round(current, broker.__aenter__())
                if entered.status == "returned":
                    await self._closed(broker)
            for current in cancel_rounds():
                await self.bounded(broker.__aenter__(), "opening the broker")
                await self._round(current, broker.__aexit__(None, None, None))
                await self._closed(broker)
        async with broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            async with self.reading(subscriber, topic, tally):
                await self.publish(broker.publisher(), topic, self.messages(2), tally)
                await self.complete(tally)
        tally.check(duplicates=self.max_duplicates)

    # What is left

    @pytest.mark.stress
    async def test_nothing_is_left_behind(self) -> None:
        """Tasks, threads, timers and file descriptors are what they were, cycle by cycle."""
        await self._cycle()  # what is made once and kept is made now
        grown: list[int] = []
        with no_leaks():
            for _ in range(2):
                before = _descriptors()
                for _ in range(self.sized(everyday=3, stress=100)):
                    await self._cycle()
                grown.append(_descriptors() - before)
        # Another client of this process may connect meanwhile, once; what a cycle leaves behind
        # it leaves each time.
        assert min(grown) <= 0, grown

    async def _cycle(self) -> None:
        """A bit of everything, left half done."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            await self.publish(broker.publisher(), topic, self.messages(6))
            async with (
                self.subscribed(subscriber, topic, max_in_flight=4) as deliveries,
                self.subscribed(subscriber, topic, max_in_flight=1) as paused,
            ):
                paused.pause()
                first, second, *_ = await self.take(deliveries, 3)
                first.ack()
                second.nack(delay=3_600 if broker.features.nack_delay else 0.0)
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await paused.receive()

    async def test_nothing_starts_before_it_is_entered(self) -> None:
        """Making a broker, publishers, subscribers and subscriptions opens and starts nothing."""
        before = _descriptors()
        with no_leaks():
            broker = self.new_broker()
            broker.publisher()
            subscriber = broker.subscriber(group=self.new_group())
            subscriber.subscribe(self.new_topic())
        assert _descriptors() == before

    # Helpers

    async def _round(self, current: CancelRound, call: Coroutine[Any, Any, T]) -> CancelOutcome[T]:
        """Cancel a call at a point; it ends soon, and raises nothing else."""
        limit = self.publish_timeout + self.patience
        outcome = await self.bounded(current.run(call), "a cancelled call", within=limit)
        assert outcome.status != "raised", outcome
        return outcome

    async def _left(self, manager: AbstractAsyncContextManager[Deliveries]) -> None:
        call = manager.__aexit__(None, None, None)
        await self.bounded(call, "leaving a subscription", within=LEFT_WITHIN)

    async def _closed(self, broker: Broker) -> None:
        call = broker.__aexit__(None, None, None)
        await self.bounded(call, "closing the broker", within=LEFT_WITHIN)


async def _later(stack: AsyncExitStack, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await stack.aclose()


def _descriptors() -> int:
    """How many file descriptors are open; 0 where the system does not say."""
    own = Path("/proc/self/fd")
    return sum(1 for _ in own.iterdir()) if own.exists() else 0
