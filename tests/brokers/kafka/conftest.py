"""One Kafka for all tests here: started when the first of them needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.kafka import Kafka, missing
from tests.servers.secure_kafka import SecureKafka

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture(scope="session")
def can_run_kafka() -> None:
    """For tests that start one of their own."""
    if (lacking := missing()) is not None:
        pytest.skip(f"needs a Kafka: {lacking}")


@pytest.fixture(scope="session")
def kafka(can_run_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Generator[Kafka]:
    """A node with nothing in it."""
    server = Kafka.started(tmp_path_factory.mktemp("kafka"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def secure_kafka(
    can_run_kafka: None, tmp_path_factory: pytest.TempPathFactory
) -> Generator[SecureKafka]:
    """Another one, with TLS and SASL."""
    server = SecureKafka.started(tmp_path_factory.mktemp("secure-kafka"))
    try:
        yield server
    finally:
        server.kill()
