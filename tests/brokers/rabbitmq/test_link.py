"""How often a connection is made again."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from eventflow.brokers.rabbitmq._link import Link
from eventflow.brokers.rabbitmq._session import Session
from eventflow.brokers.rabbitmq._settings import Settings


class Lost:
    """A connection that has ended as soon as it is there."""

    is_open = False

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()
        self.lost.set_result(None)

    def abort(self) -> None:
        """Nothing is left of it."""

    async def close(self) -> None:
        """Nothing is left of it."""


@pytest.mark.virtual_clock
async def test_a_connection_that_ends_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a second: somebody may ask for what the server ends each by."""
    made: list[float] = []
    loop = asyncio.get_running_loop()

    async def begin(_: Settings) -> Any:
        made.append(loop.time())
        return Lost()

    monkeypatch.setattr(Session, "begin", begin)
    settings: Any = Settings((("h", 5672),))
    first: Any = Lost()
    link = Link(settings, first)
    await asyncio.sleep(10)
    await link.end()
    gaps = [later - sooner for sooner, later in pairwise(made)]
    assert len(made) < 15
    assert gaps[0] < 0.3
    assert min(gaps[5:]) >= 1.0
