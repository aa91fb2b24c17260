"""What is published inside a transaction: kept with the message that it comes from."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from eventflow._cause import current_attempt
from eventflow.brokers.kafka._delivery import KafkaDelivery
from eventflow.brokers.kafka.publisher import KafkaPublisher
from eventflow.errors import OutsideTransactionError
from eventflow.messaging import SettlementState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.brokers.kafka._producer import Extra
    from eventflow.brokers.kafka._settings import Settings
    from eventflow.brokers.kafka._wire import Headers
    from eventflow.brokers.kafka.broker import KafkaBroker
    from eventflow.messaging import Features, Message

__all__ = ("Output", "TransactionalDelivery", "TransactionalPublisher")

_PENDING = SettlementState.PENDING


class Output(NamedTuple):
    """A record that is stored together with the end of a message."""

    topic: str
    value: bytes
    key: bytes | None
    headers: Headers
    partition: int | None = None


class TransactionalDelivery(KafkaDelivery):
    """A record on its way to a handler, with what that has published because of it.

    Attributes:
        outputs: Records that its ack will store; frozen from then on.
    """

    __slots__ = ("_failed_at", "outputs")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._publishes_nothing()

    @classmethod
    def of_records(cls, *args: Any) -> Sequence[Self]:
        found = super().of_records(*args)
        for made in found:
            made._publishes_nothing()
        return found

    def _publishes_nothing(self) -> None:
        """It has published nothing yet."""
        self.outputs: list[Output] = []
        self._failed_at = -inf

    def attempt_failed(self) -> None:
        """Drop what the attempt has published; what it publishes from now on is refused.

        Not once it has ended, by hand: then its end is what counts.
        """
        if self.state is not _PENDING:
            return
        self.outputs = []
        self._failed_at = asyncio.get_running_loop().time()

    def put_off(self, extra: Extra) -> None:
        """Have its end store it where it waits, and nothing else."""
        key, headers, step = extra
        assert step is not None
        topic, partition = step
        self.outputs = [Output(topic, self.original.payload, key, headers, partition)]

    def is_of(self, settings: Settings, group: str) -> bool:
        """Whether it came to this group, by this broker object."""
        feed = self.member.feed
        return feed.settings is settings and feed.group == group

    def takes(self, started: float) -> bool:
        """Whether outputs of an attempt that started at this loop time go along with it."""
        return self.state is _PENDING and started >= self._failed_at


class TransactionalPublisher(KafkaPublisher):
    """Publishes together with the ack of the message that is being handled.

    Made by ``subscriber.publisher()`` of a subscriber with ``transactional=True``.
    """

    def __init__(
        self, broker: KafkaBroker, features: Features, *, timeout: float, group: str
    ) -> None:
        super().__init__(broker, features, timeout=timeout)
        self._group = group

    async def publish(self, topic: str, *messages: Message) -> None:
        """Have messages stored when the one that is being handled is acked: all, or none.

        Returns at once: nothing was sent. What an attempt has published before it fails is
        dropped. A record that the cluster refuses then has its message handled again.

        Raises:
            OutsideTransactionError: No message of this subscriber is being handled here, or its
                handling is over.
            TopicNotFoundError: There is no such topic.
            MessageTooLargeError: One is too large.
            BrokerClosedError: The broker is not open.
        """
        self._broker.check_open()
        extras = [self._checked(topic, message, messages) for message in messages]
        self._delivery(topic, messages)
        await self._find_new(topic, messages, extras)
        records = [
            Output(topic, message.payload, key, headers)
            if step is None
            else Output(step[0], message.payload, key, headers, step[1])
            for message, (key, headers, step) in zip(messages, extras, strict=True)
        ]
        # Again: the attempt may have ended while the topic was looked up.
        self._delivery(topic, messages).outputs += records

    def _delivery(self, topic: str, messages: tuple[Message, ...]) -> TransactionalDelivery:
        """The message that is being handled."""
        attempt = current_attempt()
        item: object = None if attempt is None else attempt.item
        delivery = item if isinstance(item, TransactionalDelivery) else None
        if delivery is None or not delivery.is_of(self._broker.settings, self._group):
            why = (
                f"nothing was published to {topic!r}: this publisher stores messages with the end "
                f"of one that group {self._group!r} handles, and none is being handled here; "
                "outside of its handlers, use broker.publisher()"
            )
        elif attempt is None or not delivery.takes(attempt.started):
            why = (
                f"nothing was published to {topic!r}: the attempt at handling message "
                f"{delivery.message.id!r} that this belongs to is over; publish before the handler "
                "returns and before its message is acked, or use broker.publisher()"
            )
        else:
            return delivery
        raise OutsideTransactionError(
            why, topic=topic, not_stored=tuple(message.id for message in messages)
        )
