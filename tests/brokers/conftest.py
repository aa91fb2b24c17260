"""A line on each campaign of random faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.brokers.campaign.verdict import in_all

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.brokers.campaign.verdict import BaseVerdict


@pytest.fixture(scope="session")
def tally() -> Generator[Callable[[BaseVerdict], None]]:
    """Adds up what the schedules of a campaign have shown, and says it at the end."""
    verdicts: list[BaseVerdict] = []
    yield verdicts.append
    brokers = dict.fromkeys(verdict.BROKER for verdict in verdicts)
    _said.extend(in_all([v for v in verdicts if broker == v.BROKER]) for broker in brokers)


_said: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _said:
        terminalreporter.write_line(line)
