"""Watermill, beside the Kafka that all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.support import SOURCE, Watermill
from tests.servers import go

if TYPE_CHECKING:
    from tests.servers.kafka import Kafka


@pytest.fixture(scope="session")
def watermill(kafka: Kafka) -> Watermill:
    """The Go program, at the Kafka of this run."""
    program = go.build(SOURCE)
    if isinstance(program, str):
        pytest.skip(f"needs Watermill: {program}")
    return Watermill(program, kafka.address)
