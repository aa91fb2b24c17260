"""`RabbitMQConfig`: what a `RabbitMQBroker` is told, from the environment or from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from eventflow.brokers._environment import EnvironmentConfig, TlsConfig, tls_of
from eventflow.brokers.rabbitmq._settings import check_hosts
from eventflow.brokers.rabbitmq.broker import RabbitMQBroker
from eventflow.brokers.rabbitmq.topology import PubSub, Topics, WorkQueue
from eventflow.errors import InvalidOptionError

__all__ = ("RabbitMQConfig", "TlsConfig")

DIRECT = (
    "vhost",
    "username",
    "publish_timeout",
    "connect_timeout",
    "delays",
    "heartbeat",
    "consumer_timeout",
    "max_payload_bytes",
)
"""Options that go to the broker as they are."""


class RabbitMQConfig(EnvironmentConfig):
    """Settings of a `RabbitMQBroker` as a pydantic-settings model.

    Variables begin with ``EVENTFLOW_RABBITMQ_``; those inside others have two underscores between:
    ``EVENTFLOW_RABBITMQ_HOSTS``, ``EVENTFLOW_RABBITMQ_PASSWORD``,
    ``EVENTFLOW_RABBITMQ_TLS__ENABLED``, ``EVENTFLOW_RABBITMQ_TLS__CA_FILE``. A variable with that
    beginning that means nothing is refused: a misspelt one could leave out TLS. Subclass it for
    another prefix, or to read files of secrets.

    Attributes:
        hosts: Where to find it: ``host:5672``, or several with commas between them.
        username: Who logs in; ``None``: ``guest``.
        password: The password.
        vhost: The virtual host, as it is named, without ``%2F``; ``None``: ``/``.
        group: The group, for ``broker.subscriber(group=config.group)``.
        tls: Whether there is TLS, and whom to trust.
        topology: Where messages go: ``"pub_sub"``, ``"work_queue"`` or ``"topics"``.
        exchange: Of ``"topics"`` alone: the name of its exchange.
        queue_type: ``"quorum"`` or ``"classic"``.
        single_active_consumer: Whether one receiver at a time gets all of a queue's messages.
        publish_timeout: This and the following as for `RabbitMQBroker`; ``None``: its default.
        connect_timeout: As for `RabbitMQBroker`.
        delays: As for `RabbitMQBroker`.
        heartbeat: As for `RabbitMQBroker`.
        consumer_timeout: As for `RabbitMQBroker`.
        max_payload_bytes: As for `RabbitMQBroker`.

    Raises:
        InvalidOptionError: Something is missing, unknown or of the wrong type. It shows no value.

    Example::

        config = RabbitMQConfig()
        async with config.broker() as broker:
            orders = broker.subscriber(group=config.group)
    """

    model_config = SettingsConfigDict(env_prefix="EVENTFLOW_RABBITMQ_")

    server: ClassVar[str] = "a RabbitMQ"

    hosts: str
    username: str | None = Field(default=None, repr=False)
    password: SecretStr | None = None
    vhost: str | None = None
    group: str = ""
    tls: TlsConfig | None = None
    topology: Literal["pub_sub", "work_queue", "topics"] = "pub_sub"
    exchange: str | None = None
    queue_type: Literal["quorum", "classic"] = "quorum"
    single_active_consumer: bool = False
    publish_timeout: float | None = None
    connect_timeout: float | None = None
    delays: bool | None = None
    heartbeat: int | None = None
    consumer_timeout: float | None = None
    max_payload_bytes: int | None = None

    if TYPE_CHECKING:
        # Type checkers would make one with an argument for each field.
        def __init__(self, **given: Any) -> None: ...

    def check(self) -> None:
        """Refuse hosts that are none, half of a login, and an exchange that means nothing.

        Raises:
            InvalidOptionError: There is one.
        """
        check_hosts(self.hosts)
        if (self.username is None) != (self.password is None):
            raise InvalidOptionError(
                "there are both a username and a password, or none", option="password"
            )
        if self.exchange is not None and self.topology != "topics":
            raise InvalidOptionError(
                'exchange means something with topology "topics" alone', option="exchange"
            )

    def broker(self) -> RabbitMQBroker:
        """Return the broker that it says.

        Raises:
            InvalidOptionError: An option is out of range.
        """
        options: dict[str, Any] = {
            name: value for name in DIRECT if (value := getattr(self, name)) is not None
        }
        if self.password is not None:
            options["password"] = self.password.get_secret_value()
        try:
            return RabbitMQBroker(
                f"amqp://{self.hosts}", tls=tls_of(self.tls), topology=self._topology(), **options
            )
        finally:
            options.clear()  # tracebacks may show local variables

    def _topology(self) -> PubSub | WorkQueue | Topics:
        queues: dict[str, Any] = {
            "queue_type": self.queue_type,
            "single_active_consumer": self.single_active_consumer,
        }
        if self.topology == "pub_sub":
            return PubSub(**queues)
        if self.topology == "work_queue":
            return WorkQueue(**queues)
        return (
            Topics(**queues) if self.exchange is None else Topics(exchange=self.exchange, **queues)
        )
