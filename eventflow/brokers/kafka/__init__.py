"""The backend for Apache Kafka, on librdkafka: extra ``kafka``."""

from eventflow.brokers.kafka.broker import KafkaBroker
from eventflow.brokers.kafka.config import KafkaConfig, SaslConfig, TlsConfig
from eventflow.brokers.kafka.publisher import KafkaPublisher
from eventflow.brokers.kafka.security import OAuthBearer, Sasl, Tls, Token
from eventflow.brokers.kafka.subscriber import KafkaSubscriber

__all__ = (
    "KafkaBroker",
    "KafkaConfig",
    "KafkaPublisher",
    "KafkaSubscriber",
    "OAuthBearer",
    "Sasl",
    "SaslConfig",
    "Tls",
    "TlsConfig",
    "Token",
)
