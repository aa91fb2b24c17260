"""What the client library says, as eventflow's errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException

from eventflow.errors import (
    BrokerAuthenticationError,
    BrokerConnectionError,
    BrokerError,
    InvalidOptionError,
    TopicNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "NOT_FOUND",
    "NOT_STORED",
    "broken",
    "code_name",
    "distrust",
    "is_distrust",
    "is_of_rebalance",
    "may_pass",
    "not_found",
    "not_made",
    "refused",
    "unreachable",
)

NOT_FOUND = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})
"""There is no such topic."""

NOT_STORED = frozenset(
    {
        *NOT_FOUND,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
    }
)
"""Errors of a record after which it is certainly not in its topic; after others it may be.

Also after ``_PURGE_QUEUE``: what was sent once and not answered waits in that queue again."""

FOREVER = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
    }
)


PASSING = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._WAIT_COORD,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
    }
)


OF_REBALANCE = frozenset(
    {
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)


def is_of_rebalance(error: KafkaError) -> bool:
    """Whether a group says that it is sharing anew: what was asked is asked again after that."""
    return error.code() in OF_REBALANCE


def is_distrust(error: KafkaError) -> bool:
    """Whether it says that one of both sides does not trust the other.

    Not each fault of TLS does: a server that goes away in the middle of it is just away.
    """
    if error.code() in {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}:
        return True
    # What the other side says against our certificate comes as `_TRANSPORT`.
    of_tls = error.code() in {KafkaError._SSL, KafkaError._TRANSPORT}
    return of_tls and any(text in error.str() for text in ("verify failed", " alert "))


def may_pass(error: KafkaError) -> bool:
    """Whether a question may be answered when it is asked again."""
    return error.code() in PASSING and not is_distrust(error)


def code_name(error: KafkaError) -> str:
    """The name of an error's code, such as ``_TRANSPORT``; texts of the library are not shown."""
    return str(error.name())


def not_found(topic: str) -> TopicNotFoundError:
    """The error for a topic that there is not."""
    return TopicNotFoundError(
        f"there is no topic {topic!r}, and a subscription or a publish does not create it: "
        "create it first, as by broker.ensure_topics(*router.topics)",
        topic=topic,
    )


def broken(error: Exception, topic: str) -> BrokerError:
    """The error of a subscription that receives nothing more."""
    if isinstance(error, BrokerError):
        return error
    if not isinstance(error, KafkaException):
        return BrokerConnectionError(f"the subscription to {topic!r} ended: {error!r}")
    reason = error.args[0]
    if reason.code() in NOT_FOUND:
        return not_found(topic)
    if reason.code() == KafkaError.INCONSISTENT_GROUP_PROTOCOL:
        return BrokerConnectionError(
            f"the group does not let us in to {topic!r}: its members share partitions in another "
            "way; say the same assignor= in all of them"
        )
    text = f"the subscription to {topic!r} ended: {code_name(reason)}"
    return BrokerError(text) if reason.code() in FOREVER else BrokerConnectionError(text)


def distrust(hosts: Iterable[str], error: KafkaError) -> BrokerAuthenticationError:
    """The error of a broker that does not trust us, or that we do not trust."""
    who = ", ".join(hosts)
    if error.code() in {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}:
        return BrokerAuthenticationError(
            f"Kafka at {who} does not accept the credentials, or not by this mechanism: "
            "look at sasl="
        )
    if " alert " in error.str():
        return BrokerAuthenticationError(
            f"Kafka at {who} does not accept our certificate, or the lack of one: "
            "look at certificate_file of Tls"
        )
    return BrokerAuthenticationError(
        f"the certificate of Kafka at {who} can't be trusted: it is for another host, has "
        "expired, or comes from an authority that ca_file of Tls does not have"
    )


def unreachable(
    hosts: Iterable[str], seconds: float, error: KafkaError, *, is_secured: bool
) -> BrokerConnectionError:
    """The error of a broker that did not answer."""
    hint = (
        "; perhaps this port has no TLS, or no login"
        if is_secured
        else "; perhaps it wants TLS or a login: tls=, sasl="
    )
    return BrokerConnectionError(
        f"no Kafka broker answered at {', '.join(hosts)} within {seconds:g} s "
        f"({code_name(error)}){hint}"
    )


def not_made(
    error: KafkaError, *, hosts: Iterable[str], properties: Iterable[str]
) -> BrokerAuthenticationError | InvalidOptionError:
    """The error of a client that the library does not make."""
    return distrust(hosts, error) if is_distrust(error) else refused(properties, error)


def refused(properties: Iterable[str], error: KafkaError) -> InvalidOptionError:
    """The error of a configuration that the library does not take; values are not shown."""
    return InvalidOptionError(
        f"librdkafka refuses one of the properties {', '.join(sorted(properties))}: "
        f"{code_name(error)}",
        option="properties",
    )
