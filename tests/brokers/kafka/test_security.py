"""Who may come in, and who is believed: a real cluster with TLS and SASL."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
import traceback
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.kafka import KafkaBroker, OAuthBearer, Sasl, Tls, Token
from eventflow.errors import BrokerAuthenticationError, BrokerConnectionError, BrokerError
from eventflow.messaging import Message, connect
from tests.brokers.kafka.support import broker_at, side_by_side
from tests.servers.certificates import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.secure_kafka import SecureKafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]
WRONG = "hunter2-canary"


def alice(mechanism: str = "SCRAM-SHA-512", password: str = PASSWORD) -> Sasl:
    return Sasl(username="alice", password=password, mechanism=mechanism)


def part(claims: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()


def unsigned_token() -> Token:
    """What the test's cluster takes; a real one wants a signature."""
    now = time.time()
    claims = {"sub": "alice", "iat": now, "exp": now + 600}
    return Token(f"{part({'alg': 'none'})}.{part(claims)}.", 600)


def trusting(server: SecureKafka, **more: Any) -> Tls:
    return Tls(ca_file=server.certificates.ca, **more)


def with_certificate(server: SecureKafka) -> Tls:
    files = server.certificates
    return trusting(server, certificate_file=files.client, key_file=files.client_key)


Made = dict[str, Any]
COMERS: dict[str, Callable[[SecureKafka], Made]] = {
    "certificate": lambda s: {"hosts": s.at("tls"), "tls": with_certificate(s)},
    "plain": lambda s: {"hosts": s.at("sasltls"), "tls": trusting(s), "sasl": alice("PLAIN")},
    "scram-256": lambda s: {
        "hosts": s.at("sasltls"),
        "tls": trusting(s),
        "sasl": alice("SCRAM-SHA-256"),
    },
    "scram-512": lambda s: {"hosts": s.at("sasltls"), "tls": trusting(s), "sasl": alice()},
    "scram without tls": lambda s: {"hosts": s.at("saslplain"), "sasl": alice()},
    "token": lambda s: {
        "hosts": s.at("sasltls"),
        "tls": trusting(s),
        "sasl": OAuthBearer(unsigned_token),
    },
}


async def goes_round(broker: KafkaBroker) -> None:
    """Everything that makes a client of its own: a topic, a publish, a group, its lag."""
    topic = f"secured.{uuid.uuid4().hex[:12]}"
    await broker.ensure_topics(topic, partitions=1)
    await broker.publisher().publish(topic, Message(b"x"))
    for subscriber in (
        broker.subscriber(group=topic),
        broker.subscriber(group=f"{topic}.exactly-once", transactional=True),
    ):
        assert await subscriber.lag(topic) == 1
        async with subscriber.subscribe(topic) as deliveries:
            (delivery,) = await deliveries.receive()
            assert delivery.ack()
            await delivery.settled()
        assert await subscriber.lag(topic) == 0


