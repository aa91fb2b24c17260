"""`KafkaConfig`: what a `KafkaBroker` is told, from the environment or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventflow.brokers.kafka.broker import KafkaBroker
from eventflow.brokers.kafka.security import Sasl, Tls

if TYPE_CHECKING:
    from eventflow.brokers.kafka.security import OAuthBearer

__all__ = ("KafkaConfig", "SaslConfig", "TlsConfig")


class TlsConfig(BaseModel):
    """See `Tls`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr | None = None


class SaslConfig(BaseModel):
    """See `Sasl`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    username: str
    password: SecretStr
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"


class KafkaConfig(BaseSettings):
    """Settings of a `KafkaBroker` as a pydantic-settings model.

    Variables begin with ``EVENTFLOW_KAFKA_``; those inside others have two underscores between:
    ``EVENTFLOW_KAFKA_HOSTS``, ``EVENTFLOW_KAFKA_TLS__CA_FILE``, ``EVENTFLOW_KAFKA_SASL__PASSWORD``.
    ``EVENTFLOW_KAFKA_PROPERTIES`` is a JSON object. Subclass it for another prefix, or to read
    files of secrets.

    Attributes:
        hosts: Where to find the cluster, as for `KafkaBroker`.
        group: The consumer group, for ``broker.subscriber(group=config.group)``.
        tls: Whether there is TLS, or whom to trust.
        sasl: User and password.
        properties: Properties of librdkafka, by name.

    Raises:
        pydantic.ValidationError: Something is missing, unknown or of the wrong type. It shows
            no value.

    Example::

        config = KafkaConfig()
        async with config.broker() as broker:
            orders = broker.subscriber(group=config.group)
    """

    model_config = SettingsConfigDict(
        env_prefix="EVENTFLOW_KAFKA_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    hosts: str = Field(default=...)  # as a field, so that type checkers do not ask for it
    group: str = ""
    tls: bool | TlsConfig | None = None
    sasl: SaslConfig | None = None
    publish_timeout: float | None = None
    connect_timeout: float | None = None
    session_timeout: float | None = None
    revoke_timeout: float | None = None
    max_payload_bytes: int | None = None
    assignor: str | None = None
    partitioner: str | None = None
    properties: dict[str, str | int | float | bool] = Field(default={}, repr=False)

    def broker(self, *, sasl: OAuthBearer | None = None) -> KafkaBroker:
        """Return the broker that it says.

        Args:
            sasl: Where a token comes from, which no variable can say.

        Raises:
            InvalidOptionError: An option is out of range.
        """
        options: dict[str, Any] = {
            name: value for name in NUMBERS_AND_WORDS if (value := getattr(self, name)) is not None
        }
        return KafkaBroker(
            self.hosts,
            tls=_tls(self.tls),
            sasl=sasl or _sasl(self.sasl),
            properties=self.properties,
            **options,
        )


NUMBERS_AND_WORDS = (
    "publish_timeout",
    "connect_timeout",
    "session_timeout",
    "revoke_timeout",
    "max_payload_bytes",
    "assignor",
    "partitioner",
)


def _tls(told: bool | TlsConfig | None) -> bool | Tls | None:
    if not isinstance(told, TlsConfig):
        return told
    secret = told.key_password
    return Tls(
        ca_file=told.ca_file,
        certificate_file=told.certificate_file,
        key_file=told.key_file,
        key_password=None if secret is None else secret.get_secret_value(),
    )


def _sasl(told: SaslConfig | None) -> Sasl | None:
    if told is None:
        return None
    return Sasl(
        username=told.username,
        password=told.password.get_secret_value(),
        mechanism=told.mechanism,
    )
