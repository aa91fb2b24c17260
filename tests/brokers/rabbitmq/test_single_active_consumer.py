"""One member of a group at a time, in order per key: ``single_active_consumer``, ``order_key``."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from eventflow import Event
from eventflow.brokers.rabbitmq import PubSub
from eventflow.messaging import BrokerEventPublisher, Router
from tests.brokers.rabbitmq.support import broker_at, outside, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.brokers.rabbitmq import RabbitMQBroker
    from tests.servers.rabbitmq import ProxiedRabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]

KEYS = 10
AHEAD = 20
"""Rounds that wait."""
ONE_AT_A_TIME = PubSub(single_active_consumer=True)


class Moved(Event, topic="accounts.moved"):
    account: int
    number: int


class Log:
    """What members have begun and done, in the order of things."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int]] = []
        self.done: dict[int, list[int]] = defaultdict(list)
        self.running: set[tuple[str, int]] = set()

    @property
    def number_done(self) -> int:
        """Different ones."""
        return sum(len({*numbers}) for numbers in self.done.values())

    @asynccontextmanager
    async def member(self, who: str, broker: RabbitMQBroker) -> AsyncGenerator[None]:
        """A member of the group that takes several accounts at once."""

        async def move(event: Moved) -> None:
            assert (who, event.account) not in self.running, "two of one key at once"
            self.running.add((who, event.account))
            self.begun.append((who, event.account, event.number))
            await asyncio.sleep(0.002)
            self.done[event.account].append(event.number)
            self.running.discard((who, event.account))

        router = Router(drain_timeout=5)
        router.add_handler(
            "move",
            Moved,
            move,
            subscriber=broker.subscriber(group="accounts"),
            order_key=lambda event: event.account,
            concurrency=8,
        )
        async with router:
            yield


async def test_another_takes_over_in_order(proxied_rabbitmq: ProxiedRabbitMQ) -> None:
    """Its connection is cut, and the next one leaves: nothing is lost, each key stays in order.

    Meanwhile the other one gets nothing. What was done and not acked is done again, in order too.
    """
    queue, log = f"{Moved.topic}_accounts", Log()
    async with (
        broker_at(proxied_rabbitmq.linked, topology=ONE_AT_A_TIME) as first,
        broker_at(proxied_rabbitmq.address, topology=ONE_AT_A_TIME) as second,
        log.member("first", first),
    ):
        await _received(proxied_rabbitmq, queue, by=1)
        async with log.member("second", second):
            await _received(proxied_rabbitmq, queue, by=2)
            rounds = Rounds(second, log)
            await until(lambda: log.number_done > 100, "the first one works")
            assert {who for who, _, _ in log.begun} == {"first"}
            proxied_rabbitmq.proxy.reset()
            await until(lambda: log.begun[-1][0] == "second", "the second one works")
            taken_over = next(n for n, (who, _, _) in enumerate(log.begun) if who == "second")
            await _received(proxied_rabbitmq, queue, by=2)
            done = log.number_done
            await until(lambda: log.number_done > done + 100, "the second one works on")
            assert {who for who, _, _ in log.begun[taken_over:]} == {"second"}
        left, done = len(log.begun), log.number_done
        await until(lambda: log.number_done > done + 100, "the first one works again")
        published = await rounds.end()
        await until(lambda: log.number_done == published * KEYS, "all is done")
        assert {who for who, _, _ in log.begun[left:]} == {"first"}
    async with outside(proxied_rabbitmq.address) as look:
        await look.settled(queue)
    for numbers in log.done.values():
        assert [*dict.fromkeys(numbers)] == [*range(published)]


class Rounds:
    """Publishes an event of each key, again and again, as long as few wait."""

    def __init__(self, broker: RabbitMQBroker, log: Log) -> None:
        self._publisher = BrokerEventPublisher(broker.publisher())
        self._log = log
        self._is_ending = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> int:
        count = 0
        while not self._is_ending:
            for account in range(KEYS):
                await self._publisher.publish(Moved(account=account, number=count))
            count += 1
            least = (count - AHEAD) * KEYS
            await until(lambda least=least: self._log.number_done >= least, "they are handled")
        return count

    async def end(self) -> int:
        """Publish no more; returns how many rounds there were."""
        self._is_ending = True
        return await self._task


async def _received(server: ProxiedRabbitMQ, queue: str, *, by: int) -> None:
    """Wait until a queue has so many receivers, those in line included."""

    async def is_so() -> bool:
        asked = await asyncio.to_thread(server.control, "list_consumers", "queue_name")
        return asked.splitlines().count(queue) == by

    await until(is_so, f"{by} receive {queue}")
