"""A broker for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.memory import MemoryBroker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened
