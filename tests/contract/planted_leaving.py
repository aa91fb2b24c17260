"""Faults in leaving, closing and receiving, and in what is declared."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from eventflow.errors import (
    BrokerClosedError,
    BrokerError,
    PublishError,
)
from eventflow.messaging import (
    Broadcast,
    Broker,
    Deliveries,
    Delivery,
    Features,
    Group,
    Publisher,
)
from tests.contract.planting import noticed_by
from tests.contract.proxy import (
    Messages,
    ProxyBroker,
    ProxyDeliveries,
    ProxyPublisher,
    ProxySubscriber,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence
    from types import TracebackType

    from eventflow.messaging import Message


class _Acks(ProxyDeliveries):
    def left(self) -> None:
        for inner in self.unsettled.values():
            inner.ack()
        super().left()


@noticed_by(
    "a_stop_with_messages_in_flight",
    "some_of_a_batch_are_acked",
    "closing_and_opening_again_loses_nothing",
    "leaving_while_paused_gives_back",
)
class ForgetsOnClose(ProxyBroker):
    """As Watermill's SQL queue does."""

    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _Acks(self, inner)


class _Nacks(ProxyDeliveries):
    delay = 0.0

    def left(self) -> None:
        for inner in self.unsettled.values():
            inner.nack(delay=self.delay)
        super().left()


@noticed_by("a_stop_with_messages_in_flight")
class CountsGiveBacks(ProxyBroker):
    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _Nacks(self, inner)


@noticed_by("what_is_released_comes_again")
class CountsReleases(ProxyBroker):
    def release(self, inner: Delivery, *, delay: float) -> bool:
        return inner.nack(delay=delay)


@noticed_by("what_is_released_comes_again")
class AcksReleases(ProxyBroker):
    def release(self, inner: Delivery, *, delay: float) -> bool:
        return inner.ack()


class _NacksLate(_Nacks):
    delay = 10.0


@noticed_by("a_stop_with_messages_in_flight")
class GivesBackAfterALease(ProxyBroker):
    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _NacksLate(self, inner)


class _Keeps(ProxyDeliveries):
    def left(self) -> None:
        pass


@noticed_by("a_settlement_reaches_the_broker", "an_ack_that_the_broker_does_not_get")
class AcksAfterTheEnd(ProxyBroker):
    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _Keeps(self, inner)


class _Hangs(ProxyDeliveries):
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        found = await super().receive(limit)
        if not found:
            await asyncio.Event().wait()
        return found


@noticed_by("leaving_ends_a_receive_that_waits", "a_broker_closed_under_its_subscriptions")
class ReceiveHangsAtTheEnd(ProxyBroker):
    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _Hangs(self, inner)


class _Drops(ProxyDeliveries):
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        found = await super().receive(limit)
        await asyncio.sleep(0)
        return found


@noticed_by("a_cancelled_receive_loses_nothing")
class LosesWhenReceiveIsCancelled(ProxyBroker):
    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _Drops(self, inner)


@noticed_by("nothing_is_left_behind")
class LeaksATask(ProxyBroker):
    _tasks: set[asyncio.Task[None]] = set()  # noqa: RUF012

    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        self._tasks.add(asyncio.create_task(asyncio.sleep(100_000), name="heartbeat"))
        return super().deliveries(inner)


@noticed_by("nothing_is_left_behind")
class LeaksAFile(ProxyBroker):
    files: list[socket.socket] = []  # noqa: RUF012

    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        self.files.append(socket.socket())
        return super().deliveries(inner)


@noticed_by("leaving_twice_does_no_harm")
class ClosingTwiceFails(ProxyBroker):
    _is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        return await super().__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_open:
            raise BrokerError("it is closed")
        self._is_open = False
        await super().__aexit__(exc_type, exc, traceback)


@noticed_by("entering_twice_is_refused")
class OpensTwice(ProxyBroker):
    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BrokerError:
            return self


@noticed_by("a_broker_that_is_not_open")
class SwallowsWhatIsPublishedWhileClosed(ProxyBroker):
    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        with suppress(BrokerClosedError):
            await publisher.publish(topic, *messages)


@noticed_by("closing_while_many_publish", "closing_ends_a_publish_that_waits")
class PublishHangsWhenClosed(ProxyBroker):
    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        try:
            await publisher.publish(topic, *messages)
        except BrokerClosedError:
            await asyncio.sleep(100)
            raise


