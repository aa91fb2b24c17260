"""`BrokerContract`: all parts of the contract in one class."""

from __future__ import annotations

import pytest

from eventflow.testing.contract._again import AgainContract
from eventflow.testing.contract._contents import ContentsContract
from eventflow.testing.contract._declared import DeclaredContract
from eventflow.testing.contract._ends import EndsContract
from eventflow.testing.contract._universal import UniversalContract

__all__ = ("BrokerContract",)


@pytest.mark.asyncio
class BrokerContract(
    UniversalContract, AgainContract, ContentsContract, DeclaredContract, EndsContract
):
    """The tests that a backend passes, for pytest; subclass it and say what is tested.

    The docstrings of `eventflow.messaging` are the contract, and each claim in the backend's
    `Features` is shown here: what is declared has to work, what is not has to be refused with
    `UnsupportedFeatureError`. Duplicates and losses are counted, message by message, and stand in
    the test's report (property ``eventflow_contract``) whether it fails or not.

    With ``EVENTFLOW_STRESS=1`` the tests marked ``stress`` have their full sizes.

    Example::

        class TestKafka(BrokerContract):
            lease = 30.0

            def new_broker(self) -> Broker:
                return KafkaBroker("127.0.0.1:9092")
    """
