"""Messages, and what carries them: publishers, subscribers, and the router between them."""

from eventflow.messaging._connect import connect
from eventflow.messaging._options import HandlerOptions
from eventflow.messaging.batch import Batch
from eventflow.messaging.bridge import Bridge, forward
from eventflow.messaging.codec import Codec, JsonCodec
from eventflow.messaging.decorators import (
    PublisherDecorator,
    SubscriberDecorator,
    transform_published,
    transform_received,
)
from eventflow.messaging.delivery import Delivery
from eventflow.messaging.dsn import Dsn
from eventflow.messaging.event_publisher import BrokerEventPublisher
from eventflow.messaging.features import Features
from eventflow.messaging.handler import RouterHandler
from eventflow.messaging.message import Message, NativeHeaders
from eventflow.messaging.protocols import (
    Broadcast,
    Broker,
    Deliveries,
    Group,
    Publisher,
    Subscriber,
    check_group,
)
from eventflow.messaging.router import Router
from eventflow.messaging.settlement import Settlement, SettlementState, Settler
from eventflow.messaging.statistics import (
    HandlerHealth,
    HandlerStatistics,
    RouterHealth,
    RouterStatistics,
)

__all__ = (
    "Batch",
    "Bridge",
    "Broadcast",
    "Broker",
    "BrokerEventPublisher",
    "Codec",
    "Deliveries",
    "Delivery",
    "Dsn",
    "Features",
    "Group",
    "HandlerHealth",
    "HandlerOptions",
    "HandlerStatistics",
    "JsonCodec",
    "Message",
    "NativeHeaders",
    "Publisher",
    "PublisherDecorator",
    "Router",
    "RouterHandler",
    "RouterHealth",
    "RouterStatistics",
    "Settlement",
    "SettlementState",
    "Settler",
    "Subscriber",
    "SubscriberDecorator",
    "check_group",
    "connect",
    "forward",
    "transform_published",
    "transform_received",
)
