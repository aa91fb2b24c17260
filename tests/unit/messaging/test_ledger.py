"""A router's ledger: for people, for JSON, and for one log line."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from eventflow.lifecycle.ledger import ledger_of
from eventflow.messaging import HandlerStatistics, Router, RouterStatistics

LEDGER = RouterStatistics(
    name="shop",
    state="closed",
    handlers=(
        HandlerStatistics(name="one", offered=1_200, handled=1_199, failed=1, dead_lettered=1),
        HandlerStatistics(name="two", offered=3, handled=1, skipped=2),
    ),
    abandoned=("task x",),
)


def test_it_is_a_table_for_people() -> None:
    """Columns that are 0 throughout are left out."""
    assert str(LEDGER).splitlines() == [
        "ledger of router 'shop' (closed)",
        "handler  offered  handled  failed  skipped  dead lettered",
        "one        1,200    1,199       1        0              1",
        "two            3        1       0        2              0",
        "total      1,203    1,200       1        2              1",
        "abandoned: task x",
    ]


def test_it_says_when_the_counts_do_not_add_up() -> None:
    """A message that is in no count, or in two."""
    for row in (
        HandlerStatistics(name="h", offered=1),
        HandlerStatistics(name="h", offered=1, handled=1, skipped=1),
    ):
        wrong = RouterStatistics(name="shop", state="closed", handlers=(row,))
        assert not wrong.adds_up
        assert str(wrong).endswith("THE COUNTS DO NOT ADD UP")
    assert LEDGER.adds_up


def test_it_is_plain_values_for_json() -> None:
    plain = json.loads(json.dumps(LEDGER.as_dict()))
    assert [row["name"] for row in plain["handlers"]] == ["one", "two"]
    assert plain["total"]["offered"] == 1_203
    assert plain["adds_up"] is True


def test_it_is_a_few_facts_for_one_line() -> None:
    """And a service takes it for the ledger of a member."""
    assert LEDGER.summary() == {
        "name": "shop",
        "state": "closed",
        "handlers": 2,
        "offered": 1_203,
        "handled": 1_200,
        "failed": 1,
        "skipped": 2,
        "dead_lettered": 1,
        "adds_up": True,
        "could_not_stop": ["task x"],
    }
    assert ledger_of(Router()) is not None


class Accounts:
    """Has a ledger of another kind."""

    def __init__(self, **facts: object) -> None:
        self.ledger = SimpleNamespace(**facts)


@pytest.mark.parametrize(
    "thing",
    [
        Accounts(abandoned=[], adds_up=True, name="a", summary=dict),
        Accounts(abandoned=(), adds_up="nearly", name="a", summary=dict),
        Accounts(abandoned=(), adds_up=True, name="", summary=dict),
        Accounts(abandoned=(), adds_up=True, name="a", summary=None),
        Accounts(),
        object(),
    ],
)
def test_other_attributes_of_that_name_are_no_ledger(thing: object) -> None:
    """A member that keeps accounts is not asked what became of its events."""
    assert ledger_of(thing) is None
