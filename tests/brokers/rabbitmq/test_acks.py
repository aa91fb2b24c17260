"""When acks are told, and in how many frames."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from eventflow.brokers.rabbitmq._channel import Arrived
from eventflow.brokers.rabbitmq._consuming import TELL_S, ConsumingChannel
from eventflow.brokers.rabbitmq._frames import Properties, ack_frame

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


class Wire:
    """A channel that so many messages have come on, and what is written on it."""

    def __init__(self, count: int) -> None:
        self.written: list[bytes] = []
        loop = asyncio.get_running_loop()
        session: Any = SimpleNamespace(
            loop=loop, is_open=True, sifter=SimpleNamespace(takers={}), write=self.written.append
        )
        library = SimpleNamespace(number=1, closing=loop.create_future())
        self.channel = ConsumingChannel(session, library)
        for tag in range(1, count + 1):
            none = Properties([], "", is_whole=True)
            arrived = Arrived(tag, is_again=False, source=b"\0\0", properties=none, body=b"")
            self.channel.on_deliver(arrived)


async def test_acks_wait_for_others_but_not_for_long() -> None:
    """Those up to the first that is open are one frame, others are told singly."""
    wire = Wire(5)
    for tag in (2, 1, 5):
        wire.channel.ack(tag, at_once=False)
    await asyncio.sleep(TELL_S / 2)
    assert wire.written == []
    await asyncio.sleep(TELL_S)
    assert wire.written == [ack_frame(1, 2, multiple=True) + ack_frame(1, 5, multiple=False)]


async def test_one_that_has_to_be_at_once_takes_those_along_that_wait() -> None:
    """In the next turn, not when the first one's time is over."""
    wire = Wire(3)
    wire.channel.ack(1, at_once=False)
    wire.channel.ack(2, at_once=True)
    await asyncio.sleep(0)
    assert wire.written == [ack_frame(1, 2, multiple=True)]
    await asyncio.sleep(2 * TELL_S)
    assert len(wire.written) == 1


async def test_no_ack_is_told_on_a_channel_that_is_no_more() -> None:
    """Nor is anybody told that it was."""
    wire, told = Wire(2), list[list[int]]()
    wire.channel.told = told.append
    wire.channel.ack(1, at_once=True)
    wire.channel.ack(2, at_once=False)
    wire.channel.end(None)
    await asyncio.sleep(2 * TELL_S)
    assert not wire.written
    assert not told
