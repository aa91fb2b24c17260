"""The contract notices what it is for: a suite that never failed proves nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from eventflow.testing import VirtualClockDeadlockError, run_virtual
from eventflow.testing.contract import BrokerContract
from tests.contract import planted_leaving, planted_more, planted_publishing
from tests.contract.full import full
from tests.contract.planting import PLANTED
from tests.contract.proxy import TIMEOUT, ProxyBroker

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from eventflow.messaging import Broker

REGISTERED = (planted_publishing, planted_leaving, planted_more)  # importing them fills PLANTED
STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
TESTS = tuple(name for name in dir(BrokerContract) if name.startswith("test_"))


class Case(BrokerContract):
    size = (
        0.1 if STRESS else 0.5
    )  # for what is published before it is read, in a topic that has a bound
    publish_timeout = TIMEOUT
    made: type[ProxyBroker] = ProxyBroker

    def new_broker(self) -> Broker:
        return self.made()

    def blocked(self, broker: Broker, topic: str) -> AbstractAsyncContextManager[None]:
        return full(broker, topic)


def failure(broker: type[ProxyBroker], test: str) -> BaseException | None:
    """What a test of the contract says of a broker."""
    case = Case()
    case.made = broker
    case.begin(test)
    try:
        run_virtual(getattr(case, test), real_wait=0.0)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - pytest's own failures are no Exceptions
        return error
    return None


def hangs(error: BaseException | None) -> bool:
    return isinstance(error, VirtualClockDeadlockError) or "pytest-timeout" in str(error)


@pytest.mark.stress
@pytest.mark.parametrize("test", TESTS)
def test_without_a_fault_it_passes(test: str) -> None:
    """What stands between the tests and the memory broker is no fault by itself."""
    error = failure(ProxyBroker, test)
    if error is not None:
        raise error


@pytest.mark.stress
@pytest.mark.parametrize("broker", PLANTED, ids=lambda broker: broker.__name__)
def test_a_planted_fault_is_noticed(broker: type[ProxyBroker]) -> None:
    """By each of the tests that are there for it, with an error, not by hanging."""
    for test in PLANTED[broker]:
        error = failure(broker, test)
        assert error is not None, f"{test} did not notice"
        assert not hangs(error), f"{test} would hang: {error}"


def test_every_test_notices_something() -> None:
    """A test of the contract that no fault here makes fail may as well be none."""
    assert not set(TESTS) - {test for tests in PLANTED.values() for test in tests}


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_every_test_is_bounded_with_every_fault() -> None:
    """Whatever is wrong with a broker, a test ends (in a stress run; one fault otherwise)."""
    for broker in [*PLANTED][: None if STRESS else 1]:
        for test in TESTS:
            assert not hangs(failure(broker, test)), (broker, test)
