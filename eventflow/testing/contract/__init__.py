"""The suite that every backend must pass; a backend of your own runs it in a few lines.

It needs pytest and pytest-asyncio.

Example::

    from eventflow.testing.contract import BrokerContract


    class TestKafka(BrokerContract):
        def new_broker(self) -> Broker:
            return KafkaBroker("127.0.0.1:9092")
"""

from eventflow.testing.contract._suite import BrokerContract
from eventflow.testing.contract._tally import Counts, Tally

__all__ = ("BrokerContract", "Counts", "Tally")
