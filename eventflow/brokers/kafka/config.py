"""`KafkaConfig`: what a `KafkaBroker` is told, from the environment or from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from eventflow.brokers._environment import EnvironmentConfig, TlsConfig, tls_of
from eventflow.brokers.kafka._settings import check_hosts
from eventflow.brokers.kafka.broker import KafkaBroker
from eventflow.brokers.kafka.security import Sasl

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
    "delays",
)
"""Options that go to the broker as they are."""


class SaslConfig(BaseModel):
    """See `Sasl`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    username: str
    password: SecretStr
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"


class KafkaConfig(EnvironmentConfig):
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
        delays: As for `KafkaBroker`.
        properties: Properties of librdkafka, by name.

    Raises:
        InvalidOptionError: Something is missing, unknown or of the wrong type. It shows no value.

    Example::

        config = KafkaConfig()
        async with config.broker() as broker:
            orders = broker.subscriber(group=config.group)
    """

    model_config = SettingsConfigDict(env_prefix="EVENTFLOW_KAFKA_")

    server: ClassVar[str] = "a Kafka"

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
    delays: bool | None = None
    properties: dict[str, str | int | float | bool] = Field(default={}, repr=False)

    if TYPE_CHECKING:
        # Type checkers would make one with an argument for each field.
        def __init__(self, **given: Any) -> None: ...

    def check(self) -> None:
        """Refuse hosts that are none.

        Raises:
            InvalidOptionError: They are none.
        """
        check_hosts(self.hosts)

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
            tls=tls_of(self.tls),
            sasl=sasl or _sasl(self.sasl),
            properties=self.properties,
            **options,
        )


def _sasl(told: SaslConfig | None) -> Sasl | None:
    if told is None:
        return None
    return Sasl(
        username=told.username,
        password=told.password.get_secret_value(),
        mechanism=told.mechanism,
    )
