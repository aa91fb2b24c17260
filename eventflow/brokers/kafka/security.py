"""How a broker and we show each other who we are: TLS, and SASL."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from eventflow._log import EventLogger
from eventflow.brokers._tls import Tls, check_tls
from eventflow.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = (
    "MECHANISMS",
    "STRONG",
    "OAuthBearer",
    "Sasl",
    "Tls",
    "Token",
    "check_security",
    "security_properties",
    "weakened",
)

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
STRONG = {
    "enable.ssl.certificate.verification": ("true", "1", "t"),
    "ssl.endpoint.identification.algorithm": ("https",),
}
"""Properties, and the values with which nobody else can pose as the broker."""

log = EventLogger("eventflow.kafka")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sasl:
    """A user and a password.

    Args:
        username: The user.
        password: The password. It shows in no text of ours.
        mechanism: ``"SCRAM-SHA-512"``, ``"SCRAM-SHA-256"``, or ``"PLAIN"``, which hands the
            password to whoever answers, and therefore needs TLS.
    """

    username: str
    password: str
    mechanism: str = "SCRAM-SHA-512"

    def __repr__(self) -> str:
        """Without the password, and without the user."""
        return f"Sasl(mechanism={self.mechanism!r})"


class Token(NamedTuple):
    """A token, and how long it is good for.

    Attributes:
        value: The token.
        lifetime: Seconds from now; a new one is asked for after four fifths of them.
    """

    value: str
    lifetime: float

    def __repr__(self) -> str:
        """Without the token."""
        return f"Token(lifetime={self.lifetime!r})"


@dataclass(frozen=True, slots=True, repr=False)
class OAuthBearer:
    """A token that somebody else vouches for; needs TLS.

    Args:
        token: Returns one. It is called in a thread of the client, and may block there. What it
            raises is logged, without the text, and the connection does without a token. ``None``:
            librdkafka gets the tokens by itself, as ``properties=`` say by
            ``sasl.oauthbearer.*``.
    """

    token: Callable[[], Token] | None = None

    def __repr__(self) -> str:
        """Without the function."""
        return "OAuthBearer()"

    def answer(self, _: str) -> tuple[str, float]:
        """What the client library asks for: the token, and until when it is good."""
        assert self.token is not None
        try:
            value, lifetime = self.token()
            until = time.time() + lifetime
        except Exception as exc:
            log.error("eventflow.kafka_token_failed", reason=type(exc).__name__)
            raise
        return value, until


def check_security(hosts: Iterable[str], tls: object, sasl: object) -> None:
    """Refuse what makes no sense, or tells a secret to everybody.

    Raises:
        InvalidOptionError: It does.
    """
    check_tls(tls)
    if sasl is None:
        return
    if isinstance(sasl, Sasl):
        if sasl.mechanism not in MECHANISMS:
            raise InvalidOptionError(
                f"mechanism of Sasl is one of {', '.join(MECHANISMS)}", option="sasl"
            )
        if not (sasl.username and sasl.password):
            raise InvalidOptionError("Sasl has a username and a password", option="sasl")
        tells = sasl.mechanism == "PLAIN"
    elif isinstance(sasl, OAuthBearer):
        tells = True
    else:
        raise InvalidOptionError("sasl is Sasl(…) or OAuthBearer(…)", option="sasl")
    if tells and not tls and not all(map(_is_here, hosts)):
        raise InvalidOptionError(
            "PLAIN and OAUTHBEARER send what everybody on the way can read and use: add "
            "tls=True, or tls=Tls(ca_file=…)",
            option="sasl",
        )


def _is_here(host: str) -> bool:
    """Whether a host with its port is this machine."""
    name = host.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def weakened(properties: Mapping[str, Any]) -> list[str]:
    """Properties with which anybody can pose as the broker."""
    given = STRONG.keys() & properties.keys()
    return sorted(name for name in given if str(properties[name]).lower() not in STRONG[name])


def security_properties(tls: bool | Tls | None, sasl: Sasl | OAuthBearer | None) -> dict[str, Any]:
    """What the client library is told."""
    protocol = ("SASL_" if sasl else "") + ("SSL" if tls else "PLAINTEXT")
    told: dict[str, Any] = {"security.protocol": protocol}
    if isinstance(tls, Tls):
        given = {
            "ssl.ca.location": tls.ca_file,
            "ssl.certificate.location": tls.certificate_file,
            "ssl.key.location": tls.key_file,
            "ssl.key.password": tls.key_password,
        }
        told |= {name: str(value) for name, value in given.items() if value is not None}
    if isinstance(sasl, Sasl):
        told["sasl.mechanism"] = sasl.mechanism
        told["sasl.username"] = sasl.username
        told["sasl.password"] = sasl.password
    elif sasl is not None:
        told["sasl.mechanism"] = "OAUTHBEARER"
        if sasl.token is not None:
            told["oauth_cb"] = sasl.answer
    return told
