"""A connection that is given up while something is declared on it: nobody is cancelled by that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.rabbitmq import _declarations, _deliveries
from eventflow.errors import BrokerConnectionError
from eventflow.messaging import Message
from tests.brokers.rabbitmq.support import broker_at, named, take, until

if TYPE_CHECKING:
    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(60)]


class Hanging:
    """Declarations that begin, and don't end until the connection does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = asyncio.Event()
        self._is_on = False
        module: Any = _declarations
        self._real = module._declare
        monkeypatch.setattr(_declarations, "_declare", self)

    async def __call__(self, channel: Any, part: Any) -> None:
        if self._is_on:
            self.begun.set()
            await asyncio.get_running_loop().create_future()
        await self._real(channel, part)

    def hang(self, *, is_on: bool = True) -> None:
        self._is_on = is_on


async def test_a_subscription_goes_on(rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was looking whether all is still there."""
    monkeypatch.setattr(_deliveries, "LOOK_S", 0.2)
    topic, hanging = named("lost"), Hanging(monkeypatch)
    async with (
        broker_at(rabbitmq.address, delays=False) as broker,
        broker.subscriber(group="g").subscribe(topic) as deliveries,
    ):
        receiving = asyncio.create_task(take(deliveries, 1))
        await asyncio.sleep(0)
        hanging.hang()
        await hanging.begun.wait()
        session: Any = broker.receiving.session
        session._writer.transport.abort()
        await until(lambda: broker.receiving.session is not session, "it is given up")
        hanging.hang(is_on=False)
        await broker.publisher().publish(topic, Message(b"x"))
        assert len(await receiving) == 1


@pytest.mark.parametrize("asks", ["publish", "prepare"])
async def test_a_caller_gets_an_error_or_what_it_asked_for(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    topic, hanging = named("lost"), Hanging(monkeypatch)
    async with broker_at(rabbitmq.address, delays=False, connect_timeout=3) as broker:
        hanging.hang()
        publisher = broker.publisher()
        asked = (
            publisher.prepare(topic)
            if asks == "prepare"
            else publisher.publish(topic, Message(b"x"))
        )
        asking = asyncio.ensure_future(asked)
        await hanging.begun.wait()
        session: Any = broker.link.session
        session._writer.transport.abort()
        await until(lambda: broker.link.session is not session, "it is given up")
        hanging.hang(is_on=False)
        await asking
        assert not asking.cancelled()


async def test_a_question_under_way(rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked once more on the next connection; an error where there is none in time."""
    begun = asyncio.Event()

    async def hang(declarations: _declarations.Declarations, queue: str) -> int:
        begun.set()
        await asyncio.get_running_loop().create_future()
        return 0

    topic = named("lost")
    async with broker_at(rabbitmq.address, delays=False, connect_timeout=2) as broker:
        subscriber = broker.subscriber(group="g")
        await subscriber.prepare(topic)
        monkeypatch.setattr(_declarations.Declarations, "_messages_ready", hang)
        asking = asyncio.create_task(subscriber.messages_ready(topic))
        await begun.wait()
        session: Any = broker.link.session
        session._writer.transport.abort()
        with pytest.raises(BrokerConnectionError):
            await asking
