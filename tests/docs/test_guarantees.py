"""docs/guarantees.md says what the backends declare."""

from __future__ import annotations

from dataclasses import fields

from eventflow.brokers.kafka import KafkaBroker
from eventflow.messaging import Features
from eventflow.testing.contract import BrokerContract
from tests.docs.guarantees import BACKENDS, ON_REQUEST, PAGE, ROWS, written
from tests.project.source import ROOT


def test_the_table_is_current() -> None:
    """If not: ``python tests/docs/guarantees.py`` writes it."""
    assert PAGE.read_text(encoding="utf-8") == written()


def test_what_is_there_on_request() -> None:
    """As it comes it is not; with the option it is."""
    assert set(ON_REQUEST) == {("kafka", "transactional")}
    broker = KafkaBroker("localhost")
    assert not broker.subscriber(group="g").features.transactional
    assert broker.subscriber(group="g", transactional=True).features.transactional


def test_every_backend_and_feature_is_in_the_table() -> None:
    """And what shows a feature is a test of the contract."""
    packages = {p.parent.name for p in ROOT.joinpath("eventflow/brokers").glob("*/__init__.py")}
    assert set(BACKENDS) == packages
    assert {name: features.backend for name, features in BACKENDS.items()} == {
        name: name for name in packages
    }
    assert set(ROWS) == {field.name for field in fields(Features)} - {"backend"}
    for _, test in ROWS.values():
        assert hasattr(BrokerContract, f"test_{test}"), test
