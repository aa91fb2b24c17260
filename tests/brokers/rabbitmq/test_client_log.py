"""What the client library writes about connections of ours is held back."""

from __future__ import annotations

import asyncio
import logging

import pytest

from eventflow.brokers.rabbitmq._client_log import CHANNEL, CONNECTION, ours, quiet

LEVELS = (logging.INFO, logging.WARNING, logging.ERROR)


@pytest.mark.parametrize("name", [CONNECTION, CHANNEL])
def test_about_ours_nothing_is_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also by what it starts there; at DEBUG, all is."""
    log = logging.getLogger(name)
    quiet()

    async def say() -> None:
        for level in LEVELS:
            log.log(level, "was blocked")

    async def run() -> None:
        with ours():
            task = asyncio.create_task(say())
        await task

    with caplog.at_level(logging.INFO, name):
        asyncio.run(run())
        assert not caplog.records
        asyncio.run(say())
        assert [record.levelno for record in caplog.records] == [*LEVELS], "somebody else's"
    caplog.clear()
    with caplog.at_level(logging.DEBUG, name):
        asyncio.run(run())
        assert len(caplog.records) == len(LEVELS)
