"""The in-process bus."""

from eventflow.bus.bus import EventBus
from eventflow.bus.explanation import ExplainedSubscription, Explanation
from eventflow.bus.listeners import Listeners
from eventflow.bus.options import Overflow, StreamOptions, SubscribeOptions
from eventflow.bus.statistics import BusStatistics, LatencyStatistics, SubscriptionStatistics
from eventflow.bus.stream import EventStream
from eventflow.bus.subscription import Subscription

__all__ = (
    "BusStatistics",
    "EventBus",
    "EventStream",
    "ExplainedSubscription",
    "Explanation",
    "LatencyStatistics",
    "Listeners",
    "Overflow",
    "StreamOptions",
    "SubscribeOptions",
    "Subscription",
    "SubscriptionStatistics",
)
