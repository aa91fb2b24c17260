"""What the tests of middlewares share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow.messaging import BrokerEventPublisher
from tests.unit.messaging.support import Placed, now

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from eventflow.brokers.memory import MemoryBroker


class Seen:
    """A handler that remembers what it got and when, takes its time, and fails as told."""

    def __init__(
        self,
        *errors: BaseException | None,
        fail: Callable[[Any], BaseException | None] | None = None,
        takes: float = 0.0,
    ) -> None:
        self.numbers: list[int] = []
        self.times: list[float] = []
        self._errors = iter(errors)
        self._fail = fail
        self._takes = takes

    async def __call__(self, event: Any) -> None:
        self.numbers.append(event.n)
        self.times.append(round(now(), 6))
        await asyncio.sleep(self._takes)
        error = next(self._errors, None) if self._fail is None else self._fail(event)
        if error is not None:
            raise error


async def send(broker: MemoryBroker, *numbers: int) -> None:
    """Publish one event for each number."""
    publisher = BrokerEventPublisher(broker.publisher())
    for number in numbers:
        await publisher.publish(Placed(n=number))


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """The log lines of a name."""
    return [
        record.getMessage()
        for record in caplog.records
        if f"event='eventflow.{name}'" in record.getMessage()
    ]
