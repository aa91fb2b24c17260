"""Exactly once: what a handler publishes, its dead letters and the group's place are one."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import threading
import uuid
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from eventflow.brokers.kafka import _settings, _transactions
from eventflow.brokers.kafka._consumer import ConsumerThread
from eventflow.messaging import Message, Router
from tests.brokers.kafka.support import broker_at, records, settled_records, side_by_side, until
from tests.brokers.kafka.transactional import TRANSACTION_MS, WINDOWS, add_handler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

    from eventflow.brokers.kafka import KafkaBroker
    from tests.servers.kafka import Kafka
    from tests.servers.proxy import ProxiedKafka

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


@pytest.fixture
def topic(kafka: Kafka) -> str:
    return new_topic(kafka)


def new_topic(kafka: Kafka) -> str:
    name = kafka.create_topic(f"exact.{uuid.uuid4().hex[:12]}")
    for more in (".out", ".dead_letter"):
        kafka.create_topic(name + more)
    return name


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def short_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process leaves open is aborted after 2.5 s, not after 10."""
    monkeypatch.setattr(_settings, "TRANSACTION_MS", TRANSACTION_MS)


async def publish(broker: KafkaBroker, topic: str, numbers: range) -> None:
    messages = [Message(str(n).encode(), key=f"key-{n % 16}") for n in numbers]
    await broker.publisher().publish(topic, *messages)


async def publish_until(broker: KafkaBroker, topic: str, ended: Coroutine[Any, Any, Any]) -> int:
    """Publish until something has happened, and some more. How many that were."""
    ending, count = asyncio.ensure_future(ended), 0
    async with asyncio.timeout(60):
        while not ending.done():
            await publish(broker, topic, range(count, count + 10))
            count += 10
            await asyncio.wait([ending], timeout=0.01)
    await publish(broker, topic, range(count, count + 50))
    return count + 50


@asynccontextmanager
async def process(
    kafka: Kafka, group: str, topic: str, window: str = "", what: int = 0
) -> AsyncGenerator[Any]:
    """Another process that works on the topic; in the end, if it is there still, it is killed.

    One that is found so by a failure says first where it stands.
    """
    program = [sys.executable, "-m", "tests.brokers.kafka.transactional"]
    given = (kafka.address, group, topic, window, str(int(what)))
    with tempfile.TemporaryFile() as said:
        made = await asyncio.create_subprocess_exec(
            *program, *given, stdin=-1, stdout=-1, stderr=said, cwd=ROOT
        )
        try:
            assert made.stdout is not None
            async with asyncio.timeout(60):
                assert await made.stdout.readline() == b"running\n"
            yield made
        except BaseException:
            if made.returncode is None:
                for number in (signal.SIGCONT, signal.SIGABRT):
                    made.send_signal(number)
                with suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        await made.wait()
            said.seek(0)
            print(said.read().decode(errors="replace")[-20_000:], file=sys.stderr)
            raise
        finally:
            if made.returncode is None:
                made.kill()
                await made.wait()


@asynccontextmanager
async def processes(kafka: Kafka, group: str, topic: str, count: int) -> AsyncGenerator[list[Any]]:
    """Several, started side by side."""
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as tasks:
            starting = [
                tasks.create_task(stack.enter_async_context(process(kafka, group, topic)))
                for _ in range(count)
            ]
        yield [task.result() for task in starting]


async def all_is_done(broker: KafkaBroker, group: str, topic: str) -> None:
    """Until nothing waits for the group."""
    subscriber = broker.subscriber(group=group)
    async with asyncio.timeout(60):
        while await subscriber.lag(topic):  # noqa: ASYNC110 - a broker does it
            await asyncio.sleep(0.05)


async def check(kafka: Kafka, topic: str, count: int) -> None:
    """Each input's outputs are there once, or it is a dead letter, once."""
    kept = [n for n in range(count) if n % 10 != 7]
    outputs = Counter(f"{which} of {n}".encode() for n in kept for which in ("first", "second"))
    letters = Counter(str(n).encode() for n in range(count) if n % 10 == 7)
    wrong: dict[str, list[bytes]] = {}
    for more, wanted in (("out", outputs), ("dead_letter", letters)):
        found = Counter(r.value() for r in await settled_records(kafka, f"{topic}.{more}"))
        wrong[f"lost of {found.total()} in {more}"] = [*(wanted - found).elements()]
        wrong[f"too many of {found.total()} in {more}"] = [*(found - wanted).elements()]
    assert not any(wrong.values()), {what: which for what, which in wrong.items() if which}


async def in_each(
    kafka: Kafka,
    windows: Sequence[str],
    test: Callable[[KafkaBroker, str, str, str], Coroutine[Any, Any, None]],
) -> None:
    """Show something of several windows, each with a topic and a group of its own."""
    async with broker_at(kafka.address) as broker:

        async def one(window: str) -> None:
            topic = new_topic(kafka)
            await test(broker, topic, f"group-{topic}", window)

        await side_by_side(one, windows)


async def test_killed_in_a_transaction(kafka: Kafka) -> None:
    """Whatever was under way: the next process ends it, and each output can be read once."""

    async def test(broker: KafkaBroker, topic: str, group: str, window: str) -> None:
        async with process(kafka, group, topic, window, signal.SIGKILL) as first:
            count = await publish_until(broker, topic, first.wait())
            assert first.returncode == -signal.SIGKILL
        assert await broker.subscriber(group=group).lag(topic) > 0
        async with process(kafka, group, topic):
            await all_is_done(broker, group, topic)
            await check(kafka, topic, count)

    await in_each(kafka, WINDOWS, test)


