"""`KafkaConfig`: what a `KafkaBroker` is told, from the environment or from a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from eventflow.brokers.kafka._settings import check_hosts
from eventflow.brokers.kafka.broker import KafkaBroker
from eventflow.brokers.kafka.security import Sasl, Tls
from eventflow.errors import InvalidOptionError

if TYPE_CHECKING:
    from eventflow.brokers.kafka.security import OAuthBearer

__all__ = ("KafkaConfig", "SaslConfig", "TlsConfig")

DIRECT = (
    "publish_timeout",
    "connect_timeout",
    "session_timeout",
    "revoke_timeout",
    "max_payload_bytes",
    "assignor",
    "partitioner",
)
"""Options that go to the broker as they are."""


class TlsConfig(BaseModel):
    """See `Tls`; ``enabled=True`` alone trusts what the machine trusts."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    enabled: bool = True
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
    ``EVENTFLOW_KAFKA_HOSTS``, ``EVENTFLOW_KAFKA_TLS__ENABLED``, ``EVENTFLOW_KAFKA_TLS__CA_FILE``,
    ``EVENTFLOW_KAFKA_SASL__PASSWORD``. ``EVENTFLOW_KAFKA_PROPERTIES`` is a JSON object. A variable
    with that beginning that means nothing is refused: a misspelt one could leave out TLS. Subclass
    it for another prefix, or to read files of secrets.

    Attributes:
        hosts: Where to find the cluster, as for `KafkaBroker`.
        group: The consumer group, for ``broker.subscriber(group=config.group)``.
        tls: Whether there is TLS, and whom to trust.
        sasl: User and password.
        publish_timeout: This and the following as for `KafkaBroker`; ``None``: its default.
        connect_timeout: As for `KafkaBroker`.
        session_timeout: As for `KafkaBroker`.
        revoke_timeout: As for `KafkaBroker`.
        max_payload_bytes: As for `KafkaBroker`.
        assignor: As for `KafkaBroker`.
        partitioner: As for `KafkaBroker`.
        properties: Properties of librdkafka, by name.

    Raises:
        InvalidOptionError: Something is missing, unknown or of the wrong type. It shows no value.

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

    hosts: str
    group: str = ""
    tls: TlsConfig | None = None
    sasl: SaslConfig | None = None
    publish_timeout: float | None = None
    connect_timeout: float | None = None
    session_timeout: float | None = None
    revoke_timeout: float | None = None
    max_payload_bytes: int | None = None
    assignor: str | None = None
    partitioner: str | None = None
    properties: dict[str, str | int | float | bool] = Field(default={}, repr=False)

    def __init__(self, **given: Any) -> None:
        problem = _unknown(type(self))
        if not problem:
            try:
                super().__init__(**given)
            except (ValidationError, SettingsError) as exc:
                problem = _told(exc)
        given.clear()  # tracebacks may show local variables
        if not problem:
            try:
                check_hosts(self.hosts)
            except InvalidOptionError as exc:
                problem = str(exc), "hosts"
                object.__setattr__(self, "hosts", "")  # half of a login may stand there
        if problem:
            # Outside of the block: pydantic's own has what was given.
            raise InvalidOptionError(problem[0], option=problem[1])

    def broker(self, *, sasl: OAuthBearer | None = None) -> KafkaBroker:
        """Return the broker that it says.

        Args:
            sasl: Where a token comes from, which no variable can say.

        Raises:
            InvalidOptionError: An option is out of range.
        """
        options: dict[str, Any] = {
            name: value for name in DIRECT if (value := getattr(self, name)) is not None
        }
        return KafkaBroker(
            self.hosts,
            tls=_tls(self.tls),
            sasl=sasl or _sasl(self.sasl),
            properties=self.properties,
            **options,
        )


def _unknown(config: type[KafkaConfig]) -> tuple[str, str] | tuple[()]:
    """What is wrong with the names of the environment's variables."""
    prefix = str(config.model_config.get("env_prefix", "")).lower()
    if not prefix:
        return ()
    for variable in os.environ:
        name = variable.lower()
        field = name.removeprefix(prefix).partition("__")[0]
        if name.startswith(prefix) and field not in config.model_fields:
            return f"the environment has {variable}, and a Kafka has no setting {field!r}", field
    return ()


def _told(error: ValidationError | SettingsError) -> tuple[str, str]:
    """What pydantic says, without what was given."""
    if isinstance(error, SettingsError):
        return "one of the settings of a Kafka is not the JSON that it should be", "settings"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where} in the settings of a Kafka: {first['msg']}", where


def _tls(told: TlsConfig | None) -> bool | Tls | None:
    if told is None:
        return None
    secret = told.key_password
    files = (told.ca_file, told.certificate_file, told.key_file, secret)
    if not told.enabled:
        if any(file is not None for file in files):
            raise InvalidOptionError("TLS has files, and is not enabled", option="tls")
        return False
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
