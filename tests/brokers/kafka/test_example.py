"""The example with a Kafka between its receiver and two workers, as processes of their own."""

from __future__ import annotations

import json
import logging
import sqlite3
import uuid
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin
import pytest

from examples.github_webhooks.events import ACTIVITIES, CARRIED
from examples.github_webhooks.topics import PARTITIONS, topics
from tests.brokers.kafka.support import TIMES, committed, records
from tests.examples.compose import WORKERS, kafka_properties, services
from tests.examples.service import OWN, SECRET, SOURCES, Delivery, Service, deliveries, until
from tests.examples.worker import Worker, make_topics
from tests.servers.kafka import Kafka

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(120)]

RECEIVED = "webhooks.received"
GROUPS = ("webhooks.store", "webhooks.decode")
log = logging.getLogger("tests.kafka")
_library: Any = confluent_kafka.admin


def shares(kafka: Kafka, group: str) -> set[frozenset[int]]:
    """What each member of a group has, as the cluster says it; nothing while it shares anew."""
    admin: Any = _library.AdminClient({"bootstrap.servers": kafka.address, "logger": log})
    found = admin.describe_consumer_groups([group])[group].result(30)
    if found.state.name != "STABLE":
        return set()
    return {
        frozenset(place.partition for place in member.assignment.topic_partitions)
        for member in found.members
    }


def ids(kafka: Kafka, topics: Iterable[str]) -> Counter[str]:
    """How often the topics have the event of each delivery, read by a client of its own."""
    found: Counter[str] = Counter()
    for topic in topics:
        for record in records(kafka, topic, partitions=PARTITIONS):
            if topic == RECEIVED:
                found[json.loads(record.value())["delivery"]] += 1
            else:
                found[dict(record.headers())["_watermill_message_uuid"].decode()] += 1
    return found


def open_places(kafka: Kafka, topic: str, group: str) -> dict[int, tuple[int, int]]:
    """Partitions of which a group has not settled everything: committed, and the end."""
    ends = Counter(r.partition() for r in records(kafka, topic, partitions=PARTITIONS))
    done = committed(kafka, topic, group, partitions=PARTITIONS)
    return {n: (done[n][0], end) for n, end in ends.items() if done[n][0] != end}


