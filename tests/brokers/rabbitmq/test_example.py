"""The example with a RabbitMQ between its receiver and two workers, by its address alone."""

from __future__ import annotations

import sqlite3
import uuid
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from examples.github_webhooks.events import CARRIED
from tests.examples.service import SECRET, SOURCES, Delivery, Service, deliveries, until
from tests.examples.worker import Worker, make_topics

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow, pytest.mark.timeout(120)]


def waiting(rabbitmq: RabbitMQ) -> dict[str, int]:
    """How many messages each queue of the example has, ready and in hand, as the server says."""
    said = rabbitmq.control("list_queues", "name", "messages", "--no-table-headers")
    rows = (line.rsplit(maxsplit=1) for line in said.splitlines())
    ours = tuple(str(event.topic) for event in CARRIED)
    return {name: int(count) for name, count in rows if name.startswith(ours)}


def test_what_a_killed_worker_had_the_other_one_does(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """Kill -9 while it has deliveries in hand: nothing that was accepted is lost.

    The database is locked then, so that what came since can't have been stored before the kill.
    """
    if not rabbitmq.is_ours:
        pytest.skip("asks rabbitmqctl, and EVENTFLOW_TEST_RABBITMQ names somebody's")
    recorded = deliveries(SOURCES[-1])
    sent = [
        Delivery(d.event, str(uuid.uuid4()), d.body) for d in recorded * -(-300 // len(recorded))
    ]
    before, meanwhile, after = (sent[n::3] for n in range(3))
    database = tmp_path / "feed.db"
    environment = {"EVENTFLOW_BROKER": rabbitmq.address, "DATABASE": str(database)}
    make_topics(environment)
    with (
        Worker(tmp_path / "one", environment) as victim,
        Worker(tmp_path / "two", environment) as other,
        Service(tmp_path, "--receiver", WEBHOOK_SECRET=SECRET, **environment) as receiver,
    ):

        def send(some: list[Delivery]) -> None:
            assert Counter(receiver.send(delivery) for delivery in some) == {202: len(some)}

        for worker in (victim, other):
            until(worker.is_ready, "a worker is ready")
        send(before)
        until(lambda: len(receiver.stored()) == len(before), "the first third is stored")
        assert victim.handled("store")
        assert other.handled("store")
        with closing(sqlite3.connect(database)) as lock:
            lock.isolation_level = None
            lock.execute("BEGIN IMMEDIATE")
            send(meanwhile)
            victim.kill()
            lock.execute("ROLLBACK")
        send(after)
        until(lambda: len(receiver.stored()) == len(sent), "all is stored")
        until(lambda: not any(waiting(rabbitmq).values()), "nothing waits")
        assert receiver.stop() == 0, receiver.stderr
        assert other.stop() == 0, other.logged()
    assert receiver.stored() == {d.id: (d.event, d.body) for d in sent}
    by_victim, by_other = victim.handled("store"), other.handled("store")
    assert by_victim.keys() | by_other.keys() == {d.id for d in sent}
    assert by_victim.keys() <= {d.id for d in before}
    (stopped,) = [line for line in other.logged() if line["event"] == "eventflow.service_stopped"]
    assert (stopped["adds_up"], stopped["abandoned"]) == (True, [])
    assert not [line for line in other.logged() if line["level"] == "error"]
    letters = [f"{event.topic}.dead_letter" for event in CARRIED]
    assert not any(waiting(rabbitmq).get(name) for name in letters)
