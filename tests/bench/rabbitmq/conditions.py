"""What all contenders share: topics, queues of one kind, and how many are in flight."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiormq

from eventflow.brokers.rabbitmq import PubSub, RabbitMQBroker
from eventflow.messaging import Message
from tests.bench.orders import BODY, ID, NAME, Order, each_in_flight

if TYPE_CHECKING:
    from collections.abc import Generator

    from eventflow.brokers.rabbitmq.topology import Topology

__all__ = (
    "IN_FLIGHT",
    "LATENCY",
    "PUBLISHED",
    "READ",
    "SHARED",
    "OrderBooked",
    "OrderPinged",
    "OrderPlaced",
    "OrderShared",
    "Place",
    "headers",
    "messages",
    "queue_of",
)

IN_FLIGHT = 200
"""Messages that are unconfirmed at most, and as many that are fetched ahead."""

TOGETHER = 100

READ = "bench.orders"
SHARED = "bench.shared"
"""The same, in classic queues, as Watermill has them."""
PUBLISHED = "bench.published"
LATENCY = "bench.pinged"


@dataclass(frozen=True)
class Place:
    """Where a group has its messages.

    Attributes:
        topic: Their topic, which is the name of a fanout exchange.
        group: The group.
        topology: What declared its queue.
    """

    topic: str
    group: str
    topology: Topology

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self.topology.source(self.topic, self.group).queue


class OrderPlaced(Order, topic=READ):
    """What is consumed."""


class OrderShared(Order, topic=SHARED):
    """What is consumed from queues that Watermill could share."""


class OrderBooked(Order, topic=PUBLISHED):
    """What is published."""


class OrderPinged(Order, topic=LATENCY):
    """What is published and waited for."""


def new_name(prefix: str) -> str:
    """A name that nobody else has."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def headers(name: str = NAME) -> dict[str, Any]:
    """The two headers of a message: an id of its own, and the event's name."""
    return {ID: str(uuid.uuid4()), "name": name}


def messages(number: int, name: str = NAME) -> list[Message]:
    """Messages with these headers."""
    return [Message(BODY, {"name": name}) for _ in range(number)]


@contextmanager
def queue_of(
    address: str, topic: str, *, topology: Topology | None = None, number: int = 0
) -> Generator[Place]:
    """A new group's queue, with so many messages in it; it is deleted afterwards.

    Args:
        address: Of the server.
        topic: The topic.
        topology: Which queue; by default the backend's own, a quorum queue.
        number: How many messages.
    """
    place = Place(topic, new_name("group"), topology or PubSub())
    asyncio.run(_fill(address, place, number))
    try:
        yield place
    finally:
        asyncio.run(_delete(address, place.queue))


async def _fill(address: str, place: Place, number: int) -> None:
    given = messages(number, OrderShared.__name__ if place.topic == SHARED else NAME)
    calls = [given[at : at + TOGETHER] for at in range(0, number, TOGETHER)]
    async with RabbitMQBroker(address, delays=False) as broker:
        subscriber = broker.subscriber(group=place.group, topology=place.topology)
        await subscriber.prepare(place.topic)
        publisher = broker.publisher()
        await each_in_flight(calls, lambda call: publisher.publish(place.topic, *call), tasks=5)


async def _delete(address: str, queue: str) -> None:
    connection = await aiormq.connect(address)
    channel = await connection.channel()
    await channel.queue_delete(queue)
    await connection.close()