def test_what_a_killed_worker_had_the_other_one_does(kafka: Kafka, tmp_path: Path) -> None:
    """Kill -9 while it has deliveries in hand: its partitions move, and nothing is lost.

    The database is locked then, so that what came since can't have been stored before the kill.
    Feed, topics and commits are counted from outside; receiver and worker end with 0.
    """
    recorded = deliveries(SOURCES[-1])
    sent = [
        Delivery(d.event, str(uuid.uuid4()), d.body) for d in recorded * -(-300 // len(recorded))
    ]
    before, meanwhile, after = (sent[n::3] for n in range(3))
    database = tmp_path / "feed.db"
    properties = "&".join(f"{name}={value}" for name, value in TIMES["properties"].items())
    environment = {
        "EVENTFLOW_BROKER": f"kafka://{kafka.address}?session_timeout=2&{properties}",
        "DATABASE": str(database),
    }
    make_topics(environment)
    assert set(topics()) <= set(kafka.topics())

    with (
        Worker(tmp_path / "one", environment) as victim,
        Worker(tmp_path / "two", environment) as other,
        Service(tmp_path, "--receiver", WEBHOOK_SECRET=SECRET, **environment) as receiver,
    ):

        def send(some: list[Delivery]) -> None:
            assert Counter(receiver.send(delivery) for delivery in some) == {202: len(some)}

        for worker in (victim, other):
            until(worker.is_ready, "a worker is ready")
        until(
            lambda: all(sorted(map(len, shares(kafka, group))) == [2, 2] for group in GROUPS),
            "the two share every group's partitions",
        )
        send(before)
        until(lambda: len(receiver.stored()) == len(before), "the first third is stored")
        mine = frozenset(victim.handled("store").values())
        assert {mine, frozenset(other.handled("store").values())} == shares(kafka, "webhooks.store")

        with closing(sqlite3.connect(database)) as lock:
            lock.isolation_level = None
            lock.execute("BEGIN IMMEDIATE")
            send(meanwhile)
            victim.kill()
            lock.execute("ROLLBACK")
        send(after)

        until(lambda: len(receiver.stored()) == len(sent), "all is stored")
        whole = {frozenset(range(PARTITIONS))}
        until(
            lambda: all(shares(kafka, group) == whole for group in GROUPS),
            "one has all partitions of every group",
        )
        until(
            lambda: not any(open_places(kafka, RECEIVED, group) for group in GROUPS),
            "every group has settled all",
        )
        activities = ids(kafka, [str(event.topic) for event in ACTIVITIES.values()])
        until(
            lambda: receiver.stats("count")["handled"] == activities.total(),
            "all activities are counted",
        )
        assert receiver.stop() == 0, receiver.stderr
        assert other.stop() == 0, other.logged()

    # What was accepted is there, once, with its bytes.
    assert receiver.stored() == {d.id: (d.event, d.body) for d in sent}
    accepted = {d.id for d in sent}
    assert ids(kafka, [RECEIVED]) == Counter(accepted)
    assert not ids(kafka, [f"{event.topic}.dead_letter" for event in CARRIED])
    # What the killed one had, the other one has done.
    by_victim, by_other = victim.handled("store"), other.handled("store")
    assert by_victim.keys() | by_other.keys() == accepted
    assert by_victim.keys() <= {d.id for d in before}
    taken_over = {d.id for d in meanwhile if by_other[d.id] in mine}
    assert taken_over
    # An activity may be announced twice, where the kill came before the ack; none is missing.
    modelled = {d.id for d in sent if d.event in ACTIVITIES}
    assert activities.keys() == modelled
    again = {delivery for delivery, times in activities.items() if times > 1}
    assert again <= other.handled("decode").keys()
    # It handles one at a time, so no more than one was announced and not yet printed.
    assert len(again - victim.handled("decode").keys()) <= 1
    # The books of those who stopped.
    (stopped,) = [line for line in other.logged() if line["event"] == "eventflow.service_stopped"]
    assert (stopped["adds_up"], stopped["abandoned"]) == (True, [])
    (router,) = stopped["ledgers"]
    handled = len(by_other) + len(other.handled("decode"))
    assert (router["offered"], router["handled"]) == (handled, handled)
    assert not [line for line in other.logged() if line["level"] == "error"]
    for event in CARRIED:
        assert not open_places(kafka, str(event.topic), "webhooks.bus")


def here(services: dict[str, dict[str, Any]], name: str, kafka: Kafka, database: Path) -> Any:
    """A service's environment, with addresses and files of this machine in the place of theirs."""
    values = dict(services[name]["environment"])
    assert values["EVENTFLOW_BROKER"] == "kafka://kafka:9092"
    values |= {"EVENTFLOW_BROKER": f"kafka://{kafka.address}", "DATABASE": str(database)}
    if name == "receiver":
        values |= {"ADDRESS": "127.0.0.1", "PORT": "0", "WEBHOOK_SECRET": SECRET}
    return values


@pytest.mark.usefixtures("can_run_kafka")
def test_what_the_compose_file_starts_works(tmp_path: Path) -> None:
    """Its Kafka's properties, commands and variables, in its order, without Docker.

    A broker starts with these properties, and the processes work as they are told there: but
    for addresses, ports and the place of files. SIGTERM ends all of them with 0.
    """
    found = services()
    tmp_path.joinpath("kafka").mkdir()
    kafka = Kafka(tmp_path / "kafka")
    properties = tmp_path / "kafka/server.properties"
    lines = dict(line.split("=", 1) for line in properties.read_text().splitlines() if "=" in line)
    own = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}
    theirs = kafka_properties() | {name: lines[name] for name in own}
    properties.write_text("".join(f"{name}={value}\n" for name, value in theirs.items()))
    database = tmp_path / "feed.db"
    sent = deliveries(OWN)
    try:
        kafka.format()
        kafka.start(within=60)
        make_topics(here(found, "topics", kafka, database))
        for name in WORKERS:
            assert found[name]["command"][:2] == ["eventflow", "run"]
        one, two = (
            Worker(tmp_path / n, here(found, n, kafka, database), found[n]["command"][2])
            for n in WORKERS
        )
        program, dash_m, module, *arguments = found["receiver"]["command"]
        assert (program, dash_m, module) == ("python", "-m", "examples.github_webhooks")
        environment = here(found, "receiver", kafka, database)
        with one, two, Service(tmp_path, *arguments, **environment) as receiver:
            for worker in (one, two):
                until(worker.is_ready, "a worker is ready")
            for delivery in sent:
                assert receiver.send(delivery) == 202
            until(lambda: len(receiver.stored()) == len(sent), "all is stored")
            assert [receiver.stop(), one.stop(), two.stop()] == [0, 0, 0], receiver.stderr
        assert receiver.stored() == {d.id: (d.event, d.body) for d in sent}
        assert one.handled("store").keys() | two.handled("store").keys() == {d.id for d in sent}
        kafka.stop()
    finally:
        kafka.kill()
