"""Calls of publish: how they are written, and when they end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiormq.exceptions as said
import pytest

from eventflow.brokers.rabbitmq._confirms import ENOUGH, Call, ConfirmingChannel
from eventflow.brokers.rabbitmq._deadlines import LATE, Deadlines
from eventflow.brokers.rabbitmq._wire import ID, table_of
from eventflow.brokers.rabbitmq.topology import Route
from eventflow.messaging import Message

if TYPE_CHECKING:
    from collections.abc import Coroutine

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


def call(*payloads: bytes, route: Route | None = None) -> Call:
    messages = [Message(payload) for payload in payloads or (b"some",)]
    route = route or Route("orders")
    return Call("orders", [(message, route, table_of(message)) for message in messages])


class Wire:
    """A channel, and what is written on it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        loop = asyncio.get_running_loop()
        session: Any = SimpleNamespace(
            loop=loop,
            is_open=True,
            most=131_072,
            sifter=SimpleNamespace(takers={}),
            write=self.written.append,
        )
        library = SimpleNamespace(number=1, closing=loop.create_future())
        self.channel = ConfirmingChannel(session, library)

    def send(self, call: Call) -> None:
        self.channel.send(call)


async def turn() -> None:
    """Let the loop do what is due."""
    await asyncio.sleep(0)


async def test_publishes_of_one_turn_are_one_write() -> None:
    """In the order in which they were sent, and the next turn's are another one."""
    wire = Wire()
    for payload in (b"first", b"second", b"third"):
        wire.send(call(payload))
    assert wire.written == []
    await turn()
    (written,) = wire.written
    assert written.index(b"first") < written.index(b"second") < written.index(b"third")
    wire.send(call(b"fourth"))
    await turn()
    assert len(wire.written) == 2


async def test_much_is_written_at_once() -> None:
    """What one turn sends is not held without a bound."""
    wire = Wire()
    wire.send(call(b"small"))
    wire.send(call(b"x" * ENOUGH))
    assert len(wire.written) == 1
    assert b"small" in wire.written[0]
    await turn()
    assert len(wire.written) == 1


async def test_nothing_is_written_on_a_channel_that_is_no_more() -> None:
    """Its calls end, and don't say that anything was stored."""
    wire, lost = Wire(), call()
    wire.send(lost)
    wire.channel.end(ConnectionResetError())
    await turn()
    assert wire.written == []
    assert lost.ended.done()
    assert isinstance(lost.lost, ConnectionResetError)
    assert lost.stored == []


@pytest.mark.parametrize("multiple", [False, True])
async def test_a_confirmation_is_for_one_or_for_all_up_to_it(*, multiple: bool) -> None:
    wire, calls = Wire(), [call() for _ in range(4)]
    for one in calls:
        wire.send(one)
    wire.channel.on_confirm(3, multiple=multiple, is_ack=True)
    assert [one.ended.done() for one in calls] == [multiple, multiple, True, False]
    wire.channel.on_confirm(4, multiple=True, is_ack=False)
    assert calls[3].refused
    assert [bool(one.refused) for one in calls[:3]] == [not multiple, not multiple, False]
    await turn()


async def test_a_call_knows_what_has_refused_it() -> None:
    """A queue, among others of the exchange perhaps; that there is none; or the server."""
    wire, queue = Wire(), Route("", "orders", must_arrive=True)
    fanned, nacked, returned, dropped = call(), call(route=queue), call(route=queue), call()
    for one in (fanned, nacked, returned, dropped):
        wire.send(one)
    came_back: Any = SimpleNamespace(headers=[(ID, returned.messages[0].id.encode())])
    wire.channel.on_return("", "orders", came_back)
    for tag, is_ack in ((1, False), (2, False), (3, True)):
        wire.channel.on_confirm(tag, multiple=False, is_ack=is_ack)
    wire.channel.end(said.ChannelPreconditionFailed("larger than configured max size 1"))
    calls = [fanned, nacked, returned, dropped]
    assert all(one.refused for one in calls)
    assert [one.is_nacked for one in calls] == [True, True, False, False]
    assert [bool(one.partly) for one in calls] == [True, False, False, False]
    assert [one.has_no_queue for one in calls] == [False, False, True, False]
    await turn()


def after(deadlines: Deadlines, seconds: float) -> tuple[Call, Coroutine[Any, Any, float]]:
    """A call that begins then, and how long it lasts."""
    one = call()

    async def lasts() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(seconds)
        began = loop.time()
        deadlines.add(one)
        try:
            await one.ended
        finally:
            deadlines.discard(one)
        return loop.time() - began

    return one, lasts()


async def test_each_call_is_late_after_its_own_time() -> None:
    """Though there is one timer for all, and others end before."""
    deadlines = Deadlines(10.0)
    begun = [after(deadlines, seconds) for seconds in (0, 3, 4, 12)]
    asyncio.get_running_loop().call_later(5, begun[1][0].end)
    took = await asyncio.gather(*(lasts for _, lasts in begun))
    assert took == pytest.approx([10, 2, 10, 10])
    assert [one.lost is LATE for one, _ in begun] == [True, False, True, True]


async def test_there_is_no_timer_without_a_call() -> None:
    """A publisher that rests leaves nothing in the loop; `no_leaks` would see a task."""
    deadlines, one = Deadlines(10.0), call()
    deadlines.add(one)
    deadlines.discard(one)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(20)
    assert one.lost is None
    assert not one.ended.done()
    deadlines.add(one)
    began = loop.time()
    await one.ended
    assert loop.time() - began == pytest.approx(10)
