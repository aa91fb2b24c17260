"""What comes again: after a crash, a stop, a lapsed lease, a delay; and what is counted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from eventflow.errors import SettleError, UnsupportedFeatureError
from eventflow.messaging import Delivery, Message, SettlementState
from eventflow.messaging.metadata import delay_metadata, delayed_until
from eventflow.testing.contract._case import ContractCase
from eventflow.testing.contract._process import Elsewhere
from eventflow.testing.contract._tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventflow.messaging import Deliveries

__all__ = ("AgainContract",)

GIVEN_BACK_WITHIN = 5.0
"""Seconds in which another member has what one gave back at its stop: the promise."""


class AgainContract(ContractCase):
    """Redelivery, and what is never redelivered."""

    async def test_a_crash_between_handler_and_ack(self) -> None:
        """The subscription ends by an error with messages handled and not acked: they come again.

        Those that were acked don't.
        """
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(10), tally)

            async def crash() -> None:
                async with subscriber.subscribe(topic, max_in_flight=6) as deliveries:
                    taken = await self.take(deliveries, 6, tally)
                    for delivery in taken[:3]:
                        delivery.ack()
                    for delivery in taken[3:]:
                        tally.asked_again(delivery)
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await crash()
            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_a_process_killed_between_handler_and_ack(self) -> None:
        """Kill −9: what it acked does not come again, what it held comes to another process."""  # noqa: RUF002 - the minus of the signal
        broker = self.new_broker()
        where = self.elsewhere()
        if not broker.features.persistent:
            assert where is None, "a backend that other processes reach is persistent: declare it"
            with pytest.raises(UnsupportedFeatureError):
                broker.features.require("persistent")
            return
        assert where is not None, "persistent=True is shown by another process: override elsewhere"
        async with broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(10), tally)
            async with Elsewhere(
                where, topic=topic, group=str(subscriber.group), take=6, ack=3
            ) as process:
                held = await self.bounded(process.holds(), "the other process")
                await process.kill()
            assert len(held) == 6
            acked, lost = held[:3], held[3:]
            for message_id in acked:
                tally.seen_elsewhere(message_id)
            for message_id in lost:
                tally.seen_elsewhere(message_id, again=True)
            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_a_slow_handler_keeps_its_message(self) -> None:
        """Past its lease: nobody else gets the message, and its ack counts."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(1), tally)
            async with (
                self.subscribed(subscriber, topic) as slow,
                self.subscribed(subscriber, topic) as idle,
            ):
                delivery = await self.next(slow, tally)
                held = self.silence * 3 if self.lease is None else self.lease * 2.5
                await self.is_silent(idle, seconds=held)
                assert delivery.ack()
                await self.bounded(delivery.settled(), "settled()")
                await self.is_silent(idle)
            await self.nothing_is_left(subscriber, topic)
            tally.check(duplicates=self.max_duplicates)

    async def test_a_stop_with_messages_in_flight(self) -> None:
        """A member stops with 100 in its hands: another has them within 5 s, not after a lease.

        It is not counted as a delivery where the backend can tell.
        """
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            again: list[Delivery] = []
            await self.publish(broker.publisher(), topic, self.messages(100), tally, batch=10)
            loop = asyncio.get_running_loop()
            async with self.subscribed(subscriber, topic, max_in_flight=100) as stays:
                async with self.subscribed(subscriber, topic, max_in_flight=100) as stops:
                    for delivery in (taken := await self.take(stops, 100, tally)):
                        tally.asked_again(delivery)
                left = loop.time()
                while not tally.is_complete:
                    again += await self.take(stays, 1, tally)
                assert loop.time() - left <= GIVEN_BACK_WITHIN
                for delivery in again:
                    delivery.ack()
            assert all(delivery.state is SettlementState.RELEASED for delivery in taken)
            if broker.features.delivery_count and not self.counts_given_back:
                assert {delivery.deliveries for delivery in again} == {1}
            assert {delivery.failures for delivery in again} == {0}
            tally.check(duplicates=self.max_duplicates)

    async def test_what_is_released_comes_again(self) -> None:
        """Given back one by one, while the subscription stays: neither a delivery nor a failure."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(3), tally)
            async with self.subscribed(subscriber, topic, max_in_flight=3) as deliveries:
                for delivery in await self.take(deliveries, 3, tally):
                    tally.asked_again(delivery)
                    assert delivery.release()
                    assert delivery.state is SettlementState.RELEASED
                    assert (delivery.release(), delivery.ack(), delivery.nack()) == (False,) * 3
                    await self.bounded(delivery.settled(), "settled()")
                again = await self.take(deliveries, 3, tally)
                if not broker.features.nack_delay:
                    with pytest.raises(UnsupportedFeatureError):
                        again[0].release(delay=1.0)
                for delivery in again:
                    assert delivery.ack()
            if broker.features.delivery_count and not self.counts_given_back:
                assert {delivery.deliveries for delivery in again} == {1}
            assert {delivery.failures for delivery in again} == {0}
            tally.check(duplicates=self.max_duplicates)
            await self.nothing_is_left(subscriber, topic)

    async def test_some_of_a_batch_are_acked(self) -> None:
        """Every other one of ten received together: after a stop the rest comes, only that."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(10), tally, batch=10)
            async with self.subscribed(subscriber, topic, max_in_flight=10) as deliveries:
                for n, delivery in enumerate(await self.take(deliveries, 10, tally)):
                    if n % 2:
                        delivery.ack()
                    else:
                        tally.asked_again(delivery)
            async with self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)
            await self.nothing_is_left(subscriber, topic)

    async def test_an_ack_that_the_broker_does_not_get(self) -> None:
        """The broker is closed under a delivery: its ack says so, and the message comes again."""
        broker = self.new_broker()
        tally = self.tally() if broker.features.persistent else Tally()
        async with broker:
            topic, subscriber = await self.place(broker)
            await self.publish(broker.publisher(), topic, self.messages(1), tally)
            async with self.subscribed(subscriber, topic) as deliveries:
                delivery = await self.next(deliveries, tally)
                tally.asked_again(delivery)
                await self.bounded(broker.__aexit__(None, None, None), "closing the broker")
                assert not delivery.ack(), "acked, though the broker was gone"
                with pytest.raises(SettleError):
                    await self.bounded(delivery.settled(), "settled()")
                assert not await self.bounded(deliveries.receive(), "receive() after the close")
        if broker.features.persistent:
            async with broker, self.reading(subscriber, topic, tally):
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_deliveries_are_counted_or_unknown(self) -> None:
        """1, 2, 3 with two nacks between; ``None`` each time where the backend can't tell."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            await self.publish(broker.publisher(), topic, self.messages(1))
            counted: list[int | None] = []
            async with self.subscribed(subscriber, topic) as deliveries:
                for n in range(3):
                    delivery = await self.next(deliveries)
                    counted.append(delivery.deliveries)
                    assert delivery.nack() if n < 2 else delivery.ack()
            assert counted == ([1, 2, 3] if broker.features.delivery_count else [None] * 3)

    async def test_failures_are_recorded_or_not(self) -> None:
        """Kept with the message over nacks and stops; 0 each time where the backend can't."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            await self.publish(broker.publisher(), topic, self.messages(1))
            seen: list[int] = []
            async with self.subscribed(subscriber, topic) as deliveries:
                for failures in (1, None, 4):
                    delivery = await self.next(deliveries)
                    seen.append(delivery.failures)
                    delivery.nack(failures=failures)
            for _ in range(2):  # given back once, then acked
                async with self.subscribed(subscriber, topic) as deliveries:
                    delivery = await self.next(deliveries)
                    seen.append(delivery.failures)
            kept = broker.features.recorded_failures
            assert seen == ([0, 1, 1, 4, 4] if kept else [0] * 5)

    async def test_a_nack_with_a_delay(self) -> None:
        """Never early, others pass meanwhile; refused, and still undecided, where undeclared."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally, loop = self.tally(), asyncio.get_running_loop()
            async with self.subscribed(subscriber, topic) as deliveries:
                for delay in self._delays():
                    await self.publish(broker.publisher(), topic, self.messages(1), tally)
                    delivery = await self.next(deliveries, tally)
                    if not broker.features.nack_delay:
                        with pytest.raises(UnsupportedFeatureError):
                            delivery.nack(delay=delay)
                        assert delivery.state is SettlementState.PENDING
                        assert delivery.ack()
                        return
                    began = loop.time()
                    tally.asked_again(delivery)
                    assert delivery.nack(delay=delay)
                    other = Message(b"other")
                    await self.publish(broker.publisher(), topic, [other], tally)
                    came = await self._two(deliveries, tally, within=delay + self.patience)
                    waited = came[delivery.message.id] - began
                    assert waited >= delay * (1 - 1e-6), f"early: after {waited} of {delay} s"
                    if next(iter(came)) == other.id:
                        break
                else:
                    raise AssertionError("the delayed message held up another")
            tally.check(duplicates=self.max_duplicates)
            await self.nothing_is_left(subscriber, topic)

    def _delays(self) -> Iterator[float]:
        """Longer and longer ones: on a machine that stood still meanwhile, a short one is over."""
        for attempt in range(5):
            yield self.delay * 2**attempt

    async def _two(
        self, deliveries: Deliveries, tally: Tally, *, within: float
    ) -> dict[str, float]:
        """When the next two messages came, in loop time, by id and in their order."""
        came: dict[str, float] = {}
        for _ in range(2):
            delivery = await self.next(deliveries, tally, within=within)
            came[delivery.message.id] = asyncio.get_running_loop().time()
            delivery.ack()
        return came

    async def test_a_delayed_message_waits_also_for_another_member(self) -> None:
        """Nacked with a delay, then its member stops: nobody gets it before it is due."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            if not broker.features.nack_delay:
                with pytest.raises(UnsupportedFeatureError):
                    broker.features.require("nack_delay")
                return
            await self.publish(broker.publisher(), topic, self.messages(1))
            loop = asyncio.get_running_loop()
            async with self.subscribed(subscriber, topic) as deliveries:
                delivery = await self.next(deliveries)
                began = loop.time()
                delivery.nack(delay=self.delay)
            async with self.subscribed(subscriber, topic) as deliveries:
                again = await self.next(deliveries, within=self.delay + self.patience)
                assert loop.time() - began >= self.delay * (1 - 1e-6)
                again.ack()

    async def test_a_publish_with_a_delay(self) -> None:
        """Never early, and others pass meanwhile; refused, and nothing sent, where undeclared."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally, loop = self.tally(), asyncio.get_running_loop()
            async with self.subscribed(subscriber, topic, max_in_flight=2) as deliveries:
                for delay in self._delays():
                    metadata = delay_metadata(delay, now=datetime.now(UTC))
                    delayed, other = Message(b"delayed", metadata), Message(b"other")
                    if not broker.features.publish_delay:
                        with pytest.raises(UnsupportedFeatureError):
                            await broker.publisher().publish(topic, other, delayed)
                        await self.is_silent(deliveries)
                        return
                    began = loop.time()
                    await self.publish(broker.publisher(), topic, [delayed], tally)
                    until = delayed_until(metadata)
                    assert until is not None
                    # By the wall clock, as far as it had come when the broker had the message.
                    least = (until - datetime.now(UTC)) / timedelta(seconds=1)
                    await self.publish(broker.publisher(), topic, [other], tally)
                    came = await self._two(deliveries, tally, within=delay + 1 + self.patience)
                    waited = came[delayed.id] - began
                    assert waited >= least, f"early: after {waited} of {least} s"
                    if next(iter(came)) == other.id:
                        break
                else:
                    raise AssertionError("the delayed message held up another")
            tally.check(duplicates=self.max_duplicates)

    async def test_a_due_message_waits_for_room_and_for_resume(self) -> None:
        """While the bound is full, or the reader paused, what is due stays where it is."""
        async with self.opened() as broker:
            if not broker.features.nack_delay:
                with pytest.raises(UnsupportedFeatureError):
                    broker.features.require("nack_delay")
                return
            topic, subscriber = await self.place(broker)
            tally = self.tally()
            await self.publish(broker.publisher(), topic, self.messages(2), tally)
            async with self.subscribed(subscriber, topic, max_in_flight=1) as deliveries:
                first = await self.next(deliveries, tally)
                tally.asked_again(first)
                first.nack(delay=self.delay)
                held = await self.next(deliveries, tally)
                await self.is_silent(deliveries, seconds=self.delay + self.silence)
                deliveries.pause()
                held.ack()
                await self.is_silent(deliveries)
                deliveries.resume()
                (await self.next(deliveries, tally)).ack()
            tally.check(duplicates=self.max_duplicates)
