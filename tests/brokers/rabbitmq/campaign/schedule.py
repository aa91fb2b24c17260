"""What a seed stands for: who publishes, who receives, and what is done to them."""

from __future__ import annotations

import random
from typing import NamedTuple

from eventflow.brokers.rabbitmq import PubSub, Topics, Topology, WorkQueue

__all__ = ("CONSUMER_TIMEOUT_S", "FAULTS_S", "KINDS", "REPEATING", "Fault", "Schedule")

FAULTS_S = 3.5
"""Seconds in which faults begin, and messages are published."""
LINK = (
    *("cut", "cut", "reset", "stall", "refuse", "kill-broker", "stop-broker", "freeze-broker"),
    *("close-connections", "alarm"),
)
GROUP = ("join", "join-process", "leave", "leave", "kill-member", "kill-member")
ODD = {"fail": [0, 5, 20], "poison": [0, 0, 3], "slow": [0, 0, 0, 1, 2], "block": [0, 0, 0, 1, 2]}
"""What handlers do, and how many messages may make them."""
REPEATING = frozenset({*LINK, "kill-member", "slow", "block"} - {"alarm"})
"""Faults after which a message may come again: an ack may not have got there."""
CONSUMER_TIMEOUT_S = 2.0
"""Seconds that the server waits for acks, where some handlers take longer."""
KINDS: dict[str, Topology] = {
    "pubsub": PubSub(),
    "pubsub-classic": PubSub(queue_type="classic"),
    "topics": Topics(exchange="campaign"),
    "queue": WorkQueue(),
    "queue-classic": WorkQueue(queue_type="classic"),
}
"""Topologies, by what a schedule calls them."""


class Fault(NamedTuple):
    """One thing that is done.

    Attributes:
        at: Seconds after the beginning; later, where the one before it takes longer.
        what: Its kind.
        lasts: Seconds until it is undone, where it can be.
        number: A random one: which member, or after how many bytes.
    """

    at: float
    what: str
    lasts: float
    number: int


class Schedule:
    """One run, by its seed.

    Attributes:
        kind: The topology, as in `KINDS`.
        members: Who is there at the beginning: tasks of this process, or processes.
        link: Faults of the broker and of the way to it, one after another.
        group: What happens to members, one after another, beside those.
        odd: What handlers do with some messages, by number of the message.
    """

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
        kinds = tuple(kind for kind in LINK if not (is_gentle and kind in REPEATING))
        self.link = self._faults(rng, kinds, rng.randint(0 if is_gentle else 1, 3))
        kinds = tuple(kind for kind in GROUP if not (is_gentle and kind in REPEATING))
        self.group = self._faults(rng, kinds, rng.randint(0, 3))
        self.odd: dict[int, str] = {}
        for kind, counts in ODD.items():
            if not (is_gentle and kind in REPEATING):
                numbers = rng.sample(range(self.messages), rng.choice(counts))
                self.odd |= dict.fromkeys(numbers, kind)

    @staticmethod
    def _faults(rng: random.Random, kinds: tuple[str, ...], count: int) -> list[Fault]:
        times = sorted(rng.uniform(0.2, FAULTS_S) for _ in range(count))
        return [
            Fault(
                round(at, 2),
                rng.choice(kinds),
                round(rng.choice([0.1, 0.5, 1.5, 3.0]), 2),
                rng.choice([rng.randrange(200), rng.randrange(20_000)]),
            )
            for at in times
        ]

    @property
    def kills(self) -> bool:
        """Whether the server is killed."""
        return any(fault.what == "kill-broker" for fault in self.link)

    def __repr__(self) -> str:
        """All of it, a line for each fault."""
        facts = {k: v for k, v in self.__dict__.items() if k not in ("link", "group", "odd")}
        odd = {kind: [n for n, k in self.odd.items() if k == kind] for kind in {*self.odd.values()}}
        lines = [str(facts), f"odd: {odd}", *(f"link: {f}" for f in self.link)]
        return "\n  ".join([*lines, *(f"group: {f}" for f in self.group)])
