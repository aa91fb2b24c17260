"""What the environment says of a Kafka, and what would go out readable."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING, Any, cast

import pytest

from eventflow.brokers.kafka import KafkaBroker, KafkaConfig, OAuthBearer, Sasl, Tls, Token
from eventflow.errors import InvalidDsnError, InvalidOptionError
from eventflow.messaging import connect

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "p@ss:w/rd%"


def token() -> Token:
    return Token(CANARY, 60)


def says(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"EVENTFLOW_KAFKA_{name}", value)


def test_the_environment_says_it_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hosts, group, options, files, user and properties."""
    ca = tmp_path / "ca.pem"
    ca.touch()
    says(
        monkeypatch,
        HOSTS="one:19092,two",
        GROUP="receipts",
        TLS__CA_FILE=str(ca),
        SASL__USERNAME="alice",
        SASL__PASSWORD=CANARY,
        SASL__MECHANISM="PLAIN",
        PUBLISH_TIMEOUT="5",
        PARTITIONER="fnv1a",
        PROPERTIES='{"linger.ms": 3}',
    )
    config = KafkaConfig()
    assert config.group == "receipts"
    told = config.broker().settings.producer()
    assert told["bootstrap.servers"] == "one:19092,two:9092"
    assert told["security.protocol"] == "SASL_SSL"
    assert told["ssl.ca.location"] == str(ca)
    assert (told["sasl.mechanism"], told["sasl.username"]) == ("PLAIN", "alice")
    assert told["sasl.password"] == CANARY
    assert (told["message.timeout.ms"], told["linger.ms"]) == (4_500, 3)
    assert told["partitioner"] == "fnv1a_random"
    assert CANARY not in repr(config) + str(config) + repr(config.broker())


