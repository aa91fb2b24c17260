"""What a `KafkaBroker` is told, checked, and what the client library is told because of it."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from eventflow._log import EventLogger
from eventflow.brokers.kafka.security import (
    MECHANISMS,
    STRONG,
    OAuthBearer,
    Sasl,
    Tls,
    check_security,
    security_properties,
    weakened,
)
from eventflow.errors import InvalidDsnError, InvalidOptionError, InvalidTopicError
from eventflow.events import validate_topic
from eventflow.lifecycle.options import check_seconds, check_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.messaging import Dsn

__all__ = ("HEADROOM", "ClientLog", "Settings", "check_hosts", "check_topic", "from_dsn")

DEFAULT_PORT = 9092
MAX_TOPIC = 249
"""Most characters of a topic's name in Kafka."""
DEADLINE_SHARE = 0.9
"""Of the publisher's deadline: the library looks once per second which records are too late."""
MAX_QUEUED = 100_000
"""Records that wait to be sent; then publishers wait."""
TRANSACTION_MS = 10_000
"""After that the cluster aborts a transaction that a process has left open."""
HEADROOM = 48_588
"""What a record may have beside its payload, within Kafka's default of 1,048,588 bytes a batch."""

ASSIGNORS = ("cooperative-sticky", "range", "roundrobin")
PARTITIONERS = {
    "murmur2": "murmur2_random",
    "fnv1a": "fnv1a_random",
    "crc32": "consistent_random",
}
OURS = {
    "acks": "a publish is confirmed by all replicas in sync",
    "allow.auto.create.topics": "topics are created by ensure_topics()",
    "auto.offset.reset": "a new group begins with the oldest message",
    "bootstrap.servers": "say it as the first argument",
    "delivery.timeout.ms": "say publish_timeout=",
    "enable.auto.commit": "offsets are committed when messages are acked",
    "enable.auto.offset.store": "offsets are committed when messages are acked",
    "enable.idempotence": "a publish is not repeated by the client library unseen",
    "group.instance.id": "members of a group have no lasting names yet",
    "group.id": "say it as subscriber(group=…)",
    "message.max.bytes": "say max_payload_bytes=",
    "message.timeout.ms": "say publish_timeout=",
    "partition.assignment.strategy": "say assignor=",
    "partitioner": "say partitioner=",
    "queue.buffering.max.messages": "publishers wait for room by themselves",
    "sasl.mechanism": "say sasl=",
    "sasl.mechanisms": "say sasl=",
    "sasl.password": "say sasl=Sasl(…)",
    "sasl.username": "say sasl=Sasl(…)",
    "security.protocol": "say tls= and sasl=",
    "session.timeout.ms": "say session_timeout=",
    "transaction.timeout.ms": "what a killed process began holds up readers for 10 s",
    "transactional.id": "say subscriber(group=…, transactional=True)",
}
"""Properties of the client library that may not be set, and why."""

HOLD_BACK_S = 10.0
MOST_KINDS = 100

_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?", re.ASCII)
_PROPERTY = re.compile(r"[a-z][a-z0-9]*(?:\.[a-z0-9]+)+", re.ASCII)

log = EventLogger("eventflow.kafka")


class ClientLog:
    """Where the client library's own lines go: it calls ``log`` as that of stdlib's loggers.

    A broker that is away is tried many times a second. What differs from an earlier line in numbers
    alone is held back for 10 s, then counted.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._held: Counter[str] = Counter()

    def log(self, level: int, text: str, *parts: object) -> None:
        """Write one line. Which of its properties mean something is nobody's news."""
        facility, *rest = parts or ("",)
        if facility == "CONFWARN":
            return
        said = " ".join(map(str, rest)) or text
        key, now = f"{facility} {_NUMBER.sub('', said)}", self._clock()
        if now < self._until.get(key, 0.0):
            self._held[key] += 1
            return
        if len(self._until) >= MOST_KINDS:
            self._until.clear()
            self._held.clear()
        self._until[key] = now + HOLD_BACK_S
        held = self._held.pop(key, 0)
        repeats = {"held_back": held} if held else {}
        if level >= logging.WARNING:
            log.warning("eventflow.kafka_client_warned", about=facility, text=said, **repeats)
        else:
            log.info("eventflow.kafka_client_said", about=facility, text=said, **repeats)


def check_topic(topic: str) -> str:
    """Return a topic, or say what is wrong with it.

    Raises:
        InvalidTopicError: It is none, or longer than Kafka takes.
    """
    validate_topic(topic)
    if len(topic) > MAX_TOPIC:
        raise InvalidTopicError(
            f"the name of a topic in Kafka has at most {MAX_TOPIC} characters, not {len(topic)}",
            topic=topic,
        )
    return topic


