"""What the environment says of a RabbitMQ, and what an address says; no secret shows."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING, Any, cast

import pytest

from eventflow.brokers.rabbitmq import (
    PubSub,
    RabbitMQBroker,
    RabbitMQConfig,
    Tls,
    Topics,
    WorkQueue,
)
from eventflow.errors import InvalidDsnError, InvalidOptionError
from eventflow.messaging import connect

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "p@ss:w/rd%"
ENCODED = "p%40ss%3Aw%2Frd%25"


def says(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"EVENTFLOW_RABBITMQ_{name}", value)


def assert_hidden(error: Exception) -> None:
    """In no text, no context, and no variable of a frame that is ours."""
    for one in (error, pickle.loads(pickle.dumps(error))):
        shown = traceback.TracebackException.from_exception(one, capture_locals=True)
        ours = [line for line in shown.format() if f'File "{__file__}"' not in line]
        for form in (CANARY, ENCODED):
            assert form not in "".join(ours)
            assert form not in repr(vars(one))


def test_the_environment_says_it_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hosts, virtual host, user, group, options, files and the topology."""
    ca = tmp_path / "ca.pem"
    ca.touch()
    says(
        monkeypatch,
        HOSTS="one:15671,two,[::1]",
        VHOST="a/b",
        USERNAME="alice",
        PASSWORD=CANARY,
        GROUP="receipts",
        TLS__CA_FILE=str(ca),
        TOPOLOGY="topics",
        EXCHANGE="shop",
        QUEUE_TYPE="classic",
        SINGLE_ACTIVE_CONSUMER="true",
        PUBLISH_TIMEOUT="5",
        CONNECT_TIMEOUT="2.5",
        DELAYS="false",
        HEARTBEAT="7",
        CONSUMER_TIMEOUT="600",
        MAX_PAYLOAD_BYTES="1000",
    )
    config = RabbitMQConfig()
    assert config.group == "receipts"
    settings = config.broker().settings
    assert settings.hosts == (("one", 15671), ("two", 5671), ("::1", 5671))
    assert (settings.vhost, settings.username, settings.password) == ("a/b", "alice", CANARY)
    assert settings.tls == Tls(ca_file=ca)
    assert settings.topology == Topics(
        exchange="shop", queue_type="classic", single_active_consumer=True
    )
    assert (settings.publish_timeout, settings.connect_timeout) == (5.0, 2.5)
    assert (settings.heartbeat, settings.max_payload_bytes) == (7, 1_000)
    assert (settings.delays, settings.consumer_timeout) == (False, 600.0)
    for holder in (config, config.broker(), settings):
        assert CANARY not in repr(holder) + str(holder) + f"{holder}"


def test_hosts_alone_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is as without it."""
    says(monkeypatch, HOSTS="h")
    assert RabbitMQConfig().broker().settings == RabbitMQBroker("amqp://h").settings


@pytest.mark.parametrize(
    ("name", "made"), [("pub_sub", PubSub()), ("work_queue", WorkQueue()), ("topics", Topics())]
)
def test_topologies_by_name(name: str, made: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The presets as they are without options."""
    says(monkeypatch, HOSTS="h", TOPOLOGY=name)
    assert RabbitMQConfig().broker().settings.topology == made


