"""Kafkas beside the usual one, started when the first test needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.proxy import ProxiedKafka
from tests.servers.secure_kafka import SecureKafka

if TYPE_CHECKING:
    from collections.abc import Generator


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
