"""Servers that allow few channels, small frames and small messages."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from eventflow.errors import BrokerError, MessageTooLargeError, PublishError
from eventflow.messaging import Message
from tests.brokers.rabbitmq.support import broker_at, named, outside, until
from tests.servers.rabbitmq import ProxiedRabbitMQ, missing

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]

CHANNELS, FRAME, SIZE = 16, 8_192, 200_000


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Generator[ProxiedRabbitMQ]:
    """One of them."""
    if (lacking := missing()) is not None:
        pytest.skip(f"needs a RabbitMQ: {lacking}")
    server = ProxiedRabbitMQ.started(
        tmp_path_factory.mktemp("narrow-rabbitmq"),
        extra=f"channel_max = {CHANNELS}\nframe_max = {FRAME}\nmax_message_size = {SIZE}\n",
    )
    try:
        with server.proxy:
            yield server
    finally:
        server.discard()


async def test_more_topics_than_channels(narrow: ProxiedRabbitMQ) -> None:
    """Exchanges share channels, and there are always some left to declare and to ask on."""
    async with broker_at(narrow.address, publish_timeout=5, delays=False) as broker:
        publisher = broker.publisher()
        topics = [named("many") for _ in range(3 * CHANNELS)]
        await publisher.publish(topics[0], Message(b"x"))
        session = broker.link.session
        assert session is not None
        for topic in topics:
            await publisher.publish(topic, Message(b"x"))
            assert len(session.connection.channels) <= CHANNELS // 2 + 1
        await publisher.publish(topics[0], Message(b"x" * (SIZE - 1)))  # on one of its own
        subscriber = broker.subscriber(group="g")
        for topic in topics:
            assert await subscriber.messages_ready(topic) == 0
        assert broker.link.session is session


async def test_one_channel_too_many(narrow: ProxiedRabbitMQ) -> None:
    """It is refused by us, with the limit; what is there goes on, and one that is left is free."""
    topic = named("first")
    async with broker_at(narrow.address, delays=False) as broker, AsyncExitStack() as stack:
        subscriber, publisher = broker.subscriber(group="g"), broker.publisher()
        for _ in range(2 * CHANNELS):  # the numbers of channels are used again
            async with subscriber.subscribe(topic):
                pass
        first = await stack.enter_async_context(subscriber.subscribe(topic))
        session = broker.receiving.session
        # The last one is needed to declare.
        others = [
            await stack.enter_async_context(subscriber.subscribe(named("more")))
            for _ in range(CHANNELS - 2)
        ]
        await stack.enter_async_context(subscriber.subscribe(topic))  # declares nothing
        for one in (topic, named("more")):
            with pytest.raises(BrokerError, match=f"has {CHANNELS} channels") as caught:
                async with subscriber.subscribe(one):
                    raise AssertionError("it was entered")
            assert not caught.value.retriable
        assert broker.receiving.session is session
        assert not any(one.problem for one in (first, *others))
        await publisher.publish(topic, Message(b"x"))
        assert (await first.receive())[0].ack()


async def test_channels_that_are_given_up(narrow: ProxiedRabbitMQ) -> None:
    """They stay for as long as a publish lasts: so not too many are, and others find room."""
    async with broker_at(narrow.address, delays=False) as broker:
        topic, publisher = named("given-up"), broker.publisher()
        await publisher.publish(topic, Message(b"x"))
        session = broker.link.session
        assert session is not None
        given_up = 0
        for _ in range(2 * CHANNELS):
            given_up += session.retire(await session.publishing(topic), at_most_each=0.0)
        assert given_up == CHANNELS // 4
        for _ in range(CHANNELS):
            await publisher.publish(named("other"), Message(b"x"))
        assert broker.link.session is session


async def test_which_one_was_too_large(narrow: ProxiedRabbitMQ) -> None:
    """It and all behind it are not stored, those before may be; no other call is too large."""
    topic = named("large")
    async with outside(narrow.address) as look, broker_at(narrow.address) as broker:
        publisher = broker.publisher()
        await broker.subscriber(group="g").prepare(topic)
        await publisher.publish(topic, Message(b"x"))
        session = broker.link.session
        assert session is not None
        session.proven = 2 * SIZE  # as if it had taken some: they go with others
        batch = [Message(b"x" * (SIZE + 1 if at == 3 else 10), id=f"m{at}") for at in range(8)]
        before, behind = Message(b"x"), Message(b"x")
        told = await asyncio.gather(
            publisher.publish(topic, before),
            publisher.publish(topic, *batch),
            publisher.publish(topic, behind),
            return_exceptions=True,
        )
        too_large = told[1]
        assert isinstance(too_large, MessageTooLargeError)
        assert (too_large.message_id, too_large.size, too_large.limit) == ("m3", SIZE + 1, SIZE)
        assert too_large.not_stored == ("m3", "m4", "m5", "m6", "m7")
        assert {*too_large.stored, *too_large.unknown} == {"m0", "m1", "m2"}
        assert isinstance(told[2], PublishError)
        assert not isinstance(told[2], MessageTooLargeError)
        assert told[2].not_stored == (behind.id,)
        if isinstance(told[0], PublishError):
            assert told[0].unknown == (before.id,)
        else:
            assert told[0] is None
        there = {name for name, _ in await look.drain(f"{topic}_g")}
        assert not there & {*too_large.not_stored, behind.id}
        await publisher.publish(topic, behind)
        assert broker.link.session is session


async def test_headers_that_are_too_long_for_the_next_connection(narrow: ProxiedRabbitMQ) -> None:
    """They were checked while there was none; the next one stays, with what others publish."""
    topic = named("headers")
    async with broker_at(narrow.linked) as broker:
        publisher = broker.publisher()
        await publisher.publish(topic, Message(b"x"))
        await asyncio.to_thread(narrow.proxy.refuse)
        try:
            await until(lambda: broker.link.session is None, "it is noticed")
            long = Message(b"x", metadata={"a": "b" * (2 * FRAME)})
            with_it = [Message(b"x"), long, Message(b"x")]
            failing = asyncio.create_task(publisher.publish(topic, *with_it))
            others = [
                asyncio.create_task(publisher.publish(topic, Message(b"x"))) for _ in range(5)
            ]
            await asyncio.sleep(0)
        finally:
            await asyncio.to_thread(narrow.proxy.restore)
        with pytest.raises(MessageTooLargeError, match="headers") as caught:
            await failing
        assert caught.value.message_id == long.id
        assert caught.value.not_stored == tuple(message.id for message in with_it)
        assert caught.value.topic == topic
        session = broker.link.session
        await asyncio.gather(*others)
        assert session is not None
        assert broker.link.session is session
