"""What a `RabbitMQBroker` is told, checked."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast
from urllib.parse import quote

from eventflow._log import EventLogger
from eventflow._texts import is_text
from eventflow.brokers._tls import TLS_FILES, Tls, check_tls
from eventflow.brokers.rabbitmq.topology import MAX_NAME, PubSub, Topology, check_topology
from eventflow.errors import InvalidDsnError, InvalidOptionError
from eventflow.lifecycle.options import check_seconds, check_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventflow.messaging import Dsn

__all__ = ("Settings", "check_hosts", "from_dsn")

PORT, TLS_PORT = 5672, 5671
LONGEST_HEARTBEAT = 3_600
MAX_VHOST = 127
"""Most characters of its name that the client library writes."""
MAX_PAYLOAD = 128 * 1_024 * 1_024
"""Bytes of a message that a server takes, unless it is told otherwise."""

SCHEMES = ("amqp", "amqps")

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?", re.ASCII)
_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)
_NUMBERS = {
    "publish_timeout": _DECIMAL,
    "connect_timeout": _DECIMAL,
    "consumer_timeout": _DECIMAL,
    "heartbeat": _WHOLE,
    "max_payload_bytes": _WHOLE,
}


log = EventLogger("eventflow.rabbitmq")


class Settings(NamedTuple):
    """Checked settings of a broker.

    Attributes:
        hosts: Where to find it: hosts with ports, tried in turn.
        username: Who logs in.
        password: The password.
        vhost: The virtual host.
        topology: Where messages go, unless a publisher or subscriber says otherwise.
        publish_timeout: Seconds a publish may last.
        connect_timeout: Seconds of one attempt to connect.
        delays: Whether messages can wait.
        heartbeat: Seconds between two signs of life; silence is noticed after twice as many.
        consumer_timeout: Seconds after which the server takes back what is not settled.
        max_payload_bytes: Largest payload.
        tls: Whether there is TLS, and whom to trust.
    """

    hosts: tuple[tuple[str, int], ...]
    username: str = "guest"
    password: str = "guest"  # noqa: S105 - RabbitMQ's own default
    vhost: str = "/"
    topology: Topology = PubSub()
    publish_timeout: float = 30.0
    connect_timeout: float = 10.0
    delays: bool = True
    heartbeat: int = 10
    consumer_timeout: float = 1_800.0
    max_payload_bytes: int = 16 * 1_024 * 1_024
    tls: bool | Tls = False

    def __repr__(self) -> str:
        """Hosts and virtual host."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"<{hosts}, virtual host {self.vhost!r}>"

    def url(self, host: str, port: int) -> str:
        """What the client library is told."""
        scheme = "amqps" if self.tls else "amqp"
        who = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}"
        name = f"[{host}]" if ":" in host else host
        return f"{scheme}://{who}@{name}:{port}/?heartbeat={self.heartbeat}"

    def checked(self) -> Self | InvalidOptionError:
        """Them, or what is wrong with them.

        Returned, so that no frame here, which knows a password, is in a traceback.
        """
        try:
            self._check()
        except InvalidOptionError as exc:
            return InvalidOptionError(*exc.args, option=exc.option)
        return self

    def _check(self) -> None:
        check_seconds("publish_timeout", self.publish_timeout, least=0.001)
        check_seconds("connect_timeout", self.connect_timeout, least=0.001)
        check_seconds("consumer_timeout", self.consumer_timeout, least=0.001)
        check_whole("heartbeat", self.heartbeat)
        check_whole("max_payload_bytes", self.max_payload_bytes)
        if self.heartbeat > LONGEST_HEARTBEAT:
            raise InvalidOptionError(
                f"heartbeat is 1 to {LONGEST_HEARTBEAT:,} seconds", option="heartbeat"
            )
        if self.max_payload_bytes > MAX_PAYLOAD:
            raise InvalidOptionError(
                f"max_payload_bytes is at most {MAX_PAYLOAD:,}: no server takes more",
                option="max_payload_bytes",
            )
        if not isinstance(cast("object", self.delays), bool):
            raise InvalidOptionError("delays is True or False", option="delays")
        for option in ("username", "password", "vhost"):
            value = getattr(self, option)
            if not (is_text(value) and value):
                raise InvalidOptionError(f"{option} is a text, not empty", option=option)
        if len(self.vhost) > MAX_VHOST or len(self.vhost.encode()) > MAX_NAME:
            raise InvalidOptionError(
                f"vhost has at most {MAX_VHOST} characters, and {MAX_NAME} bytes", option="vhost"
            )
        check_topology(self.topology)
        check_tls(self.tls)

    def warn(self) -> None:
        """Say what of it is dangerous."""
        open_hosts = [host for host, _ in self.hosts if not _is_here(host)]
        if open_hosts and not self.tls:
            log.warning("eventflow.rabbitmq_password_readable", hosts=open_hosts)


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_hosts(given: str) -> None:
    """Refuse what is no hosts, without repeating any of it.

    Raises:
        InvalidOptionError: They are none.
    """
    if not all(_HOST.fullmatch(part) for part in given.split(",")):
        raise InvalidOptionError(
            "hosts are such as 'host:5672', or 'host:5672,other:5672'; an address with amqp:// "
            "goes to connect()",
            option="hosts",
        )


