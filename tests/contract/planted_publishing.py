"""Faults in publishing and settling."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventflow.errors import (
    MessageTooLargeError,
    PublishTimeoutError,
)
from eventflow.messaging import (
    Deliveries,
    Delivery,
    Message,
    Publisher,
)
from eventflow.messaging.metadata import DELAYED_FOR, DELAYED_UNTIL
from tests.contract.planting import noticed_by
from tests.contract.proxy import (
    Messages,
    ProxyBroker,
    ProxyDeliveries,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


@noticed_by("everything_published_comes_once_as_it_was", "many_subscribers_share_a_topic")
class StoresEverySeventhTwice(ProxyBroker):
    _count = 0

    def changed(self, messages: Messages) -> Iterable[Message]:
        self._count += 1
        return messages * 2 if self._count % 7 == 0 else messages


@noticed_by("everything_published_comes_once_as_it_was", "nothing_published_before_closing_is_lost")
class LosesEveryTwentieth(ProxyBroker):
    _count = 0

    def changed(self, messages: Messages) -> Iterable[Message]:
        self._count += 1
        return messages if self._count % 20 else ()


@noticed_by("sizes_at_the_limit", "one_bad_message_of_several")
class PublishesPartially(ProxyBroker):
    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        try:
            await publisher.publish(topic, *messages)
        except MessageTooLargeError:
            for message in messages:
                await publisher.publish(topic, message)


@noticed_by("sizes_at_the_limit")
class RefusesTheLimitItself(ProxyBroker):
    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        for message in messages:
            if len(message.payload) == 65_536:
                raise MessageTooLargeError("too large", not_stored=(message.id,))
        await publisher.publish(topic, *messages)


@noticed_by("sizes_at_the_limit", "one_bad_message_of_several")
class CutsWhatIsTooLarge(ProxyBroker):
    def changed(self, messages: Messages) -> Iterable[Message]:
        return [m.copy(payload=m.payload[:65_536]) for m in messages]


@noticed_by("order_is_kept_as_far_as_declared", "a_lane_is_in_order_also_in_flight")
class BreaksKeyOrder(ProxyBroker):
    def changed(self, messages: Messages) -> Iterable[Message]:
        return messages[::-1]

    def arrived(self, inner: Delivery, outer: Delivery) -> None:
        outer.lane = inner.message.key


@noticed_by("order_is_kept_as_far_as_declared")
class ForgetsTheKey(ProxyBroker):
    def changed(self, messages: Messages) -> Iterable[Message]:
        return [Message(m.payload, m.metadata, id=m.id) for m in messages]


@noticed_by("a_publish_ends_within_its_deadline")
class PublishHasNoDeadline(ProxyBroker):
    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        while True:
            try:
                await publisher.publish(topic, *messages)
                return
            except PublishTimeoutError:
                await asyncio.sleep(0.1)


@noticed_by("a_publish_ends_within_its_deadline")
class StoresAfterItSaidNo(ProxyBroker):
    _tasks: set[asyncio.Task[None]] = set()  # noqa: RUF012

    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        try:
            await publisher.publish(topic, *messages)
        except PublishTimeoutError:
            self._tasks.add(asyncio.create_task(publisher.publish(topic, *messages)))
            raise


@noticed_by("a_cancelled_publish_is_stored_or_not")
class PublishesOneByOne(ProxyBroker):
    """And claims that a call is atomic."""

    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        for message in messages:
            await publisher.publish(topic, message)
            await asyncio.sleep(0)


@noticed_by("ids_are_kept", "everything_published_comes_once_as_it_was")
class MakesNewIds(ProxyBroker):
    def changed(self, messages: Messages) -> Iterable[Message]:
        return [Message(m.payload, m.metadata, key=m.key) for m in messages]


@noticed_by("metadata_is_kept_to_the_character")
class TrimsMetadata(ProxyBroker):
    """As a writer of HTTP headers does."""

    def changed(self, messages: Messages) -> Iterable[Message]:
        return [
            m.copy(metadata={n: v.strip() for n, v in m.metadata.items() if n.isascii()})
            for m in messages
        ]


@noticed_by("native_headers_come_back_or_are_refused")
class DropsHeaders(ProxyBroker):
    def changed(self, messages: Messages) -> Iterable[Message]:
        return [Message(m.payload, m.metadata, id=m.id, key=m.key) for m in messages]


@noticed_by("a_publish_with_a_delay")
class IgnoresPublishDelay(ProxyBroker):
    def changed(self, messages: Messages) -> Iterable[Message]:
        return [
            m.copy(metadata={n.replace(DELAYED_UNTIL, "until"): v for n, v in m.metadata.items()})
            for m in messages
        ]

    def arrived(self, inner: Delivery, outer: Delivery) -> None:
        texts = dict(outer.message.metadata)
        if "until" in texts:
            texts[DELAYED_UNTIL] = texts.pop("until")
            outer.message = outer.message.copy(metadata=texts)


@noticed_by("a_nacked_message_comes_again", "many_nacks_lose_nothing")
class LosesOnNack(ProxyBroker):
    def nack(self, inner: Delivery, *, delay: float, failures: int | None) -> bool:
        del delay, failures
        return inner.ack()


@noticed_by("the_first_decision_stands", "everything_published_comes_once_as_it_was")
class IgnoresAcks(ProxyBroker):
    def ack(self, inner: Delivery) -> bool:
        return inner.nack()


@noticed_by(
    "a_crash_between_handler_and_ack",
    "a_stop_with_messages_in_flight",
    "a_cancelled_subscriber_ends_and_the_next_gets_all",
)
class AcksAtReceive(ProxyBroker):
    def arrived(self, inner: Delivery, outer: Delivery) -> None:
        inner.ack()

    def ack(self, inner: Delivery) -> bool:
        return True


@noticed_by("a_nack_with_a_delay", "a_delayed_message_waits_also_for_another_member")
class IgnoresNackDelay(ProxyBroker):
    def nack(self, inner: Delivery, *, delay: float, failures: int | None) -> bool:
        return inner.nack(failures=failures)


@noticed_by("a_nack_with_a_delay")
class RoundsNackDelayDown(ProxyBroker):
    def nack(self, inner: Delivery, *, delay: float, failures: int | None) -> bool:
        return inner.nack(delay=delay * 0.9, failures=failures)


@noticed_by("failures_are_recorded_or_not")
class RecordsNoFailures(ProxyBroker):
    def nack(self, inner: Delivery, *, delay: float, failures: int | None) -> bool:
        return inner.nack(delay=delay)


@noticed_by("deliveries_are_counted_or_unknown")
class CountsOneDelivery(ProxyBroker):
    def arrived(self, inner: Delivery, outer: Delivery) -> None:
        outer.deliveries = 1


@noticed_by("a_slow_handler_keeps_its_message")
class LeaseLapses(ProxyBroker):
    def arrived(self, inner: Delivery, outer: Delivery) -> None:
        asyncio.get_running_loop().call_later(0.5, inner.nack)


class _Settles(ProxyDeliveries):
    """Says nothing of what the broker has."""

    def settle(self, delivery: Delivery) -> None:
        self.unsettled.pop(delivery).ack()


@noticed_by("a_settlement_reaches_the_broker")
class NeverConfirms(ProxyBroker):
    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _Settles(self, inner)


@noticed_by("a_publish_with_a_delay")
class DelaysHoldUpOthers(ProxyBroker):
    """What is published after a delayed message is stored when that is due."""

    _free_at = 0.0

    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        now = asyncio.get_running_loop().time()
        delays = [m.metadata[DELAYED_FOR] for m in messages if DELAYED_FOR in m.metadata]
        if delays:
            self._free_at = now + max(float(delay.removesuffix("s")) for delay in delays) + 1
        else:
            await asyncio.sleep(self._free_at - now)
        await publisher.publish(topic, *messages)
