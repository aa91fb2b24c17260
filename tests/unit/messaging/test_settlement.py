"""The states of a delivery: every sequence of decisions, and what each returns."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from eventflow.errors import SettleError, UnsupportedFeatureError
from eventflow.messaging import Delivery, Features, Message, Settlement, SettlementState


class Noting:
    """A backend that notes decisions down."""

    def __init__(self, *, nack_delay: bool = True) -> None:
        self.features = Features(backend="noting", nack_delay=nack_delay)
        self.settled: list[tuple[SettlementState, float, int | None]] = []

    def settle(self, delivery: Settlement) -> None:
        if delivery.state is SettlementState.NACKED:
            self.settled.append((delivery.state, delivery.nack_delay, delivery.nack_failures))
        else:
            self.settled.append((delivery.state, 0.0, None))


def new(settler: Noting | None = None) -> Delivery:
    return Delivery(Message(id="m-1"), topic="t", settler=settler or Noting())


def test_the_first_decision_stands() -> None:
    """Watermill's truth table: whoever comes second learns whether it agrees."""
    for first, second in itertools.product(("ack", "nack"), repeat=2):
        settler = Noting()
        delivery = new(settler)
        assert getattr(delivery, first)() is True
        assert getattr(delivery, second)() is (first == second)
        assert getattr(delivery, first)() is True
        assert delivery.state.value == f"{first}ed"
        assert len(settler.settled) == 1, "the backend hears of the first decision only"


def test_a_decision_after_the_end_is_none() -> None:
    settler = Noting()
    delivery = new(settler)
    delivery.lost()
    assert delivery.state is SettlementState.RELEASED
    assert (delivery.ack(), delivery.nack()) == (False, False)
    assert settler.settled == []


def test_every_sequence_of_four_steps() -> None:
    """A model of the machine: state, and whether it ended, after each of all sequences."""
    for steps in itertools.product(("ack", "nack", "confirm", "lose"), repeat=4):
        machine = Settlement(Noting())
        state, ended = "pending", False
        for step in steps:
            match step:
                case "ack" | "nack":
                    agrees = machine.ack() if step == "ack" else machine.nack(delay=1.0, failures=2)
                    state = f"{step}ed" if state == "pending" else state
                    assert agrees is (state == f"{step}ed")
                case "confirm":
                    assert machine.confirm() is (state != "pending" and not ended)
                    ended = ended or state != "pending"
                case _:
                    assert machine.lose(SettleError()) is (not ended)
                    if not ended and state == "pending":
                        state = "released"
                    ended = True
            assert machine.state.value == state
            assert machine.is_ended is ended


def test_a_nack_carries_its_delay_and_the_failures() -> None:
    settler = Noting()
    new(settler).nack(delay=2.5, failures=3)
    assert settler.settled == [(SettlementState.NACKED, 2.5, 3)]


def test_a_delay_that_the_backend_can_not_keep_is_refused() -> None:
    delivery = new(Noting(nack_delay=False))
    with pytest.raises(UnsupportedFeatureError, match="nack delay"):
        delivery.nack(delay=1.0)
    assert delivery.state is SettlementState.PENDING
    assert delivery.nack()


@pytest.mark.parametrize("delay", [-1.0, float("inf"), float("nan")])
def test_a_delay_is_a_finite_number_from_0(delay: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        new().nack(delay=delay)


async def test_settled_waits_for_the_brokers_word() -> None:
    """All who wait are told; one who is cancelled does not cancel it for the others."""
    delivery = new()
    waiting = [asyncio.create_task(delivery.settled()) for _ in range(3)]
    await asyncio.sleep(0)
    delivery.ack()
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting), "an ack alone is not the broker's word"
    waiting[0].cancel()
    delivery.confirmed()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None, None]
    await delivery.settled()


async def test_settled_raises_where_the_message_comes_again() -> None:
    for decide in ("ack", "nack", None):
        delivery = new()
        if decide is not None:
            getattr(delivery, decide)()
        waiting = asyncio.create_task(delivery.settled())
        await asyncio.sleep(0)
        delivery.lost()
        with pytest.raises(SettleError, match="comes again"):
            await waiting
        with pytest.raises(SettleError):
            await delivery.settled()
        delivery.confirmed()
        assert delivery.error is not None, "what is lost stays lost"


def test_its_repr_tells_its_state() -> None:
    delivery = new()
    delivery.ack()
    assert repr(delivery) == "<Delivery of 'm-1' from 't', acked>"
