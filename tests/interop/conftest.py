"""Watermill, beside the Kafka or the RabbitMQ that all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.support import SOURCE, Watermill
from tests.servers import go

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.kafka import Kafka


@pytest.fixture(scope="session")
def program() -> Path:
    """The Go program."""
    program = go.build(SOURCE)
    if isinstance(program, str):
        pytest.skip(f"needs Watermill: {program}")
    return program


@pytest.fixture(scope="session")
def watermill(kafka: Kafka, program: Path) -> Watermill:
    """It, at the Kafka of this run."""
    return Watermill(program, (f"-brokers={kafka.address}",))
