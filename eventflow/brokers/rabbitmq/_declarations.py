"""What is declared on one connection: exchanges, queues and their bindings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiormq.exceptions import ConnectionCommandInvalid as CommandInvalid
from pamqp import commands

from eventflow._log import EventLogger
from eventflow.brokers.rabbitmq._errors import advice_on
from eventflow.brokers.rabbitmq.topology import KINDS, Binding, Exchange, Queue
from eventflow.errors import BrokerConnectionError, TopologyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from eventflow.brokers.rabbitmq._session import Session
    from eventflow.brokers.rabbitmq.topology import Part

__all__ = ("Declarations",)

log = EventLogger("eventflow.rabbitmq")

MOST_KNOWN = 10_000
END_S = 2.0
"""Seconds until it is known what has ended a connection."""


class Declarations:
    """Declares each part once on a connection, and again when it was forgotten.

    Args:
        session: The connection.
        again: Opens another one to the same server.
    """

    def __init__(self, session: Session, again: Callable[[], Awaitable[Session]]) -> None:
        self._session = session
        self._again = again
        self._declared: set[Part] = set()
        self._known: dict[int, tuple[Part, ...]] = {}  # all of whose parts are, by identity
        self._kinds = {*KINDS}  # of exchanges that the server has
        self._declaring = asyncio.Lock()

    def has_all(self, parts: tuple[Part, ...]) -> bool:
        """Whether all of them were declared."""
        if self._known.get(id(parts)) is parts:
            return True
        if not self._declared.issuperset(parts):
            return False
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[id(parts)] = parts
        return True

    def forget(self, parts: Iterable[Part]) -> None:
        """What was declared may be there no more."""
        self._declared.difference_update(parts)
        self._known.clear()

    def forget_all(self) -> None:
        """Nothing that was declared may be there any more."""
        self._declared.clear()
        self._known.clear()

    async def declare(self, parts: Iterable[Part]) -> None:
        """Declare what was not declared yet, one caller after the other.

        Raises:
            TopologyError: Something is there with other properties.
            BrokerAuthenticationError: We may not.
            BrokerConnectionError: The connection is lost.
        """
        await self._declaring.acquire()
        missing = [part for part in parts if part not in self._declared]
        if not missing:
            self._declaring.release()
            return
        # Released not before we go on: messages are sent in the order of calls.
        await self._session.shielded(
            self._declare(missing), "declare", then=self._declaring.release
        )

    async def _declare(self, parts: Iterable[Part]) -> None:
        session = self._session
        channel = await session.open_channel()
        try:
            for part in parts:
                if isinstance(part, Exchange) and part.kind not in self._kinds:
                    await self._try(part)
                    self._kinds.add(part.kind)
                try:
                    async with session.asking(_name(part)):
                        await _declare(channel, part)
                except TopologyError as exc:
                    raise TopologyError(f"{exc}{advice_on(part, exc)}") from None
                self._declared.add(part)
        finally:
            await session.close_channel(channel)

    async def _try(self, exchange: Exchange) -> None:
        """Declare an exchange on a connection of its own: one of no known kind ends that.

        Raises:
            BrokerError: It can't be declared.
        """
        trial = await self._again()
        try:
            channel = await trial.open_channel()
            async with trial.asking(_name(exchange)):
                await _declare(channel, exchange)
        except BrokerConnectionError:
            await asyncio.wait([trial.lost], timeout=END_S)
            error = trial.lost.result() if trial.lost.done() else None
            if not isinstance(error, CommandInvalid):
                raise
        else:
            return
        finally:
            await trial.close()
        raise TopologyError(f"{_name(exchange)}: RabbitMQ has no kind {exchange.kind!r}")

    async def messages_ready(self, queue: str) -> int:
        """How many messages wait in a queue, which is declared passively for that.

        Raises:
            TopologyError: There is none of that name.
            BrokerConnectionError: The connection is lost.
        """
        return await self._session.shielded(self._messages_ready(queue), "count")

    async def _messages_ready(self, queue: str) -> int:
        session = self._session
        channel = await session.open_channel()
        try:
            async with session.asking(f"queue {queue!r}"):
                found = await channel.queue_declare(queue, passive=True)
        finally:
            await session.close_channel(channel)
        return int(found.message_count)


async def _declare(channel: Any, part: Part) -> None:
    if isinstance(part, Exchange):
        await channel.exchange_declare(
            part.name,
            exchange_type=part.kind,
            durable=part.durable,
            passive=part.must_exist,
            arguments={**part.arguments} or None,
        )
    elif isinstance(part, Queue):
        if part.drops:
            log.warning("eventflow.queue_may_drop", queue=part.name)
        await channel.queue_declare(
            part.name,
            durable=part.durable,
            exclusive=part.exclusive,
            arguments={**part.arguments} or None,
        )
    else:
        await channel.rpc(
            commands.Queue.Bind(
                queue=part.queue, exchange=part.exchange, routing_key=part.routing_key
            )
        )


def _name(part: Part) -> str:
    if isinstance(part, Binding):
        return f"the binding of queue {part.queue!r} to exchange {part.exchange!r}"
    return f"{'exchange' if isinstance(part, Exchange) else 'queue'} {part.name!r}"