async def test_who_may_come_in(secure_kafka: SecureKafka, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate, each mechanism, a token: all that a broker does works, and nothing blocks."""
    gap, stop = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal gap
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            before = loop.time()
            await asyncio.sleep(0.01)
            gap = max(gap, loop.time() - before)

    async def comes_in(who: str) -> None:
        async with asyncio.timeout(60), broker_at(**COMERS[who](secure_kafka)) as broker:
            await goes_round(broker)

    watching = asyncio.create_task(watch())
    await side_by_side(comes_in, COMERS)
    stop.set()
    await watching
    assert gap < 0.9, "the client library waits a second for the first token"
    assert "kafka_tls_weakened" not in caplog.text


async def test_by_an_address(secure_kafka: SecureKafka) -> None:
    """User, password and the authority's file in it."""
    password = "".join(f"%{byte:02X}" for byte in PASSWORD.encode())
    broker = connect(
        f"kafka://alice:{password}@{secure_kafka.at('sasltls')}"
        f"?sasl=PLAIN&ca_file={secure_kafka.certificates.ca}"
    )
    assert isinstance(broker, KafkaBroker)
    async with broker:
        await goes_round(broker)


NO_TOKEN = "no token"


def fails() -> Token:
    raise LookupError(WRONG)


def wrong(server: SecureKafka, mechanism: str) -> Made:
    sasl = alice(mechanism, WRONG)
    return {"hosts": server.at("sasltls"), "tls": trusting(server), "sasl": sasl}


REFUSED: dict[str, tuple[str, Callable[[SecureKafka], Made]]] = {
    "wrong ca": (
        "another host, has expired, or",
        lambda s: {"hosts": s.at("tls"), "tls": Tls(ca_file=s.certificates.other_ca)},
    ),
    "no ca": ("another host, has expired, or", lambda s: {"hosts": s.at("tls"), "tls": True}),
    "other host": (
        "another host, has expired, or",
        lambda s: {"hosts": s.at("tls", "localhost"), "tls": with_certificate(s)},
    ),
    "expired": (
        "another host, has expired, or",
        lambda s: {"hosts": s.at("expired"), "tls": trusting(s)},
    ),
    "no certificate": (
        "certificate_file",
        lambda s: {"hosts": s.at("tls"), "tls": trusting(s)},
    ),
    "wrong password, PLAIN": ("credentials", lambda s: wrong(s, "PLAIN")),
    "wrong password, SCRAM-SHA-256": ("credentials", lambda s: wrong(s, "SCRAM-SHA-256")),
    "wrong password, SCRAM-SHA-512": ("credentials", lambda s: wrong(s, "SCRAM-SHA-512")),
    "no login there": (
        "credentials",
        lambda s: {"hosts": s.address, "sasl": alice("PLAIN", WRONG)},
    ),
    "bad token": (
        "credentials",
        lambda s: {
            "hosts": s.at("sasltls"),
            "tls": trusting(s),
            "sasl": OAuthBearer(lambda: Token(WRONG, 60)),
        },
    ),
    NO_TOKEN: (
        "credentials",
        lambda s: {
            "hosts": s.at("sasltls"),
            "tls": trusting(s),
            "sasl": OAuthBearer(fails),
        },
    ),
}


@pytest.mark.fault("SEC-13")
async def test_who_is_refused(secure_kafka: SecureKafka, caplog: pytest.LogCaptureFixture) -> None:
    """A typed error that says where to look, by the deadline, and no secret in it or in the log.

    Where no token comes, within the library's 10 s; what its function raised is not shown, the type
    is.
    """
    caplog.set_level(logging.DEBUG)

    async def is_refused(why: str) -> None:
        said, made = REFUSED[why]
        broker = KafkaBroker(**made(secure_kafka), connect_timeout=3.0)
        began = time.monotonic()
        with pytest.raises(BrokerAuthenticationError, match=said) as caught:
            await broker.__aenter__()
        assert time.monotonic() - began < (20 if why == NO_TOKEN else 7)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        ours = [line for line in shown.format() if f'File "{ROOT}/tests' not in line]
        assert WRONG not in "".join(ours)
        assert not caught.value.retriable

    await side_by_side(is_refused, REFUSED)
    assert WRONG not in caplog.text
    assert "kafka_token_failed" in caplog.text
    assert "LookupError" in caplog.text


async def test_what_wants_tls_or_a_login(secure_kafka: SecureKafka) -> None:
    """Nothing in the protocol says so: the error asks."""
    for listener in ("tls", "saslplain"):
        broker = KafkaBroker(secure_kafka.at(listener), connect_timeout=1.0)
        with pytest.raises(BrokerConnectionError, match="perhaps it wants TLS or a login"):
            await broker.__aenter__()


async def test_what_has_no_tls(secure_kafka: SecureKafka) -> None:
    """It hangs up in the middle, as one does that is going away: trying again may help."""
    broker = KafkaBroker(secure_kafka.address, tls=trusting(secure_kafka), connect_timeout=1.0)
    with pytest.raises(BrokerConnectionError, match="perhaps this port has no TLS") as caught:
        await broker.__aenter__()
    assert caught.value.retriable


async def test_one_of_several_can_not_be_trusted(secure_kafka: SecureKafka) -> None:
    """The others are enough, and what it says is forgotten once one of them has answered."""
    hosts = f"{secure_kafka.at('expired')},{secure_kafka.at('sasltls')}"
    options: Made = {"tls": trusting(secure_kafka), "sasl": alice()}
    async with KafkaBroker(hosts, **options, connect_timeout=15.0) as broker:
        await goes_round(broker)
        secure_kafka.freeze()
        try:
            with pytest.raises(BrokerConnectionError):
                await broker.look_up("frozen", within=1.5)
        finally:
            secure_kafka.thaw()
        await goes_round(broker)


@pytest.mark.fault("SEC-01")
async def test_no_secret_is_in_what_fails_later(secure_kafka: SecureKafka) -> None:
    """A topic that the cluster refuses, a lag that nobody waits for."""
    async with KafkaBroker(
        secure_kafka.at("sasltls"), tls=trusting(secure_kafka), sasl=alice()
    ) as broker:
        for failing in (
            broker.ensure_topics("too.many", replication_factor=99),
            broker.ensure_topics("wrong", properties={"no.such.property": "x"}),
            broker.lag("no.such.topic", "g"),
        ):
            with pytest.raises(BrokerError) as caught:
                await failing
            shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            assert PASSWORD not in "".join(shown.format())


async def test_tls_that_believes_anybody_is_loud(
    secure_kafka: SecureKafka, caplog: pytest.LogCaptureFixture
) -> None:
    """Possible by properties= alone, and never unseen."""
    weak = {"ssl.endpoint.identification.algorithm": "none"}
    async with KafkaBroker(
        secure_kafka.at("sasltls", "localhost"),
        tls=trusting(secure_kafka),
        sasl=alice(),
        properties=weak,
    ):
        pass
    assert "kafka_tls_weakened" in caplog.text