def from_dsn(
    dsn: Dsn, options: Mapping[str, Any]
) -> Settings | InvalidDsnError | InvalidOptionError:
    """The settings that an address and options stand for, or what is wrong with them.

    Returned rather than raised, so that no frame here, which knows a password, is in a traceback.
    """
    if wrong := _wrong(dsn):
        return InvalidDsnError(wrong, scheme=dsn.scheme)
    given: dict[str, Any] = {"vhost": dsn.path[1:] or "/"}
    for name, text in dsn.query.items():
        if name == "delays":
            given[name] = text == "true"
        elif name in _NUMBERS:
            given[name] = float(text) if _NUMBERS[name] is _DECIMAL else int(text)
    if dsn.user is not None:
        given |= {"username": dsn.user, "password": dsn.password}
    if dsn.scheme == "amqps":
        files = {name: dsn.query[name] for name in TLS_FILES if name in dsn.query}
        given["tls"] = Tls(**files) if files else True
    unknown = options.keys() - {*Settings._fields[1:]}
    if unknown:
        name = min(unknown)
        return InvalidOptionError(
            f"a RabbitMQBroker has no option {name!r}. Options are: "
            f"{', '.join(Settings._fields[1:])}",
            option=name,
        )
    if options.get("tls") is False and dsn.scheme == "amqps":
        return InvalidOptionError("an amqps:// address is TLS, and tls=False is none", option="tls")
    # None is as if it were not said.
    given |= {name: value for name, value in options.items() if (name, value) != ("tls", None)}
    usual = TLS_PORT if given.get("tls") else PORT
    hosts = tuple((host.strip("[]"), port or usual) for host, port in dsn.hosts)
    return Settings(hosts, **given).checked()


def _wrong(dsn: Dsn) -> str:
    """What is wrong with an address; empty if nothing is."""
    if dsn.scheme not in SCHEMES:
        return f"the address of a RabbitMQ begins with amqp:// or amqps://, not {dsn.scheme}://"
    means = f"an {dsn.scheme}:// address"
    if bool(dsn.user) != bool(dsn.password):
        return f"{means} has both a user and a password, or none"
    if not dsn.hosts:
        port = TLS_PORT if dsn.scheme == "amqps" else PORT
        return f"{means} has a host, as in {dsn.scheme}://host:{port}/vhost"
    for name, text in dsn.query.items():
        if name in TLS_FILES:
            if dsn.scheme != "amqps":
                return f"files for TLS go with amqps://, and not with {dsn.scheme}://"
        elif name == "delays":
            if text not in ("true", "false"):
                return f"delays in {means} is true or false"
        elif name not in _NUMBERS:
            names = ", ".join((*_NUMBERS, "delays", *TLS_FILES))
            return f"the query of {means} has {names}, and not what else it has"
        elif not _NUMBERS[name].fullmatch(text):
            return f"{name} in {means} is a number"
    return ""