def test_tls_by_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the machine trusts; files for TLS that is off are refused."""
    says(monkeypatch, HOSTS="h", TLS__ENABLED="true")
    assert RabbitMQConfig().broker().settings.hosts == (("h", 5671),)
    says(monkeypatch, TLS__ENABLED="false")
    assert not RabbitMQConfig().broker().settings.tls
    says(monkeypatch, TLS__CA_FILE=__file__)
    with pytest.raises(InvalidOptionError, match="not enabled"):
        RabbitMQConfig().broker()


@pytest.mark.fault("SEC-01")
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HOSTS": "h", "PUBLISH_TIMEOUT": CANARY},
        {"HOSTS": "h", "PASSWORD": CANARY},
        {"HOSTS": "h", "USERNAME": CANARY},
        {"HOSTS": "h", "TOPOLOGY": CANARY},
        {"HOSTS": "h", "EXCHANGE": CANARY},
        {"HOSTS": "h", "TLS": "true"},
        {"HOSTS": "h", "TLSS": CANARY},
        {"HOSTS": "h", "PASS": CANARY},
        {"HOSTS": f"user:{CANARY}@h"},
        {"HOSTS": f"amqp://user:{ENCODED}@h"},
        {"HOSTS": ""},
        {"HOSTS": "h,"},
    ],
)
def test_what_makes_no_sense_there(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named, without its value."""
    says(monkeypatch, **variables)
    with pytest.raises(InvalidOptionError) as caught:
        RabbitMQConfig()
    assert caught.value.option
    assert_hidden(caught.value)


