"""What the measures of backends share: an event of 100 bytes, handling it, and publishing many."""

from __future__ import annotations

import asyncio
import json
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from eventflow import Event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ("BODY", "ID", "NAME", "WARM_UP", "Bare", "FirstToLast", "Order", "each_in_flight")

T = TypeVar("T")

NAME = "OrderPlaced"
ID = "_watermill_message_uuid"
WARM_UP = 20
"""Events of a latency run that do not count."""


class Order(Event):
    """An event of 100 bytes; its subclasses are the same under other names."""

    order_id: str
    amount_cents: int
    note: str


class Bare(BaseModel):
    """What an event is without eventflow."""

    order_id: str
    amount_cents: int
    note: str


def _body(size: int) -> bytes:
    given = {"order_id": "A-1", "amount_cents": 1250, "note": ""}
    given["note"] = "x" * (size - len(json.dumps(given, separators=(",", ":"))))
    return json.dumps(given, separators=(",", ":")).encode()


BODY = _body(100)


class FirstToLast:
    """A handler that does nothing but notice when the first and the last of so many came.

    Attributes:
        came: Done by the last; the seconds from the first.
    """

    def __init__(self, number: int) -> None:
        self._number = self._left = number
        self._began = 0.0
        self.came: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def __call__(self, event: object) -> None:
        if self._left == self._number:
            self._began = perf_counter()
        self._left -= 1
        if not self._left:
            self.came.set_result(perf_counter() - self._began)


async def each_in_flight(
    given: Sequence[T], send: Callable[[T], Awaitable[object]], *, tasks: int
) -> float:
    """Seconds until all are sent, by so many tasks that have one in flight each."""
    waiting = iter(given)

    async def sending() -> None:
        for one in waiting:
            await send(one)

    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(sending())
    return perf_counter() - began
