"""The contract, on a real Kafka."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.kafka import KafkaBroker, KafkaSubscriber
from eventflow.brokers.kafka._ladder import is_ladder
from eventflow.errors import TopicNotFoundError
from eventflow.messaging import Broadcast
from eventflow.testing.contract import BrokerContract
from tests.brokers.kafka.support import TIMES, broker_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from eventflow.brokers.kafka._settings import Settings
    from eventflow.messaging import Broker, Group
    from tests.servers.kafka import Kafka

pytestmark = pytest.mark.kafka

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"


def broker_elsewhere(hosts: str) -> KafkaBroker:
    """The same store, for another process."""
    return broker_at(hosts)


class MakesLadders(KafkaBroker):
    """One that makes the topics where messages wait when they are first asked for."""

    async def look_up(self, topic: str, *, within: float | None = None) -> int:
        if is_ladder(topic):
            try:
                return await super().look_up(topic, within=within)
            except TopicNotFoundError:
                await self.ensure_topics(topic)
        return await super().look_up(topic, within=within)


def delaying_broker(hosts: str) -> MakesLadders:
    """The same store, with delays, for another process."""
    return MakesLadders(hosts, **TIMES, delays=True)


class Transactional(KafkaBroker):
    """Whose groups are transactional."""

    def _begin(self, settings: Settings) -> None:
        super()._begin(settings)
        self._features = replace(self._features, transactional=True)

    def subscriber(self, *, group: Group, transactional: bool = True) -> KafkaSubscriber:
        if isinstance(group, Broadcast):
            return KafkaSubscriber(self, replace(self._features, transactional=False), group=group)
        return super().subscriber(group=group, transactional=transactional)


def transactional_elsewhere(hosts: str) -> KafkaBroker:
    """The same store, for another process."""
    return Transactional(hosts, **TIMES)


class TestKafka(BrokerContract):
    """Topics of four partitions."""

    publish_timeout = 4.0
    # A member that joins has what is there after 0.08 s; each test waits for it once or more.
    silence = 0.3 if STRESS else 0.15

    @pytest.fixture(autouse=True)
    def server(self, kafka: Kafka, request: pytest.FixtureRequest) -> None:
        self.kafka = kafka
        if kafka.is_ours and "restart" in request.node.name:
            # It has few topics, and so is there again sooner.
            self.kafka = request.getfixturevalue("proxied_kafka")

    def new_broker(self) -> KafkaBroker:
        return broker_at(self.kafka.address, publish_timeout=self.publish_timeout)

    def new_topic(self) -> str:
        return self.kafka.create_topic(super().new_topic())

    def elsewhere(self) -> tuple[str, ...]:
        return ("tests.brokers.kafka.test_contract:broker_elsewhere", self.kafka.address)

    async def restart_broker(self) -> bool:
        if not self.kafka.is_ours:
            return False
        self.kafka.kill()
        await self.kafka.start_again(within=60)
        return True

    def blocked(self, broker: Broker, topic: str) -> AbstractAsyncContextManager[None] | None:
        return self._frozen() if self.kafka.is_ours else None

    @asynccontextmanager
    async def _frozen(self) -> AsyncGenerator[None]:
        self.kafka.freeze()
        try:
            yield
        finally:
            self.kafka.thaw()

    @pytest.mark.fault("PUB-02", "PUB-04")
    async def test_a_publish_ends_within_its_deadline(self) -> None:
        await super().test_a_publish_ends_within_its_deadline()

    @pytest.mark.fault("KFK-07")
    async def test_a_restart_while_publishing_loses_nothing(self) -> None:
        await super().test_a_restart_while_publishing_loses_nothing()


@pytest.mark.stress
class TestKafkaTransactional(TestKafka):
    """The same, with groups whose commits are transactions; ``make test`` runs a part of it."""

    def new_broker(self) -> KafkaBroker:
        return Transactional(self.kafka.address, **TIMES, publish_timeout=self.publish_timeout)

    def elsewhere(self) -> tuple[str, ...]:
        return ("tests.brokers.kafka.test_contract:transactional_elsewhere", self.kafka.address)


@pytest.mark.stress
class TestKafkaWithDelays(TestKafka):
    """The same, where messages are put off; ``make test`` runs what that has to do with."""

    delay = 0.5

    def new_broker(self) -> KafkaBroker:
        return MakesLadders(
            self.kafka.address, **TIMES, publish_timeout=self.publish_timeout, delays=True
        )

    def elsewhere(self) -> tuple[str, ...]:
        return ("tests.brokers.kafka.test_contract:delaying_broker", self.kafka.address)


ABOUT_DELAYS = ("delay", "due", "again", "nack", "failures", "counted", "killed", "left_behind")
ABOUT_COMMITS = ("crash", "declare", "failures", "killed", "outputs", "left_behind")
if not STRESS:
    for _tests, _words in (
        (TestKafkaWithDelays, ABOUT_DELAYS),
        (TestKafkaTransactional, ABOUT_COMMITS),
    ):
        for _name in dir(TestKafka):
            if _name.startswith("test_") and not any(word in _name for word in _words):
                setattr(_tests, _name, None)
