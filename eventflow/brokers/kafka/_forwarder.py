"""Hands on what was published with a delay, when it is due: one process does it for each step."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from eventflow._log import EventLogger
from eventflow.brokers.kafka._deliveries import receiving
from eventflow.brokers.kafka._feed import Feed
from eventflow.brokers.kafka._ladder import DELAYS, check_steps
from eventflow.errors import (
    BrokerClosedError,
    PublishError,
    PublishTimeoutError,
    TopicNotFoundError,
)
from eventflow.lifecycle.supervisor import Supervisor, cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.brokers.kafka.broker import KafkaBroker
    from eventflow.messaging import Delivery, Message

__all__ = ("Forwarder",)

LOOK_S = 10.0
"""Seconds between two looks whether there is anything to forward from."""
FINISH_S = 2.0
"""Seconds that what is on its way gets at the end."""
MOST = 1_000
"""Messages that are on their way at once."""
LONGEST_S = 60.0
"""Most seconds until what could not be handed on is tried again."""
DOUBLED = 6
"""Failures after which the wait is the longest."""
SHOWN = 10
"""Ids in one line."""

log = EventLogger("eventflow.kafka")


class Forwarder:
    """Forwards while its broker is open, as soon as there is a topic for delays.

    It is a member of a group of its own. What it can't hand on waits again, each message by
    itself, and is reported.

    Attributes:
        problem: Why nothing is handed on at present; empty if nothing is wrong.
    """

    def __init__(self, broker: KafkaBroker) -> None:
        self.problem = ""
        self._broker = broker
        self._nudge = asyncio.Event()
        self._supervisor = Supervisor("kafka-delays", on_stop=self._stop)
        self._supervisor.spawn(self._run(), "run")

    def look(self) -> None:
        """Look at once whether the topic is there."""
        self._nudge.set()

    def end(self) -> asyncio.Future[None]:
        """Stop; returns what is done then."""
        return self._supervisor.request_stop()

    async def _stop(self) -> None:
        await cancel_and_wait(self._supervisor.tasks, grace=FINISH_S)

    async def _run(self) -> None:
        while self._broker.is_open:
            try:
                check_steps(DELAYS, await self._broker.look_up(DELAYS))
                await self._forward()
            except TopicNotFoundError:
                self.problem = ""  # nobody has published anything with a delay
            except BrokerClosedError:
                return
            except Exception as exc:  # noqa: BLE001 - whatever it is: it may pass
                self.problem = f"delayed messages stand still: {exc}"
                log.warning("eventflow.delays_stand_still", reason=str(exc), retried_in_s=LOOK_S)
            self._nudge.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._nudge.wait()

    async def _forward(self) -> None:
        broker = self._broker
        feed = Feed(
            # Applications with different assignors share its group.
            broker.settings._replace(assignor="cooperative-sticky"),
            topic=DELAYS,
            group=DELAYS,
            is_broadcast=False,
            features=broker.features,
            is_ladder=True,
            postpone=(broker.publisher(), DELAYS),
        )
        async with receiving(broker, feed, max_in_flight=MOST) as deliveries:
            self.problem = ""
            under_way: set[asyncio.Task[None]] = set()
            try:
                while received := await deliveries.receive(MOST):
                    by_topic: dict[str, list[Delivery]] = {}
                    for delivery in received:
                        by_topic.setdefault(delivery.topic, []).append(delivery)
                    for topic, those in by_topic.items():
                        # On its own: a topic that does not answer holds up no other.
                        task = self._supervisor.spawn(self._hand_on(topic, those), topic)
                        under_way.add(task)
                        task.add_done_callback(under_way.discard)
            finally:
                if under_way:  # what they have handed on is acked yet
                    await asyncio.wait(under_way, timeout=FINISH_S)

    async def _hand_on(self, topic: str, deliveries: Sequence[Delivery]) -> None:
        if topic == DELAYS:
            for delivery in deliveries:
                place = f"{delivery.coordinates['partition']}:{delivery.coordinates['offset']}"
                event_id = delivery.message.id
                log.error("eventflow.delay_unreadable", topic=topic, event_id=event_id, at=place)
                delivery.ack()
            return
        try:
            if topic not in self._broker.topics:
                await self._broker.look_up(topic)
        except Exception as exc:  # noqa: BLE001 - it may be there again
            self._put_off(topic, deliveries, exc)
            return
        ends = await asyncio.gather(
            *(self._publish(topic, delivery.message) for delivery in deliveries)
        )
        failed: dict[str, list[tuple[Delivery, Exception]]] = {}
        for delivery, first_end in zip(deliveries, ends, strict=True):
            end = first_end
            if isinstance(end, PublishError) and not isinstance(end, PublishTimeoutError):
                # By itself: what goes to a broker together is refused together.
                end = await self._publish(topic, delivery.message)
            if end is None:
                delivery.ack()
            else:
                failed.setdefault(type(end).__name__, []).append((delivery, end))
        for those in failed.values():
            self._put_off(topic, [delivery for delivery, _ in those], those[0][1])

    async def _publish(self, topic: str, message: Message) -> Exception | None:
        """Publish one. Why that failed, if it did."""
        try:
            await self._broker.publisher().publish(topic, message)
        except Exception as exc:  # noqa: BLE001 - it takes no other with it
            return exc
        return None

    def _put_off(self, topic: str, deliveries: Sequence[Delivery], error: Exception) -> None:
        ids = [delivery.message.id for delivery in deliveries]
        log.error(
            "eventflow.delayed_not_forwarded",
            error=error,
            topic=topic,
            count=len(ids),
            event_ids=ids[:SHOWN],
        )
        for delivery in deliveries:
            wait = min(2.0 ** min(delivery.failures + 1, DOUBLED), LONGEST_S)
            delivery.nack(delay=wait, failures=delivery.failures + 1)
