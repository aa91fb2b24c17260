"""Publishes and questions that are cancelled: nobody else is bothered."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.rabbitmq._session import Session
from eventflow.errors import BrokerConnectionError
from eventflow.messaging import Message
from tests.brokers.rabbitmq.support import broker_at, named, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.servers.rabbitmq import ProxiedRabbitMQ, RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]


async def no_others(session: Any) -> None:
    """Wait until a connection has no channels but those that it publishes on."""
    library, publishing = session.connection.channels, session._publishing
    await until(lambda: len(library) == len(publishing), "channels are closed", within=5)


async def test_a_publish_that_is_cancelled_while_its_declaring_channel_is_closed(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection stays, and with it what others publish."""
    close_channel, closing = Session.close_channel, asyncio.Event()

    async def seen(self: Session, channel: Any) -> None:
        closing.set()
        await close_channel(self, channel)

    monkeypatch.setattr(Session, "close_channel", seen)
    async with broker_at(rabbitmq.address, delays=False) as broker:
        publisher, topic = broker.publisher(), named("steady")
        await publisher.publish(topic, Message(b"x"))
        session = broker.link.session
        assert session is not None
        for turns in range(24):
            closing.clear()
            publishing = asyncio.create_task(publisher.publish(named("new"), Message(b"x")))
            await closing.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            others = [
                asyncio.create_task(publisher.publish(topic, Message(b"x"))) for _ in range(10)
            ]
            publishing.cancel()
            await asyncio.wait([publishing])
            await asyncio.gather(*others)
        await no_others(session)
        assert broker.link.session is session
    assert not [line for line in caplog.messages if "messages_unrouted" not in line]


async def test_what_is_cancelled_at_any_time(
    rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    """Publishes to new topics, preparations and counts: no channel is left, nor a connection."""
    loop = asyncio.get_running_loop()
    unheard: list[object] = []
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    tasks = asyncio.all_tasks()
    async with broker_at(rabbitmq.address, delays=False) as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group="g")
        await subscriber.prepare(topic := named("steady"))
        await publisher.publish(topic, Message(b"x"))
        session = broker.link.session
        assert session is not None
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: publisher.publish(named("new"), Message(b"x")),
            lambda: publisher.prepare(named("new")),
            lambda: broker.messages_ready(f"{topic}_g"),
        ]
        for number in range(150):

            async def one(number: int = number) -> None:
                await calls[number % 3]()

            calling = asyncio.create_task(one())
            await asyncio.sleep(number / 15_000)
            calling.cancel()
            await asyncio.wait([calling])
            if not calling.cancelled():
                calling.result()
            await publisher.publish(topic, Message(b"x"))
        assert broker.link.session is session
        await no_others(session)
    assert asyncio.all_tasks() <= tasks | {asyncio.current_task()}
    assert not unheard
    assert not [line for line in caplog.messages if "messages_unrouted" not in line]


async def test_a_server_that_stands_still(proxied_rabbitmq: ProxiedRabbitMQ) -> None:
    """Who is cancelled is gone at once, and who asks is told in time; all goes on afterwards."""
    proxy = proxied_rabbitmq.proxy
    async with broker_at(
        proxied_rabbitmq.linked, connect_timeout=1.0, heartbeat=60, delays=False
    ) as broker:
        publisher, subscriber = broker.publisher(), broker.subscriber(group="g")
        await subscriber.prepare(topic := named("still"))
        await publisher.publish(topic, Message(b"x"))
        session = broker.link.session
        await asyncio.to_thread(proxy.stall)
        publishing = asyncio.create_task(publisher.publish(named("new"), Message(b"x")))
        await asyncio.sleep(0.1)
        publishing.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        assert time.monotonic() - began < 0.5
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: subscriber.prepare(named("new")),
            lambda: publisher.prepare(named("new")),
            lambda: broker.messages_ready(f"{topic}_g"),
        ]
        for call in calls:
            began = time.monotonic()
            with pytest.raises(BrokerConnectionError, match="in time"):
                await call()
            assert 0.9 < time.monotonic() - began < 2.0
        await asyncio.to_thread(proxy.restore)
        await publisher.publish(named("new"), Message(b"x"))
        assert await subscriber.messages_ready(topic) == 1
        assert broker.link.session is session