async def test_a_process_that_was_taken_for_dead(kafka: Kafka) -> None:
    """It stood still in a transaction and goes on after another one has done its work: refused."""

    async def test(broker: KafkaBroker, topic: str, group: str, window: str) -> None:
        async with process(kafka, group, topic, window, signal.SIGSTOP) as first:
            count = await publish_until(broker, topic, first.stdout.readline())
            async with process(kafka, group, topic):
                await all_is_done(broker, group, topic)
                first.send_signal(signal.SIGCONT)
                await publish(broker, topic, range(count, count + 100))
                await until(lambda: len(kafka.members(group)) == 2, "both are members", within=60)
                await all_is_done(broker, group, topic)
                await check(kafka, topic, count + 100)

    await in_each(kafka, ["produced", "sent"], test)


async def test_processes_come_and_go_under_load(kafka: Kafka, topic: str, group: str) -> None:
    """Two that end well, one that is killed, one that stays: exactly once."""
    count = 4_000
    async with broker_at(kafka.address) as broker, asyncio.TaskGroup() as tasks:

        async def load() -> None:
            for at in range(0, count, 20):
                await publish(broker, topic, range(at, at + 20))
                await asyncio.sleep(0.02)

        async with process(kafka, group, topic) as first:
            loading = tasks.create_task(load())
            async with processes(kafka, group, topic, 2) as (second, _):
                await until(lambda: len(kafka.members(group)) == 3, "three members", within=60)
                for leaving in (first, second):
                    leaving.stdin.close()
                    async with asyncio.timeout(30):
                        assert await leaving.wait() == 0
            # The third was killed.
        async with process(kafka, group, topic):
            await loading
            await all_is_done(broker, group, topic)
            await check(kafka, topic, count)


async def test_the_cluster_is_killed(
    proxied_kafka: ProxiedKafka, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And comes back, while everything is under way."""
    # So that no transaction runs out before the cluster leads its partitions again: `lost_marks`.
    monkeypatch.setattr(_settings, "TRANSACTION_MS", 12_000)
    # One with few topics is back sooner.
    kafka, topic, count = proxied_kafka, new_topic(proxied_kafka), 1_500
    async with broker_at(kafka.address, publish_timeout=60, connect_timeout=60) as broker:
        router = Router()
        add_handler(router, topic, broker.subscriber(group=group, transactional=True))
        async with router, asyncio.TaskGroup() as tasks:

            async def load() -> None:
                for at in range(0, count, 20):
                    await publish(broker, topic, range(at, at + 20))

            loading = tasks.create_task(load())
            await until(lambda: router.statistics().handlers[0].handled > 300, "some were handled")
            kafka.kill()
            await kafka.start_again(within=60)
            await loading
            await all_is_done(broker, group, topic)
        # The publisher of the test may have stored some twice: outputs are by input then.
        inputs = Counter(r.value() for r in await asyncio.to_thread(records, kafka, topic))
        assert inputs == Counter(str(n).encode() for n in range(count))
        await check(kafka, topic, count)


@pytest.mark.parametrize("took_place", [True, False])
async def test_the_answer_to_a_commit_is_lost(
    kafka: Kafka, topic: str, group: str, monkeypatch: pytest.MonkeyPatch, *, took_place: bool
) -> None:
    """It is not known whether it took place: the subscription begins anew, and the place tells."""
    lost = list[float]()

    class Losing(Producer):
        transactions = 0

        def commit_transaction(self, timeout: float = -1) -> None:
            self.transactions += 1
            if self.transactions != 3 or lost:
                super().commit_transaction(timeout)
                return
            (super().commit_transaction if took_place else super().abort_transaction)(30)
            lost.append(timeout)
            raise KafkaException(KafkaError(KafkaError._FENCED, fatal=True))

    monkeypatch.setattr(_transactions, "Producer", Losing)
    async with broker_at(kafka.address) as broker:
        router = Router()
        add_handler(router, topic, broker.subscriber(group=group, transactional=True))
        async with router:
            count = await publish_until(broker, topic, until(lambda: bool(lost), "one is lost"))
            await all_is_done(broker, group, topic)
        await check(kafka, topic, count)
    assert len(lost) == 1


async def test_lost_answers_while_partitions_go(
    kafka: Kafka, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the last commit before a partition goes to another member may end so."""
    count, leaving = 600, list[str]()
    thread: Any = ConsumerThread
    revoke = thread._on_revoke
    is_leaving = False

    def on_revoke(self: ConsumerThread, *args: Any) -> None:
        nonlocal is_leaving
        is_leaving = True
        try:
            revoke(self, *args)
        finally:
            is_leaving = False

    class Losing(Producer):
        def commit_transaction(self, timeout: float = -1) -> None:
            super().commit_transaction(timeout)
            if is_leaving and len(leaving) < 3:
                leaving.append(threading.current_thread().name)
                raise KafkaException(KafkaError(KafkaError._FENCED, fatal=True))

    monkeypatch.setattr(ConsumerThread, "_on_revoke", on_revoke)
    monkeypatch.setattr(_transactions, "Producer", Losing)
    async with broker_at(kafka.address) as broker:
        router = Router()
        add_handler(router, topic, broker.subscriber(group=group, transactional=True))
        at = 0
        async with router:
            for _ in range(2):
                async with process(kafka, group, topic) as other:
                    while len(kafka.members(group)) < 2:
                        await publish(broker, topic, range(at, at + 10))
                        at += 10
                        await asyncio.sleep(0.05)
                    other.stdin.close()
                    async with asyncio.timeout(30):
                        await other.wait()
            await publish(broker, topic, range(at, max(count, at)))
            await all_is_done(broker, group, topic)
        await check(kafka, topic, max(count, at))
    assert leaving
