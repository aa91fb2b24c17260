"""Who may come in, and who is believed: a real RabbitMQ with TLS and users."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
import traceback
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiormq
import pytest
from cryptography.hazmat.primitives import serialization

from eventflow.brokers.rabbitmq import RabbitMQBroker, RabbitMQConfig, Tls
from eventflow.brokers.rabbitmq._errors import connection_error
from eventflow.errors import BrokerAuthenticationError, BrokerConnectionError, BrokerError
from eventflow.messaging import Message, connect
from tests.servers.certificates import PASSWORD
from tests.servers.secure_rabbitmq import OTHER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.secure_rabbitmq import SecureRabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]
WRONG = "hunter2-canary"
WITHIN_S = 3.0


def trusting(server: SecureRabbitMQ, **more: Any) -> Tls:
    files: dict[str, Any] = {"ca_file": server.certificates.ca, **more}
    return Tls(**files)


def with_certificate(server: SecureRabbitMQ, **more: Any) -> Tls:
    files = {"certificate_file": server.certificates.client}
    return trusting(server, **(files | {"key_file": server.certificates.client_key} | more))


def ssl_error(reason: str) -> ssl.SSLError:
    made = ssl.SSLError(1, reason)
    made.reason = reason
    return made


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what shows by itself, and tells nobody."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def goes_round(broker: RabbitMQBroker) -> None:
    """A declaration, a publish, a delivery, an ack."""
    topic = f"open.{uuid.uuid4().hex[:12]}"
    subscriber = broker.subscriber(group="g")
    async with subscriber.subscribe(topic) as deliveries:
        await broker.publisher().publish(topic, Message(b"x"))
        (delivery,) = await deliveries.receive()
        assert delivery.ack()
        await delivery.settled()


def assert_hidden(error: BaseException, *secrets: str) -> None:
    """In no text, nothing behind it, and no variable of a frame but the tests' own."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [line for line in shown.format() if f'File "{ROOT}/tests' not in line]
    for secret in (WRONG, PASSWORD, *secrets):
        assert secret not in "".join(ours)
        assert secret not in repr(vars(error))


async def test_who_may_come_in(
    secure_rabbitmq: SecureRabbitMQ, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a certificate or a password; by an address, by arguments, by the environment's names."""
    caplog.set_level(logging.DEBUG)
    server, files = secure_rabbitmq, secure_rabbitmq.certificates
    key = serialization.load_pem_private_key(files.client_key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(WRONG.encode()),
        )
    )
    query = f"ca_file={files.ca}&certificate_file={files.client}&key_file={files.client_key}"
    config: Any = {
        "hosts": f"127.0.0.1:{server.tls_port}",
        "username": "alice",
        "password": PASSWORD,
        "tls": {
            "ca_file": files.ca,
            "certificate_file": files.client,
            "key_file": encrypted,
            "key_password": WRONG,
        },
    }
    for broker in (
        RabbitMQBroker(server.with_tls(), tls=with_certificate(server)),
        RabbitMQBroker(server.at("alice")),
        RabbitMQBroker(server.at("alice", vhost=OTHER)),
        RabbitMQBroker(server.at("bob"), delays=False),
        connect(f"{server.with_tls()}?{query}"),
        RabbitMQConfig(**config).broker(),
    ):
        assert isinstance(broker, RabbitMQBroker)
        async with broker:
            await goes_round(broker)
    assert PASSWORD not in caplog.text
    assert WRONG not in caplog.text


