"""`Dsn`: the address of a broker, read once; its password shows nowhere.

Nothing that could be part of a password is repeated in an error, in what the error carries, or in
the local variables of the frames it passes: an address that can't be read may have its password
anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from eventflow.errors import InvalidDsnError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("Dsn", "read")

MASK = "***"
MAX_LENGTH = 4_096

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,23}", re.ASCII)
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+(?:%25[\w.-]+)?\]|[A-Za-z0-9_.-]+", re.ASCII)
_HOST_AND_PORT = re.compile(rf"(?P<host>{_HOST.pattern})(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)
_PORTS = {"amqp": 5672, "amqps": 5671}
"""What examples in errors show, where it is not Kafka's."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True, repr=False)
class Dsn:
    """The address of a broker: ``scheme://user:password@host:port,host:port/path?name=value``.

    Every part but the scheme may be absent. In user, password, path and query, what means
    something else is percent-encoded: ``p@ss:w/rd%`` is written ``p%40ss%3Aw%2Frd%25``. What
    `repr` and `str` show has no password: the user and all values of the query are hidden too,
    as some brokers take tokens there.

    Attributes:
        scheme: What stands before ``://``, in lower case.
        user: Name of the user, decoded; ``None`` without one.
        password: The password, decoded; ``None`` without one.
        hosts: Hosts with their ports, ``None`` for the backend's usual one.
        path: What follows the hosts, with its ``/``, decoded; empty without one.
        query: The parameters, decoded, by name.
    """

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    query: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Dsn:
        """Read an address.

        Raises:
            InvalidDsnError: It can't be read. The error says why, and repeats nothing of it.
        """
        found = read(text)
        del text  # tracebacks may show local variables
        if isinstance(found, InvalidDsnError):
            raise found
        return found

    def __repr__(self) -> str:
        """The address, without password, user and the query."""
        return f"<Dsn {self}>"

    def __str__(self) -> str:
        """The address, without password, user and the query."""
        who = "" if self.user is None and self.password is None else f"{MASK}@"
        hosts = ",".join(host if port is None else f"{host}:{port}" for host, port in self.hosts)
        # Names of the query neither: half of a password that was not encoded can be one.
        query = f"?{MASK}" if self.query else ""
        return f"{self.scheme}://{who}{hosts}{self.path}{query}"

    def __hash__(self) -> int:
        return hash((self.scheme, self.user, self.hosts, self.path, tuple(self.query.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by contents."""
        parts = (self.scheme, self.user, self.password, self.hosts, self.path, dict(self.query))
        return _restore, parts


def _restore(
    scheme: str,
    user: str | None,
    password: str | None,
    hosts: tuple[tuple[str, int | None], ...],
    path: str,
    query: dict[str, str],
) -> Dsn:
    return Dsn(scheme, user, password, hosts, path, MappingProxyType(query))


def read(text: object) -> Dsn | InvalidDsnError:
    """Read an address; returns what is wrong with it, so that no frame here is in a traceback."""
    if not isinstance(text, str):
        return InvalidDsnError(f"the address of a broker is a text, not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        return InvalidDsnError(f"the address of a broker has at most {MAX_LENGTH:,} characters")
    before, mark, rest = text.partition("://")
    scheme = before.lower()
    if not mark or not _SCHEME.fullmatch(scheme):
        return InvalidDsnError(
            "the address of a broker begins with its scheme, as in kafka://host:9092, "
            "amqp://host:5672 or memory://; this one is not shown, as it may have a password"
        )
    if not (rest.isprintable() and rest.isascii()) or " " in rest or "#" in rest:
        return _wrong(scheme, "it has a blank, a '#', or characters beyond ASCII; percent-encode")
    if _ESCAPE.search(rest):
        return _wrong(scheme, "a '%' is not followed by two hexadecimal digits; write it as %25")
    before_query, _, query_text = rest.partition("?")
    authority, slash, path_text = before_query.partition("/")
    who, at, hosts_text = authority.rpartition("@")
    # With one unescaped character, half of a password would pass for a host or a path.
    if rest.count("@") > at.count("@"):
        return _wrong(
            scheme,
            "an '@' stands only between the password and the hosts; in a password write it as %40, "
            "and '/' as %2F, ':' as %3A, '?' as %3F",
        )
    user_text, colon, password_text = who.partition(":")
    hosts = _hosts(hosts_text)
    if hosts is None:
        port = _PORTS.get(scheme, 9092)
        return _wrong(scheme, f"its hosts are not such as host:{port}, or host:{port},other:{port}")
    query = _query(query_text)
    if query is None:
        return _wrong(scheme, "its query is not such as name=value&other=value, each name once")
    user, password, path = _decoded(user_text), _decoded(password_text), _decoded(path_text)
    if user is None or password is None or path is None:
        return _wrong(scheme, "what is percent-encoded in it is no UTF-8")
    if not path.isprintable():
        return _wrong(scheme, "its path has a control character")
    return Dsn(
        scheme,
        user if at else None,
        password if colon else None,
        hosts,
        slash + path,
        MappingProxyType(query),
    )


def _wrong(scheme: str, why: str) -> InvalidDsnError:
    return InvalidDsnError(
        f"the {scheme}:// address can't be read: {why}. It is not shown, as it may have a password",
        scheme=scheme,
    )


def _hosts(text: str) -> tuple[tuple[str, int | None], ...] | None:
    if not text:
        return ()
    found: list[tuple[str, int | None]] = []
    for part in text.split(","):
        match = _HOST_AND_PORT.fullmatch(part)
        if match is None:
            return None
        port = None if match["port"] is None else int(match["port"])
        if port is not None and not 0 < port < 65_536:
            return None
        found.append((match["host"], port))
    return tuple(found)


def _query(text: str) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for part in text.split("&") if text else ():
        name, equals, value_text = part.partition("=")
        value = _decoded(value_text)
        if not equals or not _NAME.fullmatch(name) or name in found or value is None:
            return None
        found[name] = value
    return found


def _decoded(text: str) -> str | None:
    """Percent-decoded; ``None`` if that is no UTF-8."""
    raw = unquote_to_bytes(text)
    decoded = raw.decode(errors="replace")
    return decoded if decoded.encode() == raw else None
