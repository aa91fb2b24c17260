"""Kafkas beside the usual one, started when the first test needs them; a line on campaigns."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.servers.proxy import ProxiedKafka
from tests.servers.secure_kafka import SecureKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.brokers.kafka.campaign.verdict import Verdict


@pytest.fixture(scope="session")
def secure_kafka(
    can_run_kafka: None, tmp_path_factory: pytest.TempPathFactory
) -> Generator[SecureKafka]:
    """A node beside the open one, with TLS and SASL."""
    server = SecureKafka.started(tmp_path_factory.mktemp("secure-kafka"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def proxied_kafka(
    can_run_kafka: None, tmp_path_factory: pytest.TempPathFactory
) -> Generator[ProxiedKafka]:
    """A node that can be killed and cut off without anybody else noticing."""
    server = ProxiedKafka.started(tmp_path_factory.mktemp("proxied-kafka"))
    try:
        with server.proxy:
            yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def tally() -> Generator[Callable[[Verdict], None]]:
    """Adds up what the schedules of a campaign have shown, and says it at the end."""
    verdicts: list[Verdict] = []
    yield verdicts.append
    if verdicts:
        _said.append(
            f"campaign: {len(verdicts)} schedules, "
            f"{sum(v.published for v in verdicts):,} messages stored "
            f"({sum(v.twice for v in verdicts):,} of them once more), "
            f"{sum(v.refused for v in verdicts):,} refused, "
            f"{sum(v.done for v in verdicts):,} handled, "
            f"{sum(v.outputs for v in verdicts):,} outputs, "
            f"{sum(v.lost for v in verdicts):,} lost, "
            f"{sum(v.duplicates for v in verdicts):,} duplicates "
            f"{dict(sum((v.causes for v in verdicts), Counter[str]()).most_common())}"
        )


_said: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _said:
        terminalreporter.write_line(line)