class Settings(NamedTuple):
    """Checked settings of a broker."""

    hosts: tuple[str, ...]
    publish_timeout: float = 30.0
    connect_timeout: float = 10.0
    session_timeout: float = 10.0
    revoke_timeout: float = 10.0
    max_payload_bytes: int = 1_000_000
    assignor: str = "cooperative-sticky"
    partitioner: str = "murmur2"
    delays: bool = False
    tls: bool | Tls | None = None
    sasl: Sasl | OAuthBearer | None = None
    properties: Mapping[str, str | int | float | bool] = {}

    def __repr__(self) -> str:
        """Its hosts: the properties may have a password."""
        return f"<Settings for {','.join(self.hosts)}>"

    @classmethod
    def read(cls, hosts: object, given: Mapping[str, Any]) -> Self | InvalidOptionError:
        """Settings from arguments, or what is wrong with them.

        Returned, so that no frame here is in a traceback: the properties may have a password.
        """
        try:
            return cls._checked(hosts, given)
        except InvalidOptionError as exc:
            return InvalidOptionError(*exc.args, option=exc.option)

    @classmethod
    def _checked(cls, hosts: object, given: Mapping[str, Any]) -> Self:
        unknown = given.keys() - (set(cls._fields) - {"hosts"})
        if unknown:
            raise InvalidOptionError(
                f"a Kafka broker has no option {min(unknown)!r}. Options are: "
                f"{', '.join(cls._fields[1:])}",
                option=min(unknown),
            )
        settings = cls(check_hosts(hosts), **given)
        check_seconds("publish_timeout", settings.publish_timeout, least=1.0)
        check_seconds("connect_timeout", settings.connect_timeout, least=0.1)
        check_seconds("session_timeout", settings.session_timeout, least=1.0)
        check_seconds("revoke_timeout", settings.revoke_timeout)
        check_whole("max_payload_bytes", settings.max_payload_bytes)
        _one_of("assignor", settings.assignor, ASSIGNORS)
        _one_of("partitioner", settings.partitioner, tuple(PARTITIONERS))
        _one_of("delays", settings.delays, (False, True))
        check_security(settings.hosts, settings.tls, settings.sasl)
        return settings._replace(properties=_properties(settings.properties))

    def warn(self) -> None:
        """Say what of it is dangerous."""
        if self.tls and (names := weakened(self.properties)):
            log.warning("eventflow.kafka_tls_weakened", properties=names)

    @property
    def makes_tokens(self) -> bool:
        """Whether making a client waits for a token: that blocks."""
        return isinstance(self.sasl, OAuthBearer) and self.sasl.token is not None

    @property
    def is_eager(self) -> bool:
        """Whether a rebalance takes everything away first."""
        return self.assignor != "cooperative-sticky"

    def producer(self) -> dict[str, Any]:
        """The configuration of the producer."""
        return {
            "queue.buffering.max.messages": MAX_QUEUED,
            "linger.ms": 1,
            **self._common(),
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": round(self.publish_timeout * 1_000 * DEADLINE_SHARE),
            "message.max.bytes": self.max_payload_bytes + HEADROOM,
            "partitioner": PARTITIONERS[self.partitioner],
        }

    def transactional_producer(self, group: str) -> dict[str, Any]:
        """The configuration of a producer that commits for one consumer of a group."""
        return {
            # After one transaction the cluster needs milliseconds until it takes the next one.
            "retry.backoff.ms": 5,
            "topic.metadata.propagation.max.ms": 2_000,  # publishers have looked it up before
            **self.producer(),
            "message.timeout.ms": TRANSACTION_MS - 1_000,
            "transaction.timeout.ms": TRANSACTION_MS,
            # Another one each time: the group's word on the consumer fences, not this name.
            "transactional.id": f"eventflow-{group}-{uuid.uuid4().hex}",
        }

    def consumer(self, group: str) -> dict[str, Any]:
        """The configuration of a consumer."""
        session = round(self.session_timeout * 1_000)
        return {
            "heartbeat.interval.ms": max(100, min(1_000, session // 3)),
            "queued.max.messages.kbytes": 16_384,
            "topic.metadata.refresh.interval.ms": 10_000,
            **self._common(),
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": False,
            "partition.assignment.strategy": self.assignor,
            "session.timeout.ms": session,
            "fetch.message.max.bytes": self.max_payload_bytes + HEADROOM,
        }

    def admin(self) -> dict[str, Any]:
        """The configuration of the connection for questions."""
        return self._common()

    def _common(self) -> dict[str, Any]:
        return {
            "reconnect.backoff.max.ms": 1_000,
            **self.properties,
            **security_properties(self.tls, self.sasl),
            "allow.auto.create.topics": False,
            "bootstrap.servers": ",".join(self.hosts),
            "logger": ClientLog(),
        }


def check_hosts(given: object) -> tuple[str, ...]:
    """Return hosts with their ports, or say what is wrong, without repeating any of it.

    Raises:
        InvalidOptionError: They are none.
    """
    hosts = tuple(part.strip() for part in given.split(",")) if isinstance(given, str) else ()
    if not hosts or not all(_HOST.fullmatch(host) for host in hosts):
        raise InvalidOptionError(
            "hosts are such as 'host:9092', or 'host:9092,other:9092'; an address with "
            "kafka:// goes to connect()",
            option="hosts",
        )
    return tuple(host if _has_port(host) else f"{host}:{DEFAULT_PORT}" for host in hosts)


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _one_of(option: str, value: object, choices: tuple[str | bool, ...]) -> None:
    if value not in choices:
        raise InvalidOptionError(
            f"{option} is one of {', '.join(map(str, choices))}, not {value!r}", option=option
        )


def _properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """The library's properties; their names are checked by it, when the broker is entered."""
    if not isinstance(cast("object", given), Mapping):
        raise InvalidOptionError("properties are texts and numbers by name", option="properties")
    for name, value in given.items():
        if not isinstance(cast("object", name), str):
            raise InvalidOptionError("the name of a property is a text", option="properties")
        if name in OURS:
            raise InvalidOptionError(
                f"the property {name!r} is set by eventflow: {OURS[name]}", option="properties"
            )
        if not _PROPERTY.fullmatch(name):
            raise InvalidOptionError(
                f"properties are those of librdkafka, such as 'linger.ms', not {name!r}",
                option="properties",
            )
        if not isinstance(value, (str, int, float)):
            raise InvalidOptionError(
                f"the property {name!r} is a text or a number", option="properties"
            )
    return dict(given)


_NUMBERS: dict[str, type[int | float]] = {
    "publish_timeout": float,
    "connect_timeout": float,
    "session_timeout": float,
    "revoke_timeout": float,
    "max_payload_bytes": int,
}
_FILES = ("ca_file", "certificate_file", "key_file")
_SWITCH = {"true": True, "false": False}
_WORDS = {
    "sasl": MECHANISMS,
    "tls": tuple(_SWITCH),
    "delays": tuple(_SWITCH),
    "assignor": ASSIGNORS,
    "partitioner": tuple(PARTITIONERS),
}
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,12}", re.ASCII)


def from_dsn(dsn: Dsn, given: Mapping[str, Any]) -> Settings | InvalidDsnError | InvalidOptionError:
    """Settings from an address, and from options, which go before what it says.

    Or what is wrong with them: nothing of the address is repeated, as half of a password that was
    not encoded can be anywhere in it.
    """
    wrong = _wrong(dsn)
    if wrong:
        return InvalidDsnError(wrong, scheme=dsn.scheme)
    options: dict[str, Any] = {}
    properties: dict[str, str] = {}
    for name, text in dsn.query.items():
        if name in _NUMBERS:
            options[name] = _NUMBERS[name](text)
        elif name in _FILES or name in {"sasl", "tls"}:
            pass
        elif name == "delays":
            options[name] = _SWITCH[text]
        elif name in _WORDS:
            options[name] = text
        else:
            properties[name] = text
    if properties:
        options["properties"] = properties
    if files := {name: dsn.query[name] for name in _FILES if name in dsn.query}:
        options["tls"] = Tls(**files)
    elif "tls" in dsn.query:
        options["tls"] = _SWITCH[dsn.query["tls"]]
    if dsn.user:
        mechanism = {"mechanism": dsn.query["sasl"]} if "sasl" in dsn.query else {}
        options["sasl"] = Sasl(username=dsn.user, password=dsn.password or "", **mechanism)
    hosts = ",".join(f"{host}:{port or DEFAULT_PORT}" for host, port in dsn.hosts)
    return Settings.read(hosts, {**options, **given})


def _wrong(dsn: Dsn) -> str:
    """What is wrong with an address; empty if nothing is."""
    if bool(dsn.user) != bool(dsn.password) or ("sasl" in dsn.query and not dsn.user):
        return "a kafka:// address has both a user and a password, or none and no sasl="
    if dsn.query.get("tls") == "false" and any(name in dsn.query for name in _FILES):
        return "a kafka:// address has files for TLS, or tls=false"
    if not dsn.hosts or dsn.path.strip("/"):
        return "a kafka:// address has hosts and no path, as in kafka://host:9092,other:9092"
    for name, text in dsn.query.items():
        if name in _NUMBERS:
            if not (_DECIMAL if _NUMBERS[name] is float else _WHOLE).fullmatch(text):
                return f"{name} in a kafka:// address is a number"
        elif name in _WORDS:
            if text not in _WORDS[name]:
                return f"{name} in a kafka:// address is one of {', '.join(_WORDS[name])}"
        elif name in STRONG:
            return f"{name} in a kafka:// address would let anybody pose as the broker"
        elif name in _FILES:
            continue
        elif name in OURS or not _PROPERTY.fullmatch(name):
            return (
                "the query of a kafka:// address has options of KafkaBroker, such as "
                "publish_timeout=5, and properties of librdkafka, such as linger.ms=5, but for "
                "those that eventflow sets"
            )
    return ""
