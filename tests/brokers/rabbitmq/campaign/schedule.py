"""What a seed stands for: who publishes, who receives, and what is done to them."""

from __future__ import annotations

import random

from eventflow.brokers.rabbitmq import PubSub, Topics, Topology, WorkQueue
from tests.brokers.campaign.schedule import BaseSchedule, Fault

__all__ = ("CONSUMER_TIMEOUT_S", "KINDS", "LONG_S", "Schedule")

CONSUMER_TIMEOUT_S = 2.0
"""Seconds that the server waits for acks, where some handlers take longer."""
LONG_S = 0.5
"""Seconds that some handlers take while others pass."""
KINDS: dict[str, Topology] = {
    "pubsub": PubSub(),
    "pubsub-classic": PubSub(queue_type="classic"),
    "topics": Topics(exchange="campaign"),
    "queue": WorkQueue(),
    "queue-classic": WorkQueue(queue_type="classic"),
}
"""Topologies, by what a schedule calls them."""


class Schedule(BaseSchedule):
    """One run, by its seed.

    Attributes:
        kind: The topology, as in `KINDS`.
        drain_timeout: As the router's: with the short one, who leaves gives back what takes long.
    """

    LINK = (
        *("cut", "cut", "reset", "stall", "refuse", "kill-broker", "stop-broker", "freeze-broker"),
        *("close-connections", "alarm"),
    )
    REPEATING = frozenset({*LINK, "kill-member", "kill-busy", "slow", "block"} - {"alarm"})

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.seed = seed
        self.kind = rng.choice([*KINDS])
        self.publishers = rng.randint(1, 3)
        self.messages = rng.randint(200, 500)
        self.batch = rng.choice([1, 5, 20])
        self.publish_timeout = rng.choice([2.0, 6.0])
        self.concurrency = rng.choice([1, 4, 16])
        self.max_in_flight = rng.choice([200, 16, 50])
        self.takes = rng.choice([0.0, 0.001, 0.005])
        self.members = [rng.choice(["task", "process"]) for _ in range(rng.randint(1, 3))]
        # One in six without what may make messages come twice, a machine that is busy included.
        is_gentle = rng.random() < 1 / 6
        self.heartbeat = 10 if is_gentle else 1
        self._draw(rng, is_gentle=is_gentle, least=(0 if is_gentle else 1, 0))
        self.drain_timeout = rng.choice([0.1, 5.0])
        # In some, members are killed or leave just when they hold something for long, and have
        # acked what came later.
        long = rng.sample(range(self.messages), rng.choice([0, 10, 30]))
        if long and self.concurrency > 1:
            self.odd = dict.fromkeys(long, "long") | self.odd
            kinds = ["leave-busy"] if is_gentle else ["kill-busy", "leave-busy"]
            self.group += [Fault(round(rng.uniform(0.2, 2.0), 2), kind, 2.0, 0) for kind in kinds]
            self.group.sort()
            self.members.append("process")

    @property
    def kills(self) -> bool:
        """Whether the server is killed."""
        return any(fault.what == "kill-broker" for fault in self.link)
