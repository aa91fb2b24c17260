"""A store for another process, which ends by itself as soon as it has acked something."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from eventflow.brokers.memory import MemoryBroker, MemorySubscriber
from eventflow.messaging import Message

if TYPE_CHECKING:
    from eventflow.messaging import Group

TOPIC = "elsewhere"


class Ending(MemoryBroker):
    """Has two messages at once, and one that comes while somebody waits for it."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code
        self._feeding: asyncio.Task[None] | None = None

    def subscriber(self, *, group: Group) -> MemorySubscriber:
        made = super().subscriber(group=group)
        self._feeding = asyncio.get_running_loop().create_task(self._feed(made))
        return made

    async def _feed(self, subscriber: MemorySubscriber) -> None:
        for names in (("m-0", "m-1"), ("m-2",)):
            await self.publisher().publish(TOPIC, *(Message(id=name) for name in names))
            await asyncio.sleep(0)
        while await subscriber.lag(TOPIC) == 3:  # noqa: ASYNC110 - nobody tells of an ack
            await asyncio.sleep(0)
        sys.exit(self._code)


def ending(code: str) -> Ending:
    return Ending(int(code))
