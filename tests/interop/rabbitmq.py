"""Watermill's presets for RabbitMQ, and ours that are the same."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiormq

from eventflow.brokers.rabbitmq import (
    Binding,
    PubSub,
    Route,
    Source,
    Topics,
    WorkQueue,
)
from tests.interop.support import Watermill

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventflow.brokers.rabbitmq import (
        Exchange,
        Queue,
        RabbitMQBroker,
        RabbitMQSubscriber,
        Topology,
    )

    Parts = tuple[Exchange | Queue | Binding, ...]
    from eventflow.messaging import Group
    from tests.servers.rabbitmq import RabbitMQ

__all__ = ("DURABLE", "PRESETS", "AnyHeaders", "Preset", "left_in", "listed", "member_of")


def _transient(parts: Parts) -> Parts:
    return tuple(
        part if isinstance(part, Binding) else replace(part, durable=False) for part in parts
    )


@dataclass(frozen=True)
class Like:
    """A topology of one's own: a preset, but for what a subclass changes."""

    preset: Topology

    @property
    def has_groups(self) -> bool:
        return self.preset.has_groups

    def route(self, topic: str) -> Route:
        return self.preset.route(topic)

    def source(self, topic: str, group: Group) -> Source:
        return self.preset.source(topic, group)

    def keeping(self, topic: str) -> Route:
        return self.preset.keeping(topic)


class Transient(Like):
    """A restart of the server leaves nothing of it."""

    def route(self, topic: str) -> Route:
        route = self.preset.route(topic)
        return replace(route, parts=_transient(route.parts))

    def source(self, topic: str, group: Group) -> Source:
        source = self.preset.source(topic, group)
        return replace(source, parts=_transient(source.parts))


class AnyHeaders(Like):
    """Headers are published as they are, for readers that take all types."""

    def route(self, topic: str) -> Route:
        return replace(self.preset.route(topic), texts_only=False)


def _topic(exchange: str) -> Topology:
    return Topics(exchange=exchange, durable=False, queue_type="classic")


PRESETS: dict[str, Callable[[str], Topology]] = {
    "durable-pubsub": lambda _: PubSub(queue_type="classic"),
    "durable-queue": lambda _: WorkQueue(queue_type="classic"),
    "durable-topic": _topic,
    "transient-pubsub": lambda _: Transient(PubSub(queue_type="classic")),
    "transient-queue": lambda _: Transient(WorkQueue(queue_type="classic")),
    "transient-topic": lambda exchange: Transient(_topic(exchange)),
}
"""Ours for an exchange, by the names that the Go program has for Watermill's."""
DURABLE = [name for name in PRESETS if name.startswith("durable")]


class Preset:
    """One, on both sides.

    Attributes:
        topology: Ours.
        watermill: The program, which uses Watermill's.
        exchange: The one of the topic presets.
    """

    def __init__(self, name: str, address: str, program: Path) -> None:
        exchange = f"interop-{uuid.uuid4().hex[:12]}"
        options = (f"-amqp={address}", f"-preset={name}", f"-exchange={exchange}")
        self.topology = PRESETS[name](exchange)
        self.watermill = Watermill(program, options)
        self.exchange = exchange


def member_of(broker: RabbitMQBroker, preset: Preset, group: str) -> RabbitMQSubscriber:
    """A member of a group, or of all who share a queue where there are no groups."""
    return broker.subscriber(
        group=group if preset.topology.has_groups else None, topology=preset.topology
    )


def listed(rabbitmq: RabbitMQ) -> list[str]:
    """All exchanges, queues and bindings that a server has, a line each."""
    columns = {
        "exchange": ("name", "type", "durable", "auto_delete", "internal", "arguments"),
        "queue": ("name", "durable", "auto_delete", "exclusive", "arguments"),
        "binding": ("source_name", "destination_name", "routing_key", "arguments"),
    }
    return [
        " ".join((kind, *line.split("\t")))
        for kind, names in columns.items()
        for line in rabbitmq.control("--no-table-headers", f"list_{kind}s", *names).splitlines()
    ]


async def left_in(rabbitmq: RabbitMQ, queue: str) -> int:
    """How many messages there are in a durable queue that nobody receives."""
    connection: Any = await aiormq.connect(rabbitmq.address)
    try:
        channel = await connection.channel()
        said = await channel.queue_declare(queue, passive=True, durable=True)
        return int(said.message_count)
    finally:
        await connection.close()