@noticed_by("a_cancelled_opening_or_closing_can_be_repeated")
class OpensForGoodWhenCancelled(ProxyBroker):
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await asyncio.sleep(0)
        return self


# Receiving, and what is declared


class _Unbounded(ProxySubscriber):
    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AsyncGenerator[Deliveries]:
        async with super().subscribe(
            topic, max_in_flight=1_000, concurrency=concurrency
        ) as deliveries:
            yield deliveries


@noticed_by(
    "a_due_message_waits_for_room_and_for_resume",
    "at_most_so_many_are_in_flight",
    "no_second_message_before_the_first_is_settled",
    "wrong_use_is_a_typed_error",
)
class IgnoresTheBound(ProxyBroker):
    def subscriber(self, *, group: Group) -> ProxySubscriber:
        return _Unbounded(self, self.inner.subscriber(group=group))


class _NeverPauses(ProxyDeliveries):
    def pause(self) -> None:
        pass


@noticed_by("a_pause_holds_back_and_resume_gives")
class IgnoresPause(ProxyBroker):
    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _NeverPauses(self, inner)


class _NeverResumes(ProxyDeliveries):
    def resume(self) -> None:
        pass


@noticed_by("a_pause_holds_back_and_resume_gives")
class NeverResumes(ProxyBroker):
    def deliveries(self, inner: Deliveries) -> ProxyDeliveries:
        return _NeverResumes(self, inner)


@noticed_by("a_poison_body_passes_through_and_blocks_nothing")
class ReadsPayloads(ProxyBroker):
    """A body that is no text ends the subscription."""

    def arrived(self, inner: Delivery, outer: Delivery) -> None:
        try:
            inner.message.payload.decode()
        except UnicodeDecodeError as exc:
            raise BrokerError("a body that is no text") from exc


@noticed_by("each_group_gets_everything", "a_new_group_and_what_was_published_before_it")
class MixesGroups(ProxyBroker):
    def subscriber(self, *, group: Group) -> ProxySubscriber:
        one = group if isinstance(group, Broadcast) else group and "one"
        return ProxySubscriber(self, self.inner.subscriber(group=one))


@noticed_by("a_message_goes_to_its_topic_only", "topics_do_not_mix_under_load")
class MixesTopics(ProxyBroker):
    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        self._topics = getattr(self, "_topics", {}) | {topic: None}
        for each in self._topics:
            await publisher.publish(each, *messages)


@noticed_by(
    "broadcast_reaches_every_instance", "a_nacked_broadcast_comes_again_to_the_same_instance"
)
class BroadcastsToOne(ProxyBroker):
    def subscriber(self, *, group: Group) -> ProxySubscriber:
        name = "all" if isinstance(group, Broadcast) else group
        return ProxySubscriber(self, self.inner.subscriber(group=name))


@noticed_by("broadcast_reaches_every_instance")
class KeepsForTheAbsent(ProxyBroker):
    _count = 0

    def subscriber(self, *, group: Group) -> ProxySubscriber:
        self._count += 1
        name = f"all-{self._count}" if isinstance(group, Broadcast) else group
        return ProxySubscriber(self, self.inner.subscriber(group=name))


class _NoLag(ProxySubscriber):
    async def lag(self, topic: str) -> int:
        del topic
        return 0


@noticed_by("lag_is_what_is_not_settled")
class SaysThereIsNoLag(ProxyBroker):
    def subscriber(self, *, group: Group) -> ProxySubscriber:
        return _NoLag(self, self.inner.subscriber(group=group))


class _NotEqual(ProxySubscriber):
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@noticed_by("subscribers_of_one_group_are_equal")
class SubscribersAreNotEqual(ProxyBroker):
    def subscriber(self, *, group: Group) -> ProxySubscriber:
        return _NotEqual(self, self.inner.subscriber(group=group))


@noticed_by("a_group_has_a_name")
class TakesAnyGroup(ProxyBroker):
    def subscriber(self, *, group: Group) -> ProxySubscriber:
        name = group if isinstance(group, Broadcast) else str(group or "default").strip()
        return ProxySubscriber(self, self.inner.subscriber(group=name))


class _Declares(ProxyBroker):
    """Declares less, or more, than it does."""

    change: dict[str, bool]

    @property
    def features(self) -> Features:
        return dataclasses.replace(super().features, **self.change)  # type: ignore[arg-type]