REFUSED: dict[str, tuple[str, Callable[[SecureRabbitMQ], tuple[str, bool | Tls]]]] = {
    "wrong ca": (
        "not trusted: self-signed",
        lambda s: (s.with_tls(), Tls(ca_file=s.certificates.other_ca)),
    ),
    "no ca": ("not trusted: self-signed", lambda s: (s.with_tls(), True)),
    "other host": (
        "not trusted: Hostname mismatch",
        lambda s: (s.with_tls("localhost"), with_certificate(s)),
    ),
    "no authority in the file": (
        "ca_file of Tls",
        lambda s: (s.with_tls(), Tls(ca_file=s.certificates.client_key)),
    ),
    "no key in the file": (
        "key_file or key_password of Tls",
        lambda s: (s.with_tls(), with_certificate(s, key_file=s.certificates.ca)),
    ),
    "wrong password": ("the password", lambda s: (s.at("alice", WRONG), False)),
    "nobody": ("refuses the user", lambda s: (s.at("mallory", WRONG), False)),
    "no such virtual host": (
        "virtual host",
        lambda s: (s.at("alice", vhost="nowhere"), False),
    ),
    "virtual host of others": ("virtual host", lambda s: (s.at("bob", vhost=OTHER), False)),
}


async def refusal(address: str, tls: bool | Tls, within: float = WITHIN_S) -> BrokerError:
    """What entering raises, within the deadline."""
    broker = RabbitMQBroker(address, tls=tls or None, connect_timeout=within)
    began = time.monotonic()
    with pytest.raises(BrokerError) as caught:
        await broker.__aenter__()
    assert time.monotonic() - began < within + 1
    assert_hidden(caught.value)
    return caught.value


