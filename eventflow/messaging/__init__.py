"""Messages, and what carries them: publishers, subscribers, and the router between them."""

from eventflow.messaging._options import HandlerOptions
from eventflow.messaging.batch import Batch
from eventflow.messaging.codec import Codec, JsonCodec
from eventflow.messaging.delivery import Delivery, Settler
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
from eventflow.messaging.settlement import Settlement, SettlementState
from eventflow.messaging.statistics import (
    HandlerHealth,
    HandlerStatistics,
    RouterHealth,
    RouterStatistics,
)

__all__ = (
    "Batch",
    "Broadcast",
    "Broker",
    "BrokerEventPublisher",
    "Codec",
    "Deliveries",
    "Delivery",
    "Features",
    "Group",
    "HandlerHealth",
    "HandlerOptions",
    "HandlerStatistics",
    "JsonCodec",
    "Message",
    "NativeHeaders",
    "Publisher",
    "Router",
    "RouterHandler",
    "RouterHealth",
    "RouterStatistics",
    "Settlement",
    "SettlementState",
    "Settler",
    "Subscriber",
    "check_group",
)
