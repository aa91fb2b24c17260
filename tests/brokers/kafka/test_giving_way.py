"""When an event loop stands aside for the client's threads."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.kafka import KafkaBroker, _giving_way
from eventflow.brokers.kafka._giving_way import AGAIN_S, AWAY_S, LOOK_S, GivingWay
from tests.brokers.kafka.support import broker_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.kafka import Kafka


class FakeLoop:
    """A clock that stands still, and one timer."""

    def __init__(self) -> None:
        self.now = self.computed = 0.0
        self.due = 0.0
        self.is_cancelled = False
        self._callback: Callable[[], None] = lambda: None
        self.away: list[float] = []

    def time(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.computed

    def sleep(self, seconds: float) -> None:
        self.away.append(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeLoop:
        self.due, self._callback = self.now + seconds, callback
        return self

    def cancel(self) -> None:
        self.is_cancelled = True

    def run(self, *, busy: float) -> float:
        """Until the timer, computing a part of that time. How long that was."""
        took = self.due - self.now
        self.computed += busy * took
        self.now = self.due
        self._callback()
        return took


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    loop: Any = FakeLoop()
    monkeypatch.setattr(_giving_way, "time", loop)
    return loop


def test_a_loop_with_time_to_spare(loop: Any) -> None:
    """It is looked at four times a second, and never stands aside."""
    GivingWay(loop)
    for busy in (0.0, 0.2, 0.4):
        assert loop.run(busy=busy) == pytest.approx(LOOK_S)
    assert loop.away == []


def test_a_busy_loop(loop: Any) -> None:
    """Stands aside for a moment every 5 ms, until it has time again."""
    giving = GivingWay(loop)
    loop.run(busy=1.0)
    for _ in range(3):
        assert loop.run(busy=0.9) == pytest.approx(AGAIN_S)
    assert loop.away == [AWAY_S] * 4
    assert loop.run(busy=0.1) == pytest.approx(AGAIN_S)
    assert loop.run(busy=0.1) == pytest.approx(LOOK_S)
    assert loop.away == [AWAY_S] * 4
    giving.end()
    assert loop.is_cancelled


# Of a broker


@pytest.mark.kafka
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("end", ["left", "cancelled"])
async def test_a_broker_that_is_entered_while_it_is_left(kafka: Kafka, end: str) -> None:
    """Each time has its own, which ends with it."""
    broker = broker_at(kafka.address)
    await broker.__aenter__()
    leaving = asyncio.create_task(broker.__aexit__(None, None, None))
    await asyncio.sleep(0)
    if end == "cancelled":
        leaving.cancel()
    async with broker:
        await asyncio.wait([leaving])


@pytest.mark.usefixtures("no_leaks")
async def test_a_broker_that_was_never_entered() -> None:
    await KafkaBroker("127.0.0.1:1").__aexit__(None, None, None)


@pytest.mark.usefixtures("no_leaks")
async def test_a_broker_whose_leaving_is_cancelled() -> None:
    """While it waits for what is put off, which may take seconds."""
    broker: Any = KafkaBroker("127.0.0.1:1")
    broker._giving_way = GivingWay(asyncio.get_running_loop())
    ended = asyncio.get_running_loop().create_future()
    broker.feeds["t",] = SimpleNamespace(is_postponing=True, end=lambda: ended)
    leaving = asyncio.create_task(broker.__aexit__(None, None, None))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    ended.set_result(None)