@pytest.mark.fault("SEC-01", "SEC-13")
@pytest.mark.parametrize("why", REFUSED)
async def test_who_is_refused(
    why: str, secure_rabbitmq: SecureRabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    """A typed error that says where to look, at once, and no secret in it or in the log."""
    caplog.set_level(logging.DEBUG)
    said, made = REFUSED[why]
    error = await refusal(*made(secure_rabbitmq))
    assert isinstance(error, BrokerAuthenticationError)
    assert said in str(error)
    assert not error.retriable
    assert PASSWORD not in caplog.text
    assert WRONG not in caplog.text


@pytest.mark.fault("SEC-13")
async def test_no_certificate_of_ours(secure_rabbitmq: SecureRabbitMQ) -> None:
    """What the server says about that can be overtaken by its hanging up: both errors ask for it.

    TLS 1.3 is done for a client before the server has seen who it is.
    """
    error = await refusal(secure_rabbitmq.with_tls(), trusting(secure_rabbitmq))
    assert isinstance(error, (BrokerAuthenticationError, BrokerConnectionError))
    assert "asks for a certificate, or does not trust ours" in str(error)


@pytest.mark.fault("SEC-13")
async def test_a_certificate_that_has_expired(secure_rabbitmq: SecureRabbitMQ) -> None:
    """Refused, and trusted again once the server shows another one."""
    server, tls = secure_rabbitmq, with_certificate(secure_rabbitmq)
    server.shows(server.certificates.expired)
    try:
        error = await refusal(server.with_tls(), tls)
        assert isinstance(error, BrokerAuthenticationError)
        assert "has expired" in str(error)
    finally:
        server.shows(server.certificates.server)
    async with RabbitMQBroker(server.with_tls(), tls=tls) as broker:
        await goes_round(broker)


@pytest.mark.fault("SEC-13")
async def test_tls_on_one_side_alone(secure_rabbitmq: SecureRabbitMQ) -> None:
    """Nothing in the protocol says so; the error asks, and trying again may help."""
    server = secure_rabbitmq
    to_plain = server.with_tls(port=server.port), with_certificate(server)
    to_tls = server.at("alice").replace(f":{server.port}/", f":{server.tls_port}/"), False
    for (address, tls), said in ((to_plain, "has no TLS"), (to_tls, "wants TLS")):
        error = await refusal(address, tls)
        assert isinstance(error, BrokerConnectionError)
        assert f"perhaps this port {said}" in str(error)
        assert error.retriable


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_server_that_stands_still(is_tls: bool, secure_rabbitmq: SecureRabbitMQ) -> None:
    """The deadline holds in the middle of a handshake, too."""
    server = secure_rabbitmq
    made = (server.with_tls(), with_certificate(server)) if is_tls else (server.at("alice"), False)
    server.freeze()
    try:
        error = await refusal(made[0], made[1], within=1.0)
    finally:
        server.thaw()
    assert isinstance(error, BrokerConnectionError)
    assert "did not answer within 1 s" in str(error)


async def test_one_of_several_can_not_be_trusted(secure_rabbitmq: SecureRabbitMQ) -> None:
    """The others are enough; when none is left, the error has the reason of each."""
    server = secure_rabbitmq
    untrusted, trusted = f"localhost:{server.tls_port}", f"127.0.0.1:{server.tls_port}"
    address = server.with_tls().replace(trusted, f"{untrusted},{trusted}")
    async with RabbitMQBroker(address, tls=with_certificate(server)) as broker:
        await goes_round(broker)
    error = await refusal(address.replace(trusted, "127.0.0.1:1"), with_certificate(server))
    assert isinstance(error, BrokerConnectionError)
    assert "Hostname mismatch" in str(error)
    assert "127.0.0.1:1 can't be reached" in str(error)


async def test_certificates_are_read_anew(
    secure_rabbitmq: SecureRabbitMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that can't be used while a connection comes back keep it away, and no longer."""
    monkeypatch.setattr("eventflow.brokers.rabbitmq._link.REFUSED_WAIT_S", 0.2)
    server = secure_rabbitmq
    ca = tmp_path / "ca.pem"
    ca.write_bytes(server.certificates.ca.read_bytes())
    tls = with_certificate(server, ca_file=ca)
    async with RabbitMQBroker(server.with_tls(), tls=tls) as broker:
        ca.write_bytes(b"")
        server.control("close_all_connections", "test")
        await until(lambda: "ca_file" in broker.problem)
        ca.write_bytes(server.certificates.ca.read_bytes())
        async with asyncio.timeout(15):
            await goes_round(broker)


async def test_lines_of_the_client_library(
    secure_rabbitmq: SecureRabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    """No errors and tracebacks about our connections; those of others are theirs."""
    server = secure_rabbitmq

    def lines() -> list[logging.LogRecord]:
        found = [one for one in caplog.records if one.name.startswith("aiormq")]
        caplog.clear()
        return [one for one in found if one.levelno >= logging.ERROR or one.exc_info]

    theirs: Any = await aiormq.connect(server.at("alice"))
    async with RabbitMQBroker(server.at("alice")) as broker:
        await goes_round(broker)
        assert not lines()
        server.control("close_all_connections", "test")
        async with asyncio.timeout(15):
            with pytest.raises(aiormq.exceptions.AMQPConnectionError):
                await theirs.closing
        await until(lambda: "eventflow.broker_back" in caplog.text)
        assert "eventflow.broker_lost" in caplog.text
        about = lines()
        assert [one.getMessage() for one in about if "Unexpected connection close" in one.msg]
        assert len(about) == len({(one.msg, one.levelno) for one in about}), "theirs alone"
    await refusal("amqp://127.0.0.1:1", tls=False)
    assert not lines()
    with pytest.raises(ConnectionError):
        await aiormq.connect("amqp://127.0.0.1:1")
    assert lines()


@pytest.mark.parametrize(
    ("error", "is_begun", "kind"),
    [
        (ConnectionResetError(104, "reset"), True, BrokerConnectionError),
        (ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), True, BrokerAuthenticationError),
        (ssl_error("TLSV1_ALERT_UNKNOWN_CA"), False, BrokerAuthenticationError),
    ],
)
def test_both_ways_to_be_asked_for_a_certificate(
    error: Exception, is_begun: bool, kind: type[BrokerError]
) -> None:
    """As the one or the other comes from the network."""
    found = connection_error(error, "h:1", None, is_tls=True, is_begun=is_begun)
    assert type(found) is kind
    assert "asks for a certificate, or does not trust ours" in str(found)
