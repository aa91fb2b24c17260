"""RabbitMQs beside the usual one, started when the first test needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.rabbitmq import ProxiedRabbitMQ, missing
from tests.servers.secure_rabbitmq import SecureRabbitMQ

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture(scope="session")
def proxied_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Generator[ProxiedRabbitMQ]:
    """Beside the usual one, started when the first test needs it."""
    if (lacking := missing()) is not None:
        pytest.skip(f"needs a RabbitMQ: {lacking}")
    server = ProxiedRabbitMQ.started(tmp_path_factory.mktemp("proxied-rabbitmq"))
    try:
        with server.proxy:
            yield server
    finally:
        server.discard()


@pytest.fixture(scope="session")
def secure_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Generator[SecureRabbitMQ]:
    """A node with TLS, users, and a limit on what a message has."""
    if (lacking := missing()) is not None:
        pytest.skip(f"needs a RabbitMQ: {lacking}")
    server = SecureRabbitMQ.started(tmp_path_factory.mktemp("secure-rabbitmq"))
    try:
        server.add_users()
        yield server
    finally:
        server.discard()
