"""`Features`: what a backend can do, declared so that nobody has to find out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eventflow.errors import UnsupportedFeatureError

__all__ = ("Features",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a backend declares; each claim is shown by the contract suite.

    Asking for more raises `UnsupportedFeatureError` where it is asked for; nothing is silently
    done with less. Every backend delivers at least once, unless `at_most_once` is set.

    Attributes:
        backend: Name of the backend, such as ``memory``.
        groups: Consumer groups: each group gets every message, one of its members each.
        broadcast: Receiving on every instance, with ``group=Broadcast()``.
        order: What keeps its order: ``"topic"``: all of a topic, to one subscriber that has one
            message in flight; ``"key"``: also messages with the same `Message.key`, whatever
            the number of subscribers; ``"none"``.
        partitions: A topic has partitions, whose messages keep their order, and those of one key
            are in one: ``delivery.coordinates["partition"]``.
        persistent: What was confirmed outlives the process, and a restart of the broker.
        old_messages: A new group gets what was published before it existed.
        nack_delay: ``delivery.nack(delay=…)``.
        publish_delay: Messages with the delay metadata are delivered later.
        recorded_failures: ``delivery.nack(failures=…)`` is kept for the next delivery.
        delivery_count: `Delivery.deliveries` is known.
        headers: Messages have native headers, which come back as they were sent.
        atomic_publish: A publish of several messages stores all of them or none.
        transactional: What a handler publishes through ``subscriber.publisher()`` is stored
            together with the ack of its message, or not at all; so are dead letters.
        lag: ``await subscriber.lag(topic)`` tells how many messages wait.
        at_most_once: Messages can be lost between the broker and the handler.
        settle_within: Seconds after which the broker takes a delivery back that is not settled;
            ``None`` where it waits for as long as its receiver lives.
        max_payload_bytes: Largest payload, in bytes; ``None`` for no bound of the backend's own.
    """

    backend: str
    groups: bool = False
    broadcast: bool = False
    order: Literal["none", "key", "topic"] = "none"
    partitions: bool = False
    persistent: bool = False
    old_messages: bool = False
    nack_delay: bool = False
    publish_delay: bool = False
    recorded_failures: bool = False
    delivery_count: bool = False
    headers: bool = False
    atomic_publish: bool = False
    transactional: bool = False
    lag: bool = False
    at_most_once: bool = False
    settle_within: float | None = None
    max_payload_bytes: int | None = None

    def require(self, feature: str) -> None:
        """Raise unless a feature is declared.

        Raises:
            UnsupportedFeatureError: It is not.
        """
        if not getattr(self, feature):
            raise UnsupportedFeatureError(
                f"the {self.backend} backend has no {feature.replace('_', ' ')}: its Features "
                f"declare {feature}={getattr(self, feature)!r}",
                feature=feature,
                backend=self.backend,
            )
