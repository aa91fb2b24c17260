"""What the client library and the server say, as eventflow's errors."""

from __future__ import annotations

import re
import ssl
from asyncio import CancelledError
from struct import error as StructError  # noqa: N812 - it is a class
from typing import TYPE_CHECKING

import aiormq.exceptions as said

from eventflow.brokers.rabbitmq.topology import CHARACTERS, Exchange, Queue
from eventflow.errors import (
    BrokerAuthenticationError,
    BrokerConnectionError,
    BrokerError,
    TopologyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventflow.brokers.rabbitmq.topology import Part

__all__ = (
    "advice_on",
    "channel_error",
    "closed_by",
    "connection_error",
    "limit_of",
    "reason_of",
    "refusal_of",
)

_CLASH = re.compile(r"inequivalent arg '([^']*)'")
_OURS = re.compile(r"(?:queue|exchange) 'eventflow\.")
_NO_MATTER_OF_TYPE = ("durable", "auto_delete", "exclusive", "x-single-active-consumer")

DEAD_LETTERS_TO = "x-dead-letter-exchange"
IS_ANOTHER = ": received '"
"""What a server says of an argument that is there with another value; else it is not there."""
LONGEST = 300
"""Most characters of a reason; a server's has up to 255 bytes."""

AWAY = ("is down or inaccessible", "process is stopped by supervisor")
"""What a server says, as if it was not there, of a queue whose node or process is away."""
DISTRUST = (
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_UNKNOWN",
    "HANDSHAKE_FAILURE",
    "UNKNOWN_CA",
)
"""Ends of the names of what a server's TLS says when it does not like who comes."""
HANGS_UP = (ssl.SSLError, ConnectionResetError, EOFError, said.InvalidFrameError)
LOGIN = (said.ProbableAuthenticationError, said.AuthenticationError)
NO_DELAYS = (
    ". Delays need it: let the user configure, write and read what begins with eventflow., or say "
    "delays=False"
)
NOT_ALLOWED = 530
REFUSED = {
    403: said.ChannelAccessRefused,
    404: said.ChannelNotFoundEntity,
    405: said.ChannelLockedResource,
    406: said.ChannelPreconditionFailed,
}
"""What a server closes a channel with, for something that was asked on it."""
_LIMIT = re.compile(r"larger than configured max size ([0-9]+)")


def reason_of(error: BaseException | None) -> str:
    """A short text on why something ended."""
    if error is None:
        return "it was closed"
    if isinstance(error, CancelledError):  # as the library ends what it has under way
        return "the connection was given up, or closed"
    text = " ".join(str(part) for part in error.args if part not in (None, ""))
    return f"{type(error).__name__}: {text[:LONGEST]}" if text else type(error).__name__


def connection_error(
    error: BaseException,
    where: str,
    refusal: tuple[int, str] | None,
    *,
    is_tls: bool,
    is_begun: bool,
) -> BrokerError:
    """Why there is no connection.

    Args:
        error: What the client library has raised.
        where: Host and port.
        refusal: Code and text with which the server has closed it, if it has.
        is_tls: Whether TLS was tried.
        is_begun: Whether there was a connection, and TLS on it.
    """
    if isinstance(error, BrokerError):
        return type(error)(*error.args)
    behind = [*_behind(error)]
    if any(isinstance(one, LOGIN) for one in behind):
        return BrokerAuthenticationError(
            f"RabbitMQ at {where} refuses the user, the password, or the way to log in"
        )
    if refusal is not None:
        code, text = refusal
        if code == NOT_ALLOWED and " limit " not in text:
            return BrokerAuthenticationError(
                f"RabbitMQ at {where} has no such virtual host, or the user may not use it: say "
                f"it as amqp://host/name, with %2F for a slash ({text[:LONGEST]})"
            )
        return BrokerConnectionError(f"RabbitMQ at {where} does not let us in: {text[:LONGEST]}")
    for one in behind:
        if isinstance(one, ssl.SSLCertVerificationError):
            return BrokerAuthenticationError(
                f"the certificate of RabbitMQ at {where} is not trusted: {one.verify_message}"
            )
        if isinstance(one, ssl.SSLError) and (one.reason or "").endswith(DISTRUST):
            return BrokerAuthenticationError(
                f"RabbitMQ at {where} asks for a certificate, or does not trust ours: see "
                f"certificate_file and key_file of Tls ({one.reason})"
            )
    text = f"RabbitMQ at {where} can't be reached: {reason_of(error)}"
    if any(isinstance(one, HANGS_UP) for one in behind):
        if not is_tls:
            text += "; perhaps this port wants TLS: amqps://, or tls="
        elif is_begun:
            # What it says about that can be overtaken by the end of the connection.
            text += "; perhaps it asks for a certificate, or does not trust ours"
        else:
            text += "; perhaps this port has no TLS"
    return BrokerConnectionError(text)


def _behind(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised for."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def channel_error(error: BaseException | None, what: str) -> BrokerError:
    """Why the server has refused something."""
    if isinstance(error, said.ChannelPreconditionFailed):
        reason = reason_of(error)
        how = "is there with other properties" if "inequivalent" in reason else "can't be so"
        return TopologyError(f"{what} {how}: {reason}")
    if isinstance(error, said.ChannelAccessRefused):
        reason = reason_of(error)
        advice = NO_DELAYS if _OURS.search(reason) else ""
        return BrokerAuthenticationError(f"RabbitMQ does not let us use {what}: {reason}{advice}")
    is_missing = isinstance(error, said.ChannelNotFoundEntity)
    if is_missing and any(sign in str(error) for sign in AWAY):
        return BrokerConnectionError(f"{what} can't be used at present: {reason_of(error)}")
    if is_missing or isinstance(error, said.ChannelLockedResource):
        return TopologyError(f"{what} can't be used: {reason_of(error)}")
    if isinstance(error, (TypeError, ValueError, StructError)):
        return TopologyError(
            f"{what} can't be written: names of exchanges and queues are made of {CHARACTERS} "
            f"({reason_of(error)})"
        )
    return BrokerConnectionError(f"{what}: {reason_of(error)}")


def advice_on(part: Part, error: BrokerError) -> str:
    """What to do about a part that is there with other properties; empty for other errors."""
    found = _CLASH.search(str(error))
    if found is None:
        return ""
    argument = found[1]
    if isinstance(part, Exchange) and argument == "durable" and part.durable:
        return (
            ". Watermill's exchanges for many topics don't outlive a restart: to share one, say "
            "durable=False in Topics(…)"
        )
    if not isinstance(part, Queue) or argument in _NO_MATTER_OF_TYPE:
        return ". Delete it, or say in the topology what is there"
    if part.arguments.get("x-queue-type") == "quorum":
        if argument == DEAD_LETTERS_TO and IS_ANOTHER in str(error):
            return (
                ". Another topic and group make the same name, as topic a_b with group c and "
                "topic a with group b_c do: choose another topic or group. Else delete it, or say "
                "in the topology what is there"
            )
        return (
            '. If it is shared with Watermill, say queue_type="classic" in the topology: its '
            "queues are classic ones, and it can't read from quorum queues, whose messages have "
            "a header that is no text. Else delete it, or say in the topology what is there"
        )
    return (
        ". If it is a quorum queue of ours, it can't be shared with Watermill, which declares "
        "classic ones: empty and delete it. Else say in the topology what is there"
    )


def closed_by(code: int, text: str) -> BaseException:
    """What the client library says when the server has closed a channel."""
    kind = REFUSED.get(code)
    return kind(text) if kind is not None else said.ChannelClosed(code, text)


def refusal_of(error: BaseException | None) -> str:
    """Why the server has refused a message, where that ended the channel; else empty."""
    return reason_of(error) if isinstance(error, (*REFUSED.values(),)) else ""


def limit_of(refusal: str) -> int:
    """Most bytes of a message that the server takes, where it has refused one for that; else 0."""
    found = _LIMIT.search(refusal)
    return int(found[1]) if found else 0
