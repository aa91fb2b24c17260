"""The server goes away and comes back: so does all that hangs on it, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.rabbitmq import WorkQueue
from eventflow.errors import (
    PublishError,
    PublishTimeoutError,
    SettleError,
)
from eventflow.messaging import Broadcast, Message, Router
from tests.brokers.rabbitmq.support import (
    BACK_S,
    DECLARED_S,
    broker_at,
    fresh,
    named,
    outside,
    take,
    until,
)

if TYPE_CHECKING:
    from eventflow.messaging import Publisher
    from tests.servers.rabbitmq import ProxiedRabbitMQ, RabbitMQ

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
KILLS = 10 if STRESS else 2
FREEZE_S = 60.0 if STRESS else 8.0

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(400)]


class Publishing:
    """Publishes all the time, and keeps what was said of each message."""

    def __init__(self, publisher: Publisher, topic: str, *, within: float) -> None:
        self.verdicts: dict[str, str] = {}
        self._publisher = publisher
        self._topic, self._within = topic, within
        self._is_ending = False
        self._tasks = [asyncio.create_task(self._run()) for _ in range(3)]

    async def _run(self) -> None:
        while not self._is_ending:
            messages = [Message(b"x") for _ in range(4)]
            began = time.monotonic()
            verdicts = dict.fromkeys((m.id for m in messages), "stored")
            try:
                await self._publisher.publish(self._topic, *messages)
            except PublishError as exc:
                verdicts = dict.fromkeys(exc.not_stored, "not stored")
                verdicts |= dict.fromkeys(exc.unknown, "unknown")
                verdicts |= dict.fromkeys(exc.stored, "stored")
            assert verdicts.keys() == {m.id for m in messages}
            assert time.monotonic() - began < self._within, "a publish without a verdict"
            self.verdicts |= verdicts
            await asyncio.sleep(0.01)

    async def end(self) -> dict[str, set[str]]:
        """Ids by what was said of them."""
        self._is_ending = True
        await asyncio.gather(*self._tasks)
        return {
            what: {i for i, said in self.verdicts.items() if said == what}
            for what in ("stored", "not stored", "unknown")
        }


@pytest.mark.stress
@pytest.mark.fault("RMQ-02", "RMQ-06", "PUB-02", "OBS-01")
@pytest.mark.promise(2, 7)
async def test_each_kill_and_each_restart(proxied_rabbitmq: ProxiedRabbitMQ) -> None:
    """Consumers of every kind are back within 5 s of the server; health says when they are not.

    What was confirmed is handled, what was refused is not, the router's counts are the ledger's.
    """
    server, topic, shared = proxied_rabbitmq, named("kills"), named("kills.shared")
    handled, shared_handled = Counter[str](), Counter[str]()
    queue = WorkQueue(queue_type="classic")
    async with broker_at(server.address) as broker:
        router = Router()

        async def handle(message: Message) -> None:
            handled[message.id] += 1

        async def handle_shared(message: Message) -> None:
            shared_handled[message.id] += 1

        router.add_handler("group", topic, handle, subscriber=broker.subscriber(group="g"))
        router.add_handler(
            "shared", shared, handle_shared, subscriber=broker.subscriber(topology=queue)
        )
        own = broker.subscriber(group=Broadcast())
        async with router, own.subscribe(topic) as deliveries:
            receiving = asyncio.create_task(take(deliveries, 10**9, within=10**6))
            async with outside(server.address) as look:
                await look.received(f"{topic}_g")
                await look.received(shared)
            await asyncio.sleep(DECLARED_S)
            publishing = Publishing(broker.publisher(), topic, within=25)
            also = Publishing(broker.publisher(topology=queue), shared, within=25)
            back: list[float] = []
            for number in range(KILLS):
                await asyncio.sleep(0.3)
                if number % 2:
                    await asyncio.to_thread(server.stop)
                else:
                    server.kill()
                await until(
                    lambda: all(h.state == "reconnecting" for h in router.health().handlers),
                    "health says so",
                    within=1,
                )
                assert deliveries.problem
                await server.start_again(within=60)
                began = time.monotonic()
                async with outside(server.address) as look:
                    await look.received(f"{topic}_g")
                    await look.received(shared)
                await until(
                    lambda: (
                        all(h.state == "running" for h in router.health().handlers)
                        and not deliveries.problem
                    ),
                    "health says so",
                )
                back.append(time.monotonic() - began)
            said, also_said = await publishing.end(), await also.end()
            for ids, done in ((said, handled), (also_said, shared_handled)):
                await until(partial(_is_done, ids["stored"], done), "all is handled")
                assert ids["not stored"].isdisjoint(done)
                assert len(ids["stored"]) > 20
            assert not receiving.done()
            receiving.cancel()
        for name, done in (("group", handled), ("shared", shared_handled)):
            counts = next(h for h in router.statistics().handlers if h.name == name)
            assert counts.handled == done.total()
        async with outside(server.address) as look:
            await look.settled(f"{topic}_g")
            await look.settled(shared)
    print(f"back after {[round(one, 2) for one in back]} s")
    assert max(back) < BACK_S


def _is_done(ids: set[str], done: Counter[str]) -> bool:
    return ids <= done.keys()


@pytest.mark.stress
@pytest.mark.fault("RMQ-07")
async def test_a_server_that_stands_still(proxied_rabbitmq: ProxiedRabbitMQ) -> None:
    """It is noticed by its silence; publishes end in time, and no ack of before counts after it."""
    server, topic = proxied_rabbitmq, named("frozen")
    async with broker_at(server.address, heartbeat=1, publish_timeout=4.0) as broker:
        publisher = broker.publisher()
        async with (
            broker.subscriber(group="g").subscribe(topic) as deliveries,
            broker.subscriber(group=Broadcast()).subscribe(topic) as own,
        ):
            await publisher.publish(topic, first := Message(b"first"))
            (held,) = await take(deliveries, 1)
            await take(own, 1)
            server.freeze()
            began = time.monotonic()
            try:
                messages = [Message(b"x") for _ in range(3)]
                known, new = await asyncio.gather(
                    publisher.publish(topic, *messages),
                    publisher.publish(named("new"), Message(b"x")),
                    return_exceptions=True,
                )
                assert isinstance(known, PublishError)
                assert set(known.unknown) == {m.id for m in messages}
                assert isinstance(new, PublishError)
                assert not new.unknown
                assert time.monotonic() - began < 5
                await until(lambda: bool(deliveries.problem and own.problem), "it is noticed")
                noticed = time.monotonic() - began
                late = Message(b"late")
                with pytest.raises(PublishTimeoutError) as never_sent:
                    await publisher.publish(topic, late)
                assert never_sent.value.not_stored == (late.id,)
                # An ack now is of a message that nobody can settle any more.
                held.ack()
                with pytest.raises(SettleError):
                    await held.settled()
                await asyncio.sleep(max(0.0, began + FREEZE_S - time.monotonic()))
            finally:
                server.thaw()
            began = time.monotonic()
            async with outside(server.address) as look:
                await look.received(f"{topic}_g")
            await until(lambda: not deliveries.problem and not own.problem, "it is back")
            back = time.monotonic() - began
            await publisher.publish(topic, after := Message(b"after"))
            came = await fresh(deliveries, {first.id, after.id})
            assert late.id not in {delivery.message.id for delivery in came}
            await fresh(own, {after.id})
    print(f"noticed after {noticed:.1f} s, back after {back:.1f} s")
    assert noticed < 8
    assert back < BACK_S


@pytest.mark.fault("PUB-02")
async def test_a_server_that_is_not_there(proxied_rabbitmq: ProxiedRabbitMQ) -> None:
    """A publish waits for it until its deadline, and what was never sent is not stored."""
    proxy, topic = proxied_rabbitmq.proxy, named("away")
    async with broker_at(proxied_rabbitmq.linked, publish_timeout=1.0) as broker:
        await broker.publisher().publish(topic, Message(b"x"))
        proxy.refuse()
        try:
            began = time.monotonic()
            message = Message(b"x")
            with pytest.raises(PublishError) as caught:
                await broker.publisher().publish(topic, message)
            if not isinstance(caught.value, PublishTimeoutError):  # the one that finds out
                assert caught.value.unknown == (message.id,)
                message = Message(b"x")
                with pytest.raises(PublishTimeoutError) as caught:
                    await broker.publisher().publish(topic, message)
            assert caught.value.not_stored == (message.id,)
            assert time.monotonic() - began < 2.5
        finally:
            proxy.restore()
        await until(lambda: not broker.problem, "it is back", within=BACK_S)
        await broker.publisher().publish(topic, Message(b"x"))


async def test_connections_that_an_operator_closes(proxied_rabbitmq: ProxiedRabbitMQ) -> None:
    """Each time all comes back, and what was held comes again; old acks settle nothing."""
    server, topic = proxied_rabbitmq, named("closed")
    async with broker_at(server.address) as broker:
        publisher = broker.publisher()
        async with broker.subscriber(group="g").subscribe(topic) as deliveries:
            for _ in range(2):
                messages = [Message(b"x") for _ in range(4)]
                await publisher.publish(topic, *messages)
                held = await take(deliveries, 4)
                await asyncio.to_thread(server.control, "close_all_connections", "over")
                again = await take(deliveries, 4, within=BACK_S)
                assert {d.message.id for d in again} == {m.id for m in messages}
                for delivery in held:
                    delivery.ack()
                    with pytest.raises(SettleError):
                        await delivery.settled()
                for delivery in again:
                    assert delivery.ack()
                    await delivery.settled()
        async with outside(server.address) as look:
            await look.settled(f"{topic}_g")


async def test_a_queue_that_answers_nobody(rabbitmq: RabbitMQ) -> None:
    """As one without a majority, or killed before it was written down: that is said in time.

    Others on the same connections are not bothered, and the broker can be left.
    """
    server, sound, topic = rabbitmq, named("sound"), named("silent")
    async with broker_at(server.address) as broker:
        for name in (sound, topic):
            await broker.subscriber(group="g").prepare(name)
    # The process of the queue stands still, as it does where it waits for others of its kind.
    await asyncio.to_thread(server.control, "eval", f"sys:suspend('%2F_{topic}_g').")
    try:
        async with broker_at(server.address, publish_timeout=3.0, connect_timeout=8.0) as broker:
            publisher = broker.publisher()
            async with broker.subscriber(group="g").subscribe(sound) as deliveries:
                await publisher.publish(sound, first := Message(b"x"))
                (held,) = await take(deliveries, 1)
                assert held.message.id == first.id
                began = time.monotonic()
                lost = Message(b"x")
                with pytest.raises(PublishTimeoutError) as caught:
                    await publisher.publish(topic, lost)
                assert lost.id in (*caught.value.unknown, *caught.value.not_stored)
                assert time.monotonic() - began < 6
                began = time.monotonic()
                async with broker.subscriber(group="g").subscribe(topic) as never:
                    receiving = asyncio.create_task(never.receive())
                    await until(lambda: bool(never.problem), "it says so", within=20)
                    print(f"{never.problem!r} after {time.monotonic() - began:.1f} s")
                    assert f"{topic}_g" in never.problem
                    assert not deliveries.problem
                    receiving.cancel()
                await publisher.publish(sound, second := Message(b"x"))
                assert held.ack()
                await held.settled()  # its channel is the same as before
                await fresh(deliveries, {second.id})
    finally:
        await asyncio.to_thread(server.control, "eval", f"sys:resume('%2F_{topic}_g').")
