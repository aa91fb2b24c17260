"""What every test gets: skips that count, and a summary of what was left out and why."""

from __future__ import annotations

import gc
import os
from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.servers.kafka import Kafka
    from tests.servers.rabbitmq import RabbitMQ

# Tests of the pytest plugin run suites of their own with it.
pytest_plugins = ["pytester", "tests.watchdog"]

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def pytest_configure() -> None:
    """Collecting makes hundreds of thousands of objects, and none of them is garbage."""
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a real server last: the others say sooner what is wrong."""
    servers = ("rabbitmq", "kafka")
    items.sort(key=lambda item: sum(n + 1 for n, s in enumerate(servers) if _is_of(item, s)))


def pytest_collection_finish() -> None:
    gc.enable()


def _is_of(item: pytest.Item, marker: str) -> bool:
    return item.get_closest_marker(marker) is not None


@pytest.fixture(scope="session")
def ahead(request: pytest.FixtureRequest) -> None:
    """What takes long to bring is begun with, beside the first tests that wait for a server."""
    from tests.servers.ahead import bring

    bring(request.session.items)


@pytest.fixture(scope="session")
def rabbitmq(ahead: None, tmp_path_factory: pytest.TempPathFactory) -> Generator[RabbitMQ]:
    """One RabbitMQ for a whole run, with nothing in it; started when the first test needs it.

    Or the one that ``EVENTFLOW_TEST_RABBITMQ`` names. Tests that stop it are left out then.
    """
    from tests.servers.rabbitmq import RabbitMQ, Somebodys, missing

    if (theirs := Somebodys.named()) is not None:
        yield cast("RabbitMQ", theirs)
        return
    if (lacking := missing()) is not None:
        pytest.skip(f"needs a RabbitMQ: {lacking}")
    server = RabbitMQ.started(tmp_path_factory.mktemp("rabbitmq"))
    try:
        yield server
    finally:
        server.discard()


@pytest.fixture(scope="session")
def can_run_kafka() -> None:
    """For tests that start a Kafka."""
    from tests.servers.kafka import missing

    if (lacking := missing()) is not None:
        pytest.skip(f"needs a Kafka: {lacking}")


@pytest.fixture(scope="session")
def kafka(
    ahead: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Kafka]:
    """One Kafka for a whole run, with nothing in it; started when the first test needs it.

    Or the one that ``EVENTFLOW_TEST_KAFKA`` names. Tests that stop it are left out then.
    """
    from tests.servers.cluster import Somebodys
    from tests.servers.kafka import Kafka

    if (theirs := Somebodys.named()) is not None:
        yield cast("Kafka", theirs)
        return
    request.getfixturevalue("can_run_kafka")
    server = Kafka.started(tmp_path_factory.mktemp("kafka"))
    try:
        yield server
    finally:
        server.kill()


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    match report.longrepr:
        case (_, _, str(reason)):
            return reason.removeprefix("Skipped: ")
        case other:
            return str(other)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip into a failure where nobody would read the list of what was left out."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true does not allow: {_reason(report)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = Counter(_reason(report) for report in terminalreporter.getreports("skipped"))
    if not skipped:
        return
    terminalreporter.section("left out")
    for reason, count in skipped.most_common():
        terminalreporter.write_line(f"{count:5d}  {reason}")