@noticed_by(
    "a_publish_with_a_delay",
    "one_bad_message_of_several",
)
class DelaysWithoutSayingSo(_Declares):
    change = {"publish_delay": False}  # noqa: RUF012


@noticed_by("native_headers_come_back_or_are_refused", "one_bad_message_of_several")
class TakesHeadersWithoutSayingSo(_Declares):
    change = {"headers": False}  # noqa: RUF012


@noticed_by("outputs_are_stored_with_the_ack")
class StoresOutputsAtOnce(_Declares):
    change = {"transactional": True}  # noqa: RUF012


@noticed_by("broadcast_reaches_every_instance")
class BroadcastsWithoutSayingSo(_Declares):
    change = {"broadcast": False}  # noqa: RUF012


@noticed_by("lag_is_what_is_not_settled")
class TellsLagWithoutSayingSo(_Declares):
    change = {"lag": False}  # noqa: RUF012


@noticed_by("each_group_gets_everything")
class HasGroupsWithoutSayingSo(_Declares):
    change = {"groups": False}  # noqa: RUF012


@noticed_by("a_new_group_and_what_was_published_before_it")
class HasOldMessagesWithoutSayingSo(_Declares):
    change = {"old_messages": False}  # noqa: RUF012


@noticed_by("deliveries_are_counted_or_unknown")
class CountsWithoutSayingSo(_Declares):
    change = {"delivery_count": False}  # noqa: RUF012


@noticed_by("failures_are_recorded_or_not")
class RecordsWithoutSayingSo(_Declares):
    change = {"recorded_failures": False}  # noqa: RUF012


class _Partitioned(_Declares):
    change = {"partitions": True}  # noqa: RUF012

    def number(self, message: Any) -> int:
        """The partition that it tells."""
        raise NotImplementedError

    def arrived(self, inner: Delivery, outer: Delivery) -> None:
        outer.coordinates = {"partition": self.number(inner.message)}


@noticed_by("a_partition_is_told_and_kept")
class SpreadsAKeyOverPartitions(_Partitioned):
    def number(self, message: Any) -> int:
        return int(message.payload or b"0") % 3


@noticed_by("a_partition_is_told_and_kept")
class MixesUpAPartition(_Partitioned):
    """Keys have one, and come from the last to the first."""

    def number(self, message: Any) -> int:
        return 0

    def changed(self, messages: Messages) -> Iterable[Message]:
        return messages[::-1]


@noticed_by("a_partition_is_told_and_kept")
class HasPartitionsWithoutSayingSo(_Partitioned):
    change = {"partitions": False}  # noqa: RUF012

    def number(self, message: Any) -> int:
        return 0


@noticed_by("a_restart_while_publishing_loses_nothing")
class RefusesForEver(_Declares):
    """Says that trying again may help, and it does not."""

    change = {"persistent": True}  # noqa: RUF012

    async def publish(self, publisher: Publisher, topic: str, messages: Messages) -> None:
        raise PublishError("not now", topic=topic, not_stored=tuple(m.id for m in messages))


@noticed_by(
    "a_process_killed_between_handler_and_ack",
    "a_restart_while_publishing_loses_nothing",
    "nothing_published_before_closing_is_lost",
)
class SaysItIsPersistent(_Declares):
    """And is new, and empty, for each client."""

    change = {"persistent": True}  # noqa: RUF012

    async def __aenter__(self) -> Self:
        self.inner = type(self)().inner
        return await super().__aenter__()

    def publisher(self) -> ProxyPublisher:
        return _Late(self)

    def subscriber(self, *, group: Group) -> ProxySubscriber:
        return _LateSubscriber(self, group)


class _Late(ProxyPublisher):
    """Finds the inner publisher when it is used."""

    def __init__(self, broker: ProxyBroker) -> None:
        self.broker = broker

    @property
    def inner(self) -> Publisher:  # type: ignore[override]
        return self.broker.inner.publisher()


class _LateSubscriber(ProxySubscriber):
    def __init__(self, broker: ProxyBroker, group: Group) -> None:
        self.broker = broker
        self._group = group

    @property
    def inner(self) -> Broker:  # type: ignore[override]
        return self.broker.inner.subscriber(group=self._group)  # type: ignore[return-value]
