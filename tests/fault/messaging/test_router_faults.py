"""Rows of docs/faults.md about the router, on the virtual clock."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Event, FailurePolicy, Permanent, Retry, current
from eventflow.brokers.memory import MemoryBroker
from eventflow.messaging import BrokerEventPublisher, Message, Router

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


class Job(Event, topic="jobs"):
    n: int
    key: str = ""


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


async def letters(broker: MemoryBroker) -> list[Message]:
    subscriber = broker.subscriber(group="graves")
    found: list[Message] = []
    async with subscriber.subscribe("jobs.dead_letter", max_in_flight=200_000) as deliveries:
        while await subscriber.lag("jobs.dead_letter") > len(found):
            found += [delivery.message for delivery in await deliveries.receive(1_000)]
    return found


@pytest.mark.fault("RTR-01")
async def test_five_attempts_by_default_and_not_one_more(broker: MemoryBroker) -> None:
    """0.1 s, 0.2 s, 0.4 s, 0.8 s apart, each within its jitter of a fifth."""
    for _ in range(20):
        starts: list[float] = []

        async def handler(event: Job, starts: list[float] = starts) -> None:
            starts.append(now())
            raise ValueError("no")

        router = Router()
        router.add_handler("h", Job, handler, subscriber=broker.subscriber(group="g"))
        async with router:
            await BrokerEventPublisher(broker.publisher()).publish(Job(n=1))
        assert len(starts) == 5
        waits = [b - a for a, b in itertools.pairwise(starts)]
        for wait, planned in zip(waits, (0.1, 0.2, 0.4, 0.8), strict=True):
            assert 0.8 * planned - 1e-9 <= wait <= 1.2 * planned + 1e-9
    assert len(await letters(broker)) == 20


@pytest.mark.fault("RTR-09")
async def test_a_delayed_retry_outlives_the_router(broker: MemoryBroker) -> None:
    """Never early, at most a second late, and the failures are counted on."""
    attempts: list[tuple[int, float]] = []

    async def handler(event: Job) -> None:
        attempts.append((current().attempt, now()))
        raise ValueError("no")

    def new_router() -> Router:
        router = Router(
            on_failure=FailurePolicy(retry=Retry(attempts=3, initial=20, multiplier=1, jitter=0)),
            drain_timeout=0,
        )
        router.add_handler(
            "h", Job, handler, subscriber=broker.subscriber(group="g"), order="relaxed"
        )
        return router

    async with new_router():
        await BrokerEventPublisher(broker.publisher()).publish(Job(n=1))
        await asyncio.sleep(1)
    async with new_router():
        await asyncio.sleep(25)
    await asyncio.sleep(3)
    async with new_router():
        await asyncio.sleep(30)
    assert [number for number, _ in attempts] == [1, 2, 3]
    for (_, before), (_, after) in itertools.pairwise(attempts):
        assert 20 <= after - before <= 21
    (letter,) = await letters(broker)
    assert letter.metadata["eventflow_attempts"] == "3"


@pytest.mark.fault("ACK-06")
async def test_a_key_that_sleeps_holds_up_no_other(broker: MemoryBroker) -> None:
    """Of 100 keys one sleeps a minute an event: the others take as long as without it."""

    async def run(slow: str, group: str) -> tuple[list[float], dict[str, list[int]]]:
        waited: list[float] = []
        seen: dict[str, list[int]] = defaultdict(list)
        published: dict[int, float] = {}

        async def handler(event: Job) -> None:
            if event.key == slow:
                await asyncio.sleep(60)
            else:
                await asyncio.sleep(0.01)
                waited.append(now() - published[event.n])
            seen[event.key].append(event.n)

        router = Router(drain_timeout=10_000)
        router.add_handler(
            "h",
            Job,
            handler,
            subscriber=broker.subscriber(group=group),
            concurrency=8,
            order_key=lambda event: event.key,
            timeout=None,
        )
        publisher = BrokerEventPublisher(broker.publisher())
        async with router:
            for n in range(500):
                published[n] = now()
                await publisher.publish(Job(n=n, key=f"k{n % 100}"))
                await asyncio.sleep(0.002)
        return sorted(waited), seen

    waited, _ = await run("none", "one")
    async with broker.subscriber(group="two").subscribe("jobs", max_in_flight=1_000) as old:
        for delivery in await old.receive(1_000):
            delivery.ack()
    slow_waited, seen = await run("k7", "two")
    p99, slow_p99 = waited[int(len(waited) * 0.99)], slow_waited[int(len(slow_waited) * 0.99)]
    assert slow_p99 <= 1.5 * p99 + 0.001
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert len(seen["k7"]) == 5


@pytest.mark.fault("ACK-09")
async def test_workers_that_come_and_go_lose_nothing(broker: MemoryBroker) -> None:
    """One to eight routers of one group, at random every 2 s for ten minutes."""
    chance = random.Random(11)
    done: Counter[int] = Counter()
    cut = 0

    async def handler(event: Job) -> None:
        await asyncio.sleep(chance.uniform(0.1, 1.5))
        done[event.n] += 1

    def new_router() -> Router:
        router = Router(drain_timeout=chance.choice([0, 0.5, 2]), cancel_grace=0.5)
        router.add_handler(
            "h",
            Job,
            handler,
            subscriber=broker.subscriber(group="g"),
            concurrency=4,
            max_in_flight=20,
        )
        return router

    running: list[Router] = []
    published = 0
    publisher = BrokerEventPublisher(broker.publisher())
    for _ in range(300):
        for _ in range(chance.randrange(12)):
            await publisher.publish(Job(n=published))
            published += 1
        wanted = chance.randint(1, 8)
        while len(running) < wanted:
            running.append(await new_router().__aenter__())
        while len(running) > wanted:
            router = running.pop(chance.randrange(len(running)))
            await router.__aexit__(None, None, None)
            cut += router.ledger.total.cancelled
        await asyncio.sleep(2)
    subscriber = broker.subscriber(group="g")
    await asyncio.sleep(600)
    assert await subscriber.lag("jobs") == 0
    for router in running:
        await router.__aexit__(None, None, None)
    assert set(done) == set(range(published))
    assert sum(done.values()) - published <= cut, "no more duplicates than handlers were cut"


@pytest.mark.fault("OBS-01")
@pytest.mark.stress
async def test_every_counter_equals_what_happened() -> None:
    """100,000 messages, some bad, some failing, some slow: counted outside, and by the router."""
    count = 100_000 if STRESS else 3_000
    chance = random.Random(5)
    happened: Counter[str] = Counter()

    async def handler(event: Job) -> None:
        happened["started"] += 1
        match event.n % 20:
            case 3:
                if current().attempt == 1:
                    happened["retried"] += 1
                    raise ValueError
            case 5:
                happened["failed"] += 1
                raise Permanent
            case 7:
                happened["timed_out"] += 1
                await asyncio.sleep(10)
            case _:
                pass
        happened["handled"] += 1

    async with MemoryBroker() as broker:
        router = Router(on_failure=FailurePolicy(retry=Retry(attempts=2, on=(ValueError,))))
        router.add_handler(
            "h",
            Job,
            handler,
            subscriber=broker.subscriber(group="g"),
            concurrency=50,
            timeout=1,
            unknown="skip",
        )
        publisher = broker.publisher()
        async with router:
            for n in range(count):
                kind = chance.randrange(50)
                name, payload = "Job", Job(n=n).to_json()
                if kind == 0:
                    payload = b"{"
                    happened["undecodable"] += 1
                elif kind == 1:
                    name = "Other"
                    happened["skipped"] += 1
                await publisher.publish("jobs", Message(payload, {"name": name}))
            while router.statistics().total.buffered or router.statistics().total.in_flight:
                row = router.statistics()["h"]
                assert row.adds_up
                await asyncio.sleep(0.5)
        row = router.ledger["h"]
        told: dict[str, Any] = {
            "handled": row.handled,
            "skipped": row.skipped,
            "undecodable": row.undecodable,
            "timed_out": row.timed_out,
            "retried": row.retried,
            "failed": row.failed - row.undecodable - row.timed_out,
        }
        assert told == {name: happened[name] for name in told}
        assert row.offered == count
        assert row.adds_up
        assert len(await letters(broker)) == row.dead_lettered == row.failed
