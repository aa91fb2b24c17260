"""What tests with a real RabbitMQ share: brokers with short times, and a client of another make."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import aiormq
import aiormq.exceptions
from pamqp import commands

from eventflow.brokers.rabbitmq import RabbitMQBroker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from eventflow.messaging import Deliveries, Delivery

__all__ = (
    "BACK_S",
    "DECLARED_S",
    "ID",
    "Kept",
    "Outside",
    "broker_at",
    "fresh",
    "named",
    "outside",
    "take",
    "until",
)

ID = "_watermill_message_uuid"
DECLARED_S = 2.0
"""A quorum queue that was declared less than a second before a kill is broken for good, with what
was confirmed: the server has not written it down yet, and does not say when it has."""
BACK_S = 5.0
"""Seconds after the server within which consumers are back."""


def broker_at(address: str, **options: Any) -> RabbitMQBroker:
    """A client with the times of a test; in other processes too."""
    return RabbitMQBroker(address, **{"publish_timeout": 20.0, "connect_timeout": 10.0, **options})


def named(what: str) -> str:
    """A topic of a test's own."""
    return f"{what}.{uuid.uuid4().hex[:12]}"


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, *, within: float = 30
) -> float:
    """Real time: wait for what a server does; returns how long it took."""
    began = time.monotonic()
    scope = asyncio.timeout(within)
    try:
        async with scope:
            while True:
                found = condition()
                if found if isinstance(found, bool) else await found:
                    return time.monotonic() - began
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {within} s: {what}") from None


async def take(deliveries: Deliveries, count: int, *, within: float = 30) -> list[Delivery]:
    """So many deliveries, not settled."""
    found: list[Delivery] = []
    async with asyncio.timeout(within):
        while len(found) < count:
            came = await deliveries.receive(count - len(found))
            assert came, "the subscription was closed"
            found += came
    return found


async def fresh(deliveries: Deliveries, ids: set[str], *, within: float = 30) -> list[Delivery]:
    """Ack what comes until all of these have come; returns all of it."""
    found: list[Delivery] = []
    missing = {*ids}
    try:
        async with asyncio.timeout(within):
            while missing:
                came = await deliveries.receive(100)
                assert came, "the subscription was closed"
                found += came
                for delivery in came:
                    missing.discard(delivery.message.id)
                    delivery.ack()
    except TimeoutError:
        raise AssertionError(f"{len(missing)} of {len(ids)} did not come") from None
    return found


class Kept(NamedTuple):
    """What a queue has.

    Attributes:
        ready: Messages that nobody holds.
        consumers: Who receives.
    """

    ready: int
    consumers: int


class Outside:
    """Looks at queues through a client that is not the one under test."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    async def kept(self, queue: str) -> Kept:
        """What a queue has."""
        found = await self.channel.queue_declare(queue, passive=True)
        return Kept(found.message_count, found.consumer_count)

    async def received(self, queue: str, *, by: int = 1, within: float = 30) -> None:
        """Wait until a queue has so many receivers."""

        async def has() -> bool:
            return (await self.kept(queue)).consumers == by

        await until(has, f"{by} receive {queue}", within=within)

    async def received_again(self, queue: str, *, within: float) -> None:
        """The same of one that may not be there; asking for it ends a channel."""

        async def has() -> bool:
            connection = self.channel.connection
            channel = await connection.channel(publisher_confirms=False)
            try:
                found = await channel.queue_declare(queue, passive=True)
            except aiormq.exceptions.ChannelNotFoundEntity:
                return False
            await channel.close()
            return bool(found.consumer_count)

        await until(has, f"{queue} is received again", within=within)

    async def replace(self, queue: str) -> None:
        """Delete a queue, and make another one by its name at once."""
        channel = self.channel
        delete, declare = (
            commands.Queue.Delete(queue=queue, nowait=True),
            commands.Queue.Declare(queue=queue, durable=True, nowait=True),
        )
        await asyncio.gather(channel.rpc(delete), channel.rpc(declare))

    async def settled(self, queue: str, *, within: float = 30) -> None:
        """Wait until nothing is left in a queue, once its receivers are gone."""

        async def is_empty() -> bool:
            return await self.kept(queue) == (0, 0)

        await until(is_empty, f"{queue} is empty: {await self.kept(queue)}", within=within)

    async def drain(self, queue: str) -> list[tuple[str, bytes]]:
        """Take all that is ready out of a queue: ids and bodies."""
        found: list[tuple[str, bytes]] = []
        while (got := await self.channel.basic_get(queue, no_ack=True)).body or got.delivery_tag:
            headers = got.header.properties.headers
            found.append((str(headers[ID]), bytes(got.body)))
        return found


@asynccontextmanager
async def outside(address: str) -> AsyncGenerator[Outside]:
    """A look from outside."""
    connection: Any = await aiormq.connect(address)
    try:
        yield Outside(await connection.channel(publisher_confirms=True))
    finally:
        await connection.close()
