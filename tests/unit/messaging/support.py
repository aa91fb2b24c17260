"""What the tests of messages share."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from eventflow import Event, FailurePolicy, Retry
from eventflow.brokers.memory import MemorySubscriber
from eventflow.errors import BrokerConnectionError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.brokers.memory import MemoryBroker
    from eventflow.messaging import Message


class Placed(Event, topic="orders"):
    n: int
    key: str = ""


class Paid(Event, topic="orders"):
    n: int


class Shipped(Event, topic="shipments"):
    n: int


QUICK = FailurePolicy(retry=Retry(attempts=3, initial=0.1, jitter=0.0))


def now() -> float:
    return asyncio.get_running_loop().time()


async def stored(broker: MemoryBroker, topic: str, *, group: str = "looks") -> list[Message]:
    """Everything that is stored under a topic now."""
    found: list[Message] = []
    subscriber = broker.subscriber(group=group)
    async with subscriber.subscribe(topic, max_in_flight=100_000) as deliveries:
        while await subscriber.lag(topic) > len(found):
            found += [delivery.message for delivery in await deliveries.receive(1_000)]
    return found


class Changed(MemorySubscriber):
    """One that declares something else than its backend can do."""

    changed: dict[str, bool]

    @classmethod
    def of(cls, subscriber: MemorySubscriber, **changed: bool) -> Self:
        made = cls.__new__(cls)
        made.__dict__.update(subscriber.__dict__)
        made.changed = changed
        return made

    @property
    def features(self) -> Any:
        return dataclasses.replace(super().features, **self.changed)  # type: ignore[arg-type]


class Cuttable:
    """A subscriber whose connection can be cut, and mended; and that takes its time to leave."""

    def __init__(self, inner: Any, *, leaves_in: float = 0.0) -> None:
        self.features = inner.features
        self.group = inner.group
        self.left = 0
        self.up = asyncio.Event()
        self.up.set()
        self._inner = inner
        self._leaves_in = leaves_in
        self._connections: list[asyncio.Timeout] = []

    def cut(self) -> None:
        """Break every subscription; none begins until `up` is set."""
        self.up.clear()
        for connection in self._connections:
            connection.reschedule(now())

    @asynccontextmanager
    async def subscribe(self, topic: str, **options: Any) -> AsyncGenerator[Any]:
        await self.up.wait()
        async with self._inner.subscribe(topic, **options) as deliveries:
            whole = deliveries.receive

            async def receive(limit: int = 1) -> Any:
                connection = asyncio.timeout(None)
                self._connections.append(connection)
                try:
                    async with connection:
                        return await whole(limit)
                except TimeoutError as exc:
                    raise BrokerConnectionError("cut") from exc
                finally:
                    self._connections.remove(connection)

            deliveries.receive = receive
            yield deliveries
            await asyncio.sleep(self._leaves_in)
        self.left += 1

    def required_topics(self, topic: str) -> tuple[str, ...]:
        return (topic,)

    def publisher(self) -> Any:
        return self._inner.publisher()

    async def prepare(self, topic: str) -> None:
        await self._inner.prepare(topic)

    async def lag(self, topic: str) -> int:
        lag: int = await self._inner.lag(topic)
        return lag