def test_hosts_alone_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is as without it."""
    says(monkeypatch, HOSTS="h")
    assert KafkaConfig().broker().settings == KafkaBroker("h").settings


def test_tls_by_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the machine trusts; and a token comes from a function."""
    says(monkeypatch, HOSTS="h", TLS__ENABLED="true")
    assert KafkaConfig().broker().settings.producer()["security.protocol"] == "SSL"
    told = KafkaConfig().broker(sasl=OAuthBearer(token)).settings.producer()
    assert (told["security.protocol"], told["sasl.mechanism"]) == ("SASL_SSL", "OAUTHBEARER")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HOSTS": "h", "PUBLISH_TIMEOUT": CANARY},
        {"HOSTS": "h", "SASL__PASSWORD": CANARY},
        {"HOSTS": "h", "SASL__USERNAME": "a", "SASL__PASSWORD": CANARY, "SASL__MECHANISM": CANARY},
        {"HOSTS": "h", "SASL__USER": CANARY},
        {"HOSTS": "h", "TLS": "true"},
        {"HOSTS": "h", "TLSS": CANARY},
        {"HOSTS": "h", "PROPERTIES": f"{{{CANARY}"},
        {"HOSTS": f"user:{CANARY}@h"},
    ],
)
def test_what_makes_no_sense_there(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named, without its value."""
    says(monkeypatch, **variables)
    with pytest.raises(InvalidOptionError) as caught:
        KafkaConfig()
    assert_hidden(caught.value)


def assert_hidden(error: Exception) -> None:
    """In no text, no context, and no variable of a frame that is ours."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [line for line in shown.format() if f'File "{__file__}"' not in line]
    assert CANARY not in "".join(ours)


def test_files_for_tls_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused: somebody means it to be on."""
    says(monkeypatch, HOSTS="h", TLS__ENABLED="false", TLS__CA_FILE=__file__)
    with pytest.raises(InvalidOptionError, match="not enabled"):
        KafkaConfig().broker()
    monkeypatch.delenv("EVENTFLOW_KAFKA_TLS__CA_FILE")
    assert KafkaConfig().broker().settings.producer()["security.protocol"] == "PLAINTEXT"


PLAIN = Sasl(username="alice", password=CANARY, mechanism="PLAIN")


@pytest.mark.fault("SEC-14")
@pytest.mark.parametrize("sasl", [PLAIN, OAuthBearer(token)])
def test_a_secret_does_not_go_out_readable(sasl: Any) -> None:
    """PLAIN and tokens need TLS, but for this machine; SCRAM shows nothing to who listens."""
    with pytest.raises(InvalidOptionError, match="tls=") as caught:
        KafkaBroker("127.0.0.1:1,example.com:9092", sasl=sasl)
    assert caught.value.option == "sasl"
    KafkaBroker("127.0.0.1:1,localhost:1,[::1]:1", sasl=sasl)
    KafkaBroker("example.com", sasl=sasl, tls=True)
    KafkaBroker("example.com", sasl=Sasl(username="alice", password=CANARY))


@pytest.mark.fault("SEC-14")
@pytest.mark.parametrize(
    "dsn",
    [
        "kafka://h?tls=true&enable.ssl.certificate.verification=false",
        "kafka://h?tls=true&ssl.endpoint.identification.algorithm=none",
        "kafka://h?tls=true&security.protocol=plaintext",
        "kafka://alice:p%40ss@h?sasl=PLAIN",
        "kafka://alice:p%40ss@h?sasl=PLAIN&tls=false",
        "kafka://alice@h",
        "kafka://h?sasl=PLAIN",
        "kafka://h?tls=maybe",
        "kafka://alice:p%40ss@h?sasl=GSSAPI",
        "kafka://h?tls=false&ca_file=x.pem",
    ],
)
def test_an_address_weakens_nothing(dsn: str) -> None:
    """Nor is half of a login one; nothing of it is repeated."""
    with pytest.raises((InvalidDsnError, InvalidOptionError)) as caught:
        connect(dsn)
    assert "p@ss" not in str(caught.value)
    assert "alice" not in str(caught.value)


def test_an_address_with_a_login(tmp_path: Path) -> None:
    """User and password, a mechanism, and files."""
    ca = tmp_path / "ca.pem"
    ca.touch()
    broker = connect(f"kafka://alice:p%40ss%3Aw%2Frd%25@h?sasl=PLAIN&ca_file={ca}")
    assert isinstance(broker, KafkaBroker)
    assert broker.settings.sasl == PLAIN
    assert broker.settings.tls == Tls(ca_file=str(ca))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tls": "yes"}, "tls"),
        ({"tls": Tls(ca_file="/no/such/file")}, "tls"),
        ({"tls": Tls(certificate_file=__file__)}, "tls"),
        ({"tls": Tls(ca_file=cast("Any", 5))}, "tls"),
        ({"sasl": "alice"}, "sasl"),
        ({"sasl": Sasl(username="alice", password=CANARY, mechanism="GSSAPI")}, "sasl"),
        ({"sasl": Sasl(username="alice", password="")}, "sasl"),
        ({"properties": {"sasl.password": CANARY}}, "properties"),
        ({"properties": {"security.protocol": "ssl"}}, "properties"),
        ({"properties": {5: "x", "ssl.key.password": CANARY}}, "properties"),
        ({"properties": [("ssl.key.password", CANARY)]}, "properties"),
        ({"properties": None}, "properties"),
    ],
)
def test_security_that_makes_no_sense(options: dict[str, Any], named: str) -> None:
    """Refused when the broker is made."""
    with pytest.raises(InvalidOptionError) as caught:
        KafkaBroker("h", **options)
    assert caught.value.option == named
    assert_hidden(caught.value)


@pytest.mark.parametrize(
    ("properties", "are_weak"),
    [
        ({}, False),
        ({"enable.ssl.certificate.verification": True}, False),
        ({"enable.ssl.certificate.verification": "1"}, False),
        ({"ssl.endpoint.identification.algorithm": "https"}, False),
        ({"enable.ssl.certificate.verification": False}, True),
        ({"enable.ssl.certificate.verification": 0}, True),
        ({"enable.ssl.certificate.verification": "f"}, True),
        ({"ssl.endpoint.identification.algorithm": "none"}, True),
    ],
)
def test_what_weakens_tls(
    properties: dict[str, Any], are_weak: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In any way that the library reads, and nothing else does."""
    KafkaBroker("h", tls=True, properties=properties).settings.warn()
    assert ("kafka_tls_weakened" in caplog.text) == are_weak


@pytest.mark.fault("SEC-01")
@pytest.mark.parametrize(
    "holder",
    [
        PLAIN,
        Tls(key_password=CANARY),
        token(),
        KafkaBroker("h", sasl=PLAIN, tls=True),
        KafkaBroker("h", sasl=PLAIN, tls=True).settings,
    ],
)
def test_a_secret_shows_nowhere(holder: Any) -> None:
    """Neither in repr nor in str."""
    assert CANARY not in repr(holder) + str(holder) + f"{holder}"


def test_a_login_can_be_pickled() -> None:
    """For whoever starts processes with it."""
    assert pickle.loads(pickle.dumps(PLAIN)) == PLAIN
