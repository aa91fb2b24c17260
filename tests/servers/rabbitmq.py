"""A RabbitMQ: the Debian package's, as a child process on ports of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.servers.process import Server, ServerError, free_port
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("Peers", "PortMapper", "ProxiedRabbitMQ", "RabbitMQ", "Somebodys", "missing")

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
"""Those in the path switch to a user of their own."""

CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
log.console = true
log.console.level = warning
log.file = false
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 50MB
"""


def missing() -> str | None:
    """What a RabbitMQ can't run without here; ``None`` when all is there."""
    lacking = [name for name in ("epmd", "setpriv") if shutil.which(name) is None]
    if not (PROGRAMS / "rabbitmq-server").exists():
        lacking.append("rabbitmq-server")
    return f"{' and '.join(lacking)} not found" if lacking else None


class PortMapper(Server):
    """Erlang's, which nodes and tools find each other by."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        super().__init__(
            ["epmd", "-address", "127.0.0.1", "-port", str(port)], directory=directory, port=port
        )


class Peers:
    """What nodes find and trust each other by; a node that is alone has its own.

    Attributes:
        mapper: Knows their ports.
        cookie: What they all know.
    """

    def __init__(self, directory: Path) -> None:
        self.mapper = PortMapper(directory)
        self.cookie = uuid.uuid4().hex


class RabbitMQ(Server):
    """A node, with its data in a directory. It lets in ``guest``, with the password ``guest``.

    Args:
        directory: For its data.
        extra: More lines of its configuration; they count where ours say something else.
        node: Its name among nodes; by default, one of its own.
        peers: Of the cluster that it belongs to; ``None`` where it is alone.

    Attributes:
        address: Where clients find it.
        node: Its name among nodes.
        is_ours: Whether it was started for the tests, and may be stopped.
    """

    is_ours = True

    def __init__(
        self, directory: Path, *, extra: str = "", node: str = "", peers: Peers | None = None
    ) -> None:
        port = free_port()
        self._is_alone = peers is None
        peers = peers or Peers(directory)
        self._mapper = peers.mapper
        self.node = node or f"ef{uuid.uuid4().hex[:8]}@localhost"
        cookie = directory / ".erlang.cookie"
        cookie.write_text(peers.cookie)
        cookie.chmod(0o400)
        directory.joinpath("rabbitmq.conf").write_text((CONFIGURATION + extra).format(port=port))
        directory.joinpath("enabled_plugins").write_text("[].")
        self._environment = {
            "HOME": str(directory),
            # The script becomes the node, rather than starting one that outlives it.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._mapper.port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none"
            ),
        }
        super().__init__([str(PROGRAMS / "rabbitmq-server")], directory=directory, port=port)
        self.address = f"amqp://guest:guest@127.0.0.1:{port}"

    def launch(self, env: Mapping[str, str] | None = None) -> None:
        """Start it, without waiting; the port mapper before it."""
        if not self._mapper.is_running:
            self._mapper.start(within=10)
        super().launch(self._environment | dict(env or {}))

    @classmethod
    def started(cls, directory: Path, *, extra: str = "") -> Self:
        """One that runs; tried again where somebody else took its port first.

        Args:
            directory: For its data.
            extra: More lines of its configuration; they count where ours say something else.

        Raises:
            ServerError: It does not start.
        """
        failures: list[ServerError] = []
        while len(failures) < 3:
            own = directory / str(len(failures))
            own.mkdir()
            server = cls(own, extra=extra)
            try:
                server.start(within=60)
            except ServerError as exc:
                server.discard()
                failures.append(exc)
            else:
                return server
        raise failures[-1]

    def discard(self) -> None:
        """It will not be used any more."""
        self.kill()
        if self._is_alone:
            self._mapper.kill()

    def control(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` says; half a second a call.

        Raises:
            ServerError: It says that this went wrong.
        """
        made = subprocess.run(
            [str(PROGRAMS / "rabbitmqctl"), "--quiet", *arguments],
            env=os.environ | self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if made.returncode:
            raise ServerError(f"rabbitmqctl {arguments[0]}:\n{made.stdout}{made.stderr}")
        return made.stdout


class ProxiedRabbitMQ(RabbitMQ):
    """Has a proxy in front; its own port is for observers.

    Attributes:
        proxy: In front of it.
        linked: Where clients find it that are to go through the proxy.
    """

    def __init__(self, directory: Path, *, extra: str = "") -> None:
        super().__init__(directory, extra=extra)
        self.proxy = Proxy(self.port)
        self.linked = f"amqp://guest:guest@127.0.0.1:{self.proxy.port}"

    def discard(self) -> None:
        """It will not be used any more."""
        super().discard()
        self.proxy.give_up()


class Somebodys:
    """One that was there before and stays: it can't be stopped, and may have more in it."""

    is_ours = False

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def named(cls) -> Somebodys | None:
        """The one that ``EVENTFLOW_TEST_RABBITMQ`` names, as ``amqp://…``; ``None`` without it."""
        address = os.environ.get("EVENTFLOW_TEST_RABBITMQ")
        return cls(address) if address else None

    def freeze(self, *_: object, **__: object) -> None:
        """Not possible, so the test is left out, and counted as such."""
        pytest.skip("stops its RabbitMQ, and EVENTFLOW_TEST_RABBITMQ names somebody's")

    thaw = kill = start = start_again = control = freeze
