"""What a Kafka broker is told, by arguments and by its address."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from eventflow.brokers.kafka import KafkaBroker
from eventflow.brokers.kafka._settings import ClientLog, check_topic
from eventflow.errors import InvalidDsnError, InvalidOptionError, InvalidTopicError
from eventflow.messaging import connect


def test_an_address_says_it_all() -> None:
    """Hosts with the usual port, options, and properties of the client library."""
    broker = connect("kafka://one,two:19092?publish_timeout=5&assignor=range&linger.ms=3")
    assert isinstance(broker, KafkaBroker)
    settings = broker.settings
    assert settings.hosts == ("one:9092", "two:19092")
    assert (settings.publish_timeout, settings.is_eager) == (5.0, True)
    assert settings.producer()["linger.ms"] == "3"
    assert settings.producer()["acks"] == "all"
    assert settings.producer()["message.timeout.ms"] == 4_500
    consumer = settings.consumer("g")
    assert consumer["group.id"] == "g"
    assert consumer["enable.auto.commit"] is False
    assert consumer["auto.offset.reset"] == "earliest"
    assert repr(broker) == "<KafkaBroker one:9092,two:19092, closed>"


def test_arguments_go_before_the_address() -> None:
    """As for every backend."""
    broker = connect("kafka://h?publish_timeout=5", publish_timeout=7)
    assert isinstance(broker, KafkaBroker)
    assert broker.settings.publish_timeout == 7


@pytest.mark.parametrize(
    "dsn",
    [
        "kafka://",
        "kafka://h/path",
        "kafka://h?publish_timeout=secret",
        "kafka://h?secret=1",
    ],
)
def test_an_address_that_makes_no_sense(dsn: str) -> None:
    """Refused, and nothing of it is repeated."""
    with pytest.raises(InvalidDsnError) as caught:
        connect(dsn)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"assignor": "best"}, "assignor"),
        ({"start": "latest"}, "start"),
        ({"partitioner": "sha"}, "partitioner"),
        ({"publish_timeout": 0.5}, "publish_timeout"),
        ({"session_timeout": 0}, "session_timeout"),
        ({"revoke_timeout": -1}, "revoke_timeout"),
        ({"max_payload_bytes": 0}, "max_payload_bytes"),
        ({"group": "g"}, "group"),
        ({"properties": {"enable.auto.commit": True}}, "properties"),
        ({"properties": {"group.id": "g"}}, "properties"),
        ({"properties": {"group.instance.id": "i"}}, "properties"),
        ({"properties": {"allow.auto.create.topics": True}}, "properties"),
        ({"properties": {"linger": 1}}, "properties"),
        ({"properties": {"linger.ms": None}}, "properties"),
    ],
)
def test_an_option_that_makes_no_sense(options: dict[str, Any], named: str) -> None:
    """Refused when the broker is made, by name."""
    with pytest.raises(InvalidOptionError) as caught:
        KafkaBroker("h:9092", **options)
    assert caught.value.option == named


@pytest.mark.parametrize("hosts", ["", "a b", "h:9092,", "kafka://h", None, "h:x"])
def test_hosts_that_are_none(hosts: Any) -> None:
    """Refused, with the form that they have."""
    with pytest.raises(InvalidOptionError, match="host:9092"):
        KafkaBroker(hosts)


async def test_a_property_that_the_library_does_not_know() -> None:
    """Found when the broker is entered; its value is not repeated."""
    broker = KafkaBroker("127.0.0.1:1", properties={"no.such.property": "secret"})
    with pytest.raises(InvalidOptionError, match=r"no\.such\.property") as caught:
        await broker.__aenter__()
    assert "secret" not in str(caught.value)


def test_a_topic_too_long_for_kafka() -> None:
    """Checked by the broker, as Kafka's bound is its own."""
    assert check_topic("a" * 249) == "a" * 249
    with pytest.raises(InvalidTopicError, match="249"):
        check_topic("a" * 250)


def test_lines_of_the_client_that_repeat(caplog: pytest.LogCaptureFixture) -> None:
    """Once in 10 s, with how many were held back; others are written meanwhile."""
    now = 0.0
    client = ClientLog(lambda: now)

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    for n in range(50):
        client.log(logging.WARNING, "%s %s", "FAIL", f"broker {n}: away after {n} ms")
    client.log(logging.WARNING, "%s %s", "FAIL", "something else")
    client.log(logging.WARNING, "%s", "CONFWARN", "no news")
    first, other = lines()
    assert "broker 0" in first
    assert "something else" in other
    now = 10.0
    client.log(logging.WARNING, "%s %s", "FAIL", "broker 50: away after 50 ms")
    (again,) = lines()
    assert "broker 50" in again
    assert "held_back=49" in again
    for n in range(300):  # of 300 kinds
        client.log(logging.WARNING, "%s %s", "FAIL", "x" * n)
    assert len(lines()) == 300
