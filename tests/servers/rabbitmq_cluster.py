"""A RabbitMQ of three nodes, each a child process on ports of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.servers.process import ServerError
from tests.servers.rabbitmq import Peers, RabbitMQ

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("Member", "RabbitMQCluster")

NODES = ("n0@localhost", "n1@localhost", "n2@localhost")
CONFIGURATION = """\
cluster_formation.peer_discovery_backend = classic_config
{nodes}
cluster_partition_handling = pause_minority
"""
ADVANCED = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 10000}]}]."
"""A node that can't move a message, as the other queue's leader has died, tries again after 180 s
unless it is told otherwise."""
START_S = 90.0
"""Seconds until all have found each other; 24 on a machine of two cores."""


class Member(NamedTuple):
    """A node's part of a quorum queue.

    Attributes:
        node: The node.
        leads: Whether it leads the queue.
        stored: How far it has got, as a number that grows; -1 where it says nothing.
    """

    node: RabbitMQ
    leads: bool
    stored: int


class RabbitMQCluster:
    """Three nodes, each of which lets in ``guest``.

    Attributes:
        nodes: The nodes.
    """

    def __init__(self, directory: Path) -> None:
        names = "\n".join(
            f"cluster_formation.classic_config.nodes.{number} = {name}"
            for number, name in enumerate(NODES, 1)
        )
        self._peers = Peers(directory)
        self.nodes: list[RabbitMQ] = []
        for name in NODES:
            own = directory / name.partition("@")[0]
            own.mkdir()
            own.joinpath("advanced.config").write_text(ADVANCED)
            extra = CONFIGURATION.format(nodes=names)
            self.nodes.append(RabbitMQ(own, extra=extra, node=name, peers=self._peers))

    def address(self, first: int = 0) -> str:
        """All nodes in one address, in turn from one of them."""
        turned = [*self.nodes[first:], *self.nodes[:first]]
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in turned)
        return f"amqp://guest:guest@{hosts}/"

    @classmethod
    def started(cls, directory: Path) -> Self:
        """One that runs; tried again where somebody else took a port first.

        Raises:
            ServerError: It does not start.
        """
        failures: list[ServerError] = []
        while len(failures) < 3:
            own = directory / str(len(failures))
            own.mkdir()
            cluster = cls(own)
            try:
                cluster._start()
            except ServerError as exc:
                cluster.discard()
                failures.append(exc)
            else:
                return cluster
        raise failures[-1]

    def _start(self) -> None:
        for node in self.nodes:
            node.launch()
        deadline = time.monotonic() + START_S
        for node in self.nodes:
            while not node.answers():
                node.check(deadline)
                time.sleep(0.05)
        while self.running() != {*NODES}:
            if time.monotonic() > deadline:
                raise ServerError(f"only {sorted(self.running())} have found each other")
            time.sleep(0.2)

    def discard(self) -> None:
        """It will not be used any more."""
        for node in self.nodes:
            node.discard()
        self._peers.mapper.kill()

    def control(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` says at the first node that runs."""
        return next(node for node in self.nodes if node.is_running).control(*arguments)

    def running(self) -> set[str]:
        """The names of nodes that run, as one of them sees it."""
        return {*self._printed('"~s~n", [N]', "N <- rabbit_nodes:all_running()")}

    def members(self, queue: str) -> list[Member]:
        """The members of a quorum queue, by what each says of itself."""
        keys = '<<"Node Name">>, <<"Raft State">>, <<"Commit Index">>'
        lines = self._printed(
            f'"~s ~0p ~0p~n", [proplists:get_value(K, P) || K <- [{keys}]]',
            f'P <- rabbit_quorum_queue:status(<<"/">>, <<"{queue}">>)',
        )
        found: list[Member] = []
        for name, state, stored in (line.split(" ", 2) for line in lines):
            stands = int(stored) if stored.isdigit() else -1
            found.append(Member(self._named(name), state == "leader", stands))
        return found

    def leader(self, queue: str) -> RabbitMQ | None:
        """The node that leads a quorum queue; ``None`` while there is none."""
        return next((one.node for one in self.members(queue) if one.leads), None)

    def move(self, queue: str, to: RabbitMQ) -> None:
        """Have another node lead a quorum queue."""
        leader = self.leader(queue)
        assert leader is not None
        name = f"'%2F_{queue}'"
        self.control(
            "eval", f"ra:transfer_leadership({{{name}, '{leader.node}'}}, {{{name}, '{to.node}'}})."
        )

    def receivers(self, queue: str) -> list[RabbitMQ]:
        """The nodes that who receives from a queue is connected to."""
        found = self.control("list_consumers", "--no-table-headers", "queue_name", "channel_pid")
        pairs = (line.split() for line in found.splitlines())
        pids = [pid for name, pid in pairs if name == queue]
        return [self._named(pid.strip("<>").split(".")[0]) for pid in pids]

    def queues(self) -> list[str]:
        """The names of all queues."""
        return self.control("list_queues", "--no-table-headers", "name").split()

    def _named(self, name: str) -> RabbitMQ:
        return next(node for node in self.nodes if node.node == name)

    def _printed(self, what: str, each: str) -> list[str]:
        """The lines that a node prints of itself and the others."""
        found = self.control("eval", f"[io:format({what}) || {each}].")
        return [line for line in found.splitlines() if line.startswith("n")]
