"""The backend that keeps its messages in the process: for tests, and for small apps."""

from eventflow.brokers.memory.broker import MemoryBroker
from eventflow.brokers.memory.publisher import MemoryPublisher
from eventflow.brokers.memory.subscriber import MemorySubscriber

__all__ = ("MemoryBroker", "MemoryPublisher", "MemorySubscriber")
