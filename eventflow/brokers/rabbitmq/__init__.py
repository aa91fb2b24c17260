"""The backend for RabbitMQ, on aiormq: extra ``rabbitmq``."""

from eventflow.brokers._tls import Tls
from eventflow.brokers.rabbitmq._frames import Field
from eventflow.brokers.rabbitmq.broker import RabbitMQBroker
from eventflow.brokers.rabbitmq.config import RabbitMQConfig, TlsConfig
from eventflow.brokers.rabbitmq.publisher import RabbitMQPublisher
from eventflow.brokers.rabbitmq.subscriber import RabbitMQSubscriber
from eventflow.brokers.rabbitmq.topology import (
    Binding,
    Exchange,
    PubSub,
    Queue,
    Route,
    Source,
    Topics,
    Topology,
    WorkQueue,
)

__all__ = (
    "Binding",
    "Exchange",
    "Field",
    "PubSub",
    "Queue",
    "RabbitMQBroker",
    "RabbitMQConfig",
    "RabbitMQPublisher",
    "RabbitMQSubscriber",
    "Route",
    "Source",
    "Tls",
    "TlsConfig",
    "Topics",
    "Topology",
    "WorkQueue",
)
