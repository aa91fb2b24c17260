"""A Kafka as its clients see it: one of our own, or the one that ``EVENTFLOW_TEST_KAFKA`` names."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import confluent_kafka.admin
import pytest

from tests.servers.process import ServerError

__all__ = ("Cluster", "Somebodys", "log")

log = logging.getLogger("tests.kafka")
_library: Any = confluent_kafka.admin


class Cluster:
    """Topics of a Kafka.

    Attributes:
        address: Where clients find it.
        is_ours: Whether it was started for the tests, and may be stopped.
    """

    is_ours = True

    def __init__(self, address: str) -> None:
        self.address = address
        self._admin: Any = None
        self._topics: set[str] = set()

    def create_topic(self, name: str, *, partitions: int = 4) -> str:
        """Create a topic, once; returns its name when it can be used."""
        deadline = time.monotonic() + 30
        while name not in self._topics:
            if self._admin is None:
                self._admin = _library.AdminClient(
                    {"bootstrap.servers": self.address, "logger": log}
                )
            try:
                self._admin.create_topics([_library.NewTopic(name, partitions, 1)])[name].result(10)
            except TimeoutError:
                # Seen once after a server had been killed: a client that asked nobody any more,
                # while another one had its answer in 30 ms.
                if time.monotonic() > deadline:
                    raise
                self._admin = None
            except confluent_kafka.KafkaException as exc:
                # One that stood still is fenced for a moment, and keeps no replica.
                code = exc.args[0].code()
                if code == confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                    self._topics.add(name)  # by what was not heard of
                elif (
                    code != confluent_kafka.KafkaError.INVALID_REPLICATION_FACTOR
                    or time.monotonic() > deadline
                ):
                    raise
                time.sleep(0.05)
            else:
                self._topics.add(name)
        # The node that answers may not know it yet.
        while self.partitions(name) != partitions:
            if time.monotonic() > deadline:
                raise ServerError(f"{name} was created, and is not there")
            time.sleep(0.005)
        return name

    def add_partitions(self, name: str, total: int) -> None:
        """Give a topic more partitions."""
        self._admin.create_partitions([_library.NewPartitions(name, total)])[name].result(30)

    def delete_topics(self, *names: str) -> None:
        """Delete topics."""
        for done in self._admin.delete_topics([*names]).values():
            done.result(30)

    def members(self, group: str) -> list[str]:
        """The ids of a group's members, once all have joined; none while it is sharing anew."""
        found = self._admin.describe_consumer_groups([group])[group].result(10)
        is_stable = found.state == confluent_kafka.ConsumerGroupState.STABLE
        return [member.member_id for member in found.members] if is_stable else []

    def partitions(self, name: str) -> int:
        """How many partitions a topic has."""
        return len(self._admin.list_topics(name, timeout=10).topics[name].partitions)

    def lost_marks(self) -> list[str]:
        """What is known of transactions that it has left without an end: of somebody's, nothing."""
        return []

    def topics(self) -> list[str]:
        """The names of all topics."""
        return sorted(self._admin.list_topics(timeout=10).topics)


class Somebodys(Cluster):
    """One that was there before and stays: it can't be stopped, and may have more in it."""

    is_ours = False

    @classmethod
    def named(cls) -> Somebodys | None:
        """The one that ``EVENTFLOW_TEST_KAFKA`` names, as ``host:port``; ``None`` without it."""
        address = os.environ.get("EVENTFLOW_TEST_KAFKA")
        return cls(address) if address else None

    def freeze(self) -> None:
        """Not possible, so the test is left out, and counted as such."""
        pytest.skip("stops its Kafka, and EVENTFLOW_TEST_KAFKA names somebody's")

    thaw = kill = start = restart = freeze
