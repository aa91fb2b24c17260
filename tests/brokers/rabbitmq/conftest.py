"""RabbitMQs beside the usual one, started when the first test needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.rabbitmq import ProxiedRabbitMQ, missing
from tests.servers.rabbitmq_cluster import RabbitMQCluster
from tests.servers.secure_rabbitmq import SecureRabbitMQ

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def proxied_rabbitmq(one_with_a_proxy: ProxiedRabbitMQ) -> Generator[ProxiedRabbitMQ]:
    """Beside the usual one; its link is whole again after each test, however that ended."""
    yield one_with_a_proxy
    one_with_a_proxy.proxy.restore()


@pytest.fixture(scope="session")
def one_with_a_proxy(tmp_path_factory: pytest.TempPathFactory) -> Generator[ProxiedRabbitMQ]:
    """Started when the first test needs it."""
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


@pytest.fixture(scope="session")
def rabbitmq_cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[RabbitMQCluster]:
    """Three nodes."""
    if (lacking := missing()) is not None:
        pytest.skip(f"needs a RabbitMQ: {lacking}")
    cluster = RabbitMQCluster.started(tmp_path_factory.mktemp("rabbitmq-cluster"))
    try:
        yield cluster
    finally:
        cluster.discard()