@pytest.mark.fault("SEC-01")
def test_what_is_out_of_range_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the broker, and no password in the frames between."""
    says(monkeypatch, HOSTS="h", USERNAME="alice", PASSWORD=CANARY, HEARTBEAT="0")
    config = RabbitMQConfig()
    with pytest.raises(InvalidOptionError) as caught:
        config.broker()
    assert caught.value.option == "heartbeat"
    assert_hidden(caught.value)


def test_an_address_says_it_all(tmp_path: Path) -> None:
    """Hosts with the usual port, a login, a virtual host, options, and files."""
    ca = tmp_path / "ca.pem"
    ca.touch()
    broker = connect(
        f"amqps://alice:{ENCODED}@one,two:15671/a%2Fb?publish_timeout=5&connect_timeout=2.5"
        f"&heartbeat=7&max_payload_bytes=1000&ca_file={ca}"
    )
    assert isinstance(broker, RabbitMQBroker)
    settings = broker.settings
    assert settings.hosts == (("one", 5671), ("two", 15671))
    assert (settings.username, settings.password, settings.vhost) == ("alice", CANARY, "a/b")
    assert (settings.publish_timeout, settings.connect_timeout) == (5.0, 2.5)
    assert (settings.heartbeat, settings.max_payload_bytes) == (7, 1_000)
    assert settings.tls == Tls(ca_file=str(ca))
    assert repr(broker) == "<RabbitMQBroker <one:5671,two:15671, virtual host 'a/b'>, closed>"


def test_arguments_go_before_the_address() -> None:
    """Also for TLS, whose usual port is another one."""
    broker = RabbitMQBroker("amqp://h?publish_timeout=5", publish_timeout=7, tls=True)
    assert broker.settings.publish_timeout == 7
    assert broker.settings.hosts == (("h", 5671),)
    assert RabbitMQBroker("amqps://h", tls=None).settings.tls is True
    mine = Tls(ca_file=__file__)
    assert RabbitMQBroker("amqps://h", tls=mine).settings.tls == mine


@pytest.mark.fault("SEC-01", "SEC-14")
@pytest.mark.parametrize(
    "dsn",
    [
        f"amqps://alice:{ENCODED}@h?verify=verify_none",
        f"amqps://alice:{ENCODED}@h?no_verify_ssl=1",
        f"amqps://alice:{ENCODED}@h?tls=false",
        f"amqps://alice:{ENCODED}@h?auth_mechanism=PLAIN",
        f"amqps://alice:{ENCODED}@h?ca_file=/no/such/file",
        f"amqps://alice:{ENCODED}@h?certificate_file={__file__}",
        f"amqp://alice:{ENCODED}@h?ca_file={__file__}",
        f"amqp://alice:{ENCODED}@h?heartbeat={ENCODED}",
        f"amqp://alice:{ENCODED}@h?heartbeat=0",
        f"amqp://alice:{ENCODED}@h?max_payload_bytes=999999999",
        f"amqp://alice:{ENCODED}@h?{ENCODED}",
        f"amqp://alice:{ENCODED}@",
        f"amqp://alice:{CANARY}@h",
        f"amqp://{ENCODED}@h",
        f"amqp://:{ENCODED}@h",
        f"memory://alice:{ENCODED}@h",
    ],
)
def test_an_address_that_makes_no_sense(dsn: str) -> None:
    """Nothing in it weakens TLS, and nothing of it is repeated."""
    for make in (RabbitMQBroker, connect):
        if make is connect and dsn.startswith("memory"):
            continue
        with pytest.raises((InvalidDsnError, InvalidOptionError)) as caught:
            make(dsn)
        assert "alice" not in str(caught.value)
        assert_hidden(caught.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("localhost:5672", "amqp://host:5672"),
        ("amqp://h:x", "host:5672,other:5672"),
        ("amqp://h:99999", "host:5672,"),
        ("amqps://h:x", "host:5671,"),
        ("amqp:///vhost", "amqp://host:5672/vhost"),
        ("amqps:///vhost", "amqps://host:5671/vhost"),
        ("kafka://h:x", "host:9092,other:9092"),
    ],
)
def test_examples_have_the_port_of_the_server(address: str, said: str) -> None:
    with pytest.raises(InvalidDsnError) as caught:
        connect(address)
    assert said in str(caught.value)


@pytest.mark.fault("SEC-01")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"publish_timeout": 0}, "publish_timeout"),
        ({"connect_timeout": -1}, "connect_timeout"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"heartbeat": 3_601}, "heartbeat"),
        ({"max_payload_bytes": 0}, "max_payload_bytes"),
        ({"max_payload_bytes": 2**30}, "max_payload_bytes"),
        ({"topology": "queue"}, "topology"),
        ({"topology": PubSub}, "topology"),
        ({"username": ""}, "username"),
        ({"username": 5}, "username"),
        ({"username": "\udc80"}, "username"),
        ({"password": ""}, "password"),
        ({"password": f"{CANARY}\udc80"}, "password"),
        ({"vhost": ""}, "vhost"),
        ({"vhost": "v" * 128}, "vhost"),
        ({"vhost": "€" * 86}, "vhost"),
        ({"tls": "yes"}, "tls"),
        ({"tls": Tls(ca_file="/no/such/file")}, "tls"),
        ({"tls": Tls(certificate_file=__file__)}, "tls"),
        ({"tls": Tls(ca_file=cast("Any", 5))}, "tls"),
        ({"tls": Tls(certificate_file="/no", key_file="/no", key_password=CANARY)}, "tls"),
        ({"passwd": CANARY}, "passwd"),
    ],
)
def test_an_option_that_makes_no_sense(options: dict[str, Any], named: str) -> None:
    """Refused when the broker is made, by name, also where the rest comes from an address."""
    for make in (RabbitMQBroker, connect):
        with pytest.raises(InvalidOptionError) as caught:
            make("amqp://h", **{"password": CANARY, **options})
        assert caught.value.option == named
        assert_hidden(caught.value)


@pytest.mark.fault("SEC-14")
def test_tls_is_not_turned_off_unseen() -> None:
    """An address and an argument that say the opposite."""
    with pytest.raises(InvalidOptionError, match="tls=False") as caught:
        RabbitMQBroker("amqps://h", tls=False)
    assert caught.value.option == "tls"


@pytest.mark.fault("SEC-14")
@pytest.mark.parametrize(
    ("address", "is_said"),
    [
        ("amqp://127.0.0.1,localhost,[::1]", False),
        ("amqps://example.com", False),
        ("amqp://example.com", True),
        ("amqp://localhost,10.0.0.1", True),
    ],
)
def test_a_password_that_all_can_read(
    address: str, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Said, with the hosts; not refused, as it is within a machine or a cluster of containers."""
    RabbitMQBroker(address).settings.warn()
    assert ("rabbitmq_password_readable" in caplog.text) == is_said
    assert "guest" not in caplog.text


def test_settings_have_the_parts_of_kafkas() -> None:
    """One class for TLS: what is said of one backend can be said of another."""
    from eventflow.brokers.kafka import Tls as KafkaTls

    assert KafkaTls is Tls
