"""The connection ends in the middle of a publish, of its answer, of a delivery, or of an ack."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.rabbitmq import WorkQueue
from eventflow.errors import PublishError, SettleError
from eventflow.messaging import Message, Router
from tests.brokers.rabbitmq.support import broker_at, named, outside, take, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.messaging import Deliveries, Delivery
    from tests.servers.rabbitmq import ProxiedRabbitMQ

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
CUTS = 600 if STRESS else 40

# A connection that is cut again and again is made anew once a second at most.
pytestmark = [
    pytest.mark.rabbitmq,
    pytest.mark.stress,
    pytest.mark.timeout(1_500 if STRESS else 400),
]


@pytest.mark.fault("PUB-01")
async def test_a_publish_that_is_cut(proxied_rabbitmq: ProxiedRabbitMQ) -> None:
    """After n bytes of it, or of its answer, n random: it is stored, or its error tells the truth.

    What was confirmed is there, what was refused is not; what was repeated by its caller, by the
    same id, is there once or twice, and no other than it was.
    """
    proxy, rng, topic = proxied_rabbitmq.proxy, random.Random(1), named("cut")
    topology = WorkQueue(queue_type="classic")
    sent: dict[str, bytes] = {}
    verdicts: dict[str, str] = {}
    before = proxy.cuts
    async with (
        outside(proxied_rabbitmq.address) as look,
        broker_at(proxied_rabbitmq.linked) as broker,
    ):
        publisher = broker.publisher(topology=topology)
        await publisher.publish(topic, first := Message(b"first"))
        sent[first.id], verdicts[first.id] = b"first", "stored"
        for at in range(CUTS):
            messages = [Message(rng.randbytes(rng.randrange(3_000))) for _ in range(10)]
            sent |= {m.id: m.payload for m in messages}
            size = sum(len(m.payload) + 150 for m in messages)
            if at % 3 == 2:
                proxy.cut_after(rng.randrange(40), "to_client")
            else:
                proxy.cut_after(rng.randrange(size), "to_server")
            said = dict.fromkeys((m.id for m in messages), "stored")
            began = time.monotonic()
            try:
                await publisher.publish(topic, *messages)
            except PublishError as exc:
                said = dict.fromkeys(exc.not_stored, "not stored")
                said |= dict.fromkeys(exc.unknown, "unknown")
                said |= dict.fromkeys(exc.stored, "stored")
            assert time.monotonic() - began < 5
            assert said.keys() == {m.id for m in messages}
            verdicts |= said
            proxy.restore()
        assert proxy.cuts - before > CUTS * 0.8
        await until(lambda: not broker.problem, "it is back")
        found = await look.drain(topic)
    counts = Counter(name for name, _ in found)
    assert dict(found).items() <= sent.items()
    said_of = {what: {n for n, v in verdicts.items() if v == what} for what in {*verdicts.values()}}
    assert said_of["stored"] <= counts.keys()
    assert said_of.get("not stored", set()).isdisjoint(counts)
    assert max(counts.values()) == 1
    print({what: len(ids) for what, ids in said_of.items()}, f"{len(found)} there")
    assert said_of.get("unknown")


@pytest.mark.fault("PUB-04")
async def test_what_may_be_stored_is_published_again(proxied_rabbitmq: ProxiedRabbitMQ) -> None:
    """Its answer was cut off; the same id is handled once or more."""
    proxy, topic = proxied_rabbitmq.proxy, named("again")
    handled = Counter[str]()
    async with broker_at(proxied_rabbitmq.linked) as broker:

        async def handle(message: Message) -> None:
            handled[message.id] += 1

        router = Router()
        direct = broker_at(proxied_rabbitmq.address)
        async with direct:
            router.add_handler("h", topic, handle, subscriber=direct.subscriber(group="g"))
            async with router:
                await broker.publisher().publish(topic, Message(b"x"))
                for _ in range(5):
                    message = Message(b"x")
                    proxy.cut_after(0, "to_client")
                    with pytest.raises(PublishError) as caught:
                        await broker.publisher().publish(topic, message)
                    assert caught.value.unknown == (message.id,)
                    await broker.publisher().publish(topic, message)
                    await until(lambda m=message: handled[m.id] >= 1, "it is handled")
                await until(lambda: handled.total() >= 11, "both are handled")


@pytest.mark.fault("ACK-02", "ACK-01")
async def test_a_delivery_that_is_cut_and_an_ack_that_is_lost(
    proxied_rabbitmq: ProxiedRabbitMQ,
) -> None:
    """Nothing cut in two is handed out, what was not settled comes again, and no old ack counts."""
    proxy, rng, topic = proxied_rabbitmq.proxy, random.Random(2), named("cut")
    messages = {
        (m := Message(rng.randbytes(rng.randrange(20_000)))).id: m
        for _ in range(300 if STRESS else 60)
    }
    acked = set[str]()
    handed_out = Counter[str]()
    async with (
        broker_at(proxied_rabbitmq.address) as direct,
        broker_at(proxied_rabbitmq.linked) as broker,
        outside(proxied_rabbitmq.address) as look,
    ):
        await direct.subscriber(group="g").prepare(topic)
        await direct.publisher().publish(topic, *messages.values())
        async with broker.subscriber(group="g").subscribe(topic, max_in_flight=10) as deliveries:
            cuts = 0
            while acked != messages.keys():
                if cuts < len(messages) // 4:
                    way = "to_client" if cuts % 3 else "to_server"
                    proxy.cut_after(rng.randrange(60_000 if cuts % 3 else 60), way)  # type: ignore[arg-type]
                    cuts += 1
                held = await take(deliveries, 1)
                if rng.random() < 0.3:
                    held += await _what_is_there(deliveries)
                for delivery in held:
                    handed_out[delivery.message.id] += 1
                    assert delivery.message.payload == messages[delivery.message.id].payload
                    delivery.ack()
                for delivery in held:
                    try:
                        async with asyncio.timeout(5):
                            await delivery.settled()
                    except SettleError:
                        continue
                    acked.add(delivery.message.id)
            proxy.restore()
        await look.settled(f"{topic}_g")
    assert handed_out.keys() == messages.keys()
    assert handed_out.total() > len(messages), "no ack was ever lost"


async def _what_is_there(deliveries: Deliveries) -> Sequence[Delivery]:
    """A few more, if there are any: the last one may be in hand."""
    try:
        async with asyncio.timeout(0.2):
            return await deliveries.receive(5)
    except TimeoutError:
        return ()
