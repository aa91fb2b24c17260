"""Another producer in the place of one that has given up: one, and none once it is closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventflow.brokers.kafka import KafkaBroker
from eventflow.errors import BrokerClosedError


class FakeProducer:
    def __init__(self, *, is_sound: bool = True) -> None:
        self.is_sound = is_sound
        self.has_ended = False

    def end(self) -> asyncio.Future[None]:
        self.has_ended = True
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ended.set_result(None)
        return ended


@pytest.fixture
def made() -> list[FakeProducer]:
    return []


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def broker(made: list[FakeProducer], gate: asyncio.Event) -> Any:
    """An open one whose producer has given up; the next takes until the gate is open."""
    broker: Any = KafkaBroker("h")

    async def new_producer() -> FakeProducer:
        await gate.wait()
        made.append(FakeProducer())
        return made[-1]

    broker._new_producer = new_producer
    broker._producer = FakeProducer(is_sound=False)
    broker.is_open = True
    return broker


async def test_all_who_find_it_broken_get_the_same(
    broker: Any, made: list[FakeProducer], gate: asyncio.Event
) -> None:
    """Made once; the one that has given up is ended."""
    broken = broker._producer
    asking = [asyncio.create_task(broker.producer()) for _ in range(5)]
    await asyncio.sleep(0)
    gate.set()
    found = await asyncio.gather(*asking)
    assert len(made) == 1
    assert found == made * 5
    assert broken.has_ended
    assert not made[0].has_ended


async def test_a_broker_that_is_closed_meanwhile_keeps_none(
    broker: Any, made: list[FakeProducer], gate: asyncio.Event
) -> None:
    """What was made for it is ended; those who asked are told, and it can be entered again."""
    asking = [asyncio.create_task(broker.producer()) for _ in range(5)]
    await asyncio.sleep(0)
    await broker.__aexit__(None, None, None)
    gate.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(one) for one in found} == {BrokerClosedError}
    assert len(made) == 1
    assert made[0].has_ended
    assert broker._producer is None
