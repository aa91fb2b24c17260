"""What a seed stands for: who publishes, who receives, and what is done to them."""

from __future__ import annotations

import random
from typing import NamedTuple

__all__ = ("FAULTS_S", "REPEATING", "WITH_DELAYS", "WITH_TRANSACTIONS", "Fault", "Schedule")

FAULTS_S = 3.5
"""Seconds in which faults begin, and messages are published."""
LINK = ("cut", "cut", "reset", "stall", "refuse", "kill-broker", "freeze-broker")
GROUP = ("join", "join-process", "leave", "leave", "kill-member", "kill-member")
ODD = {"fail": [0, 5, 20], "poison": [0, 0, 3], "slow": [0, 0, 0, 1, 2], "block": [0, 0, 0, 1, 2]}
"""What handlers do, and how many messages may make them."""
WITH_DELAYS = 1_000
WITH_TRANSACTIONS = 2_000
REPEATING = frozenset({*LINK, "kill-member", "slow", "block"})
"""Faults after which a message may come again: an ack may not have got there."""


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
        members: Who is there at the beginning: tasks of this process, or processes.
        link: Faults of the broker and of the way to it, one after another.
        group: What happens to members, one after another, beside those.
        odd: What handlers do with some messages, by number of the message.
        delays: Whether retries wait in topics, and some messages are published with a delay: that
            is so with seeds from `WITH_DELAYS` on.
        transactional: Whether handlers publish, in one transaction with the group's place: that is
            so with seeds from `WITH_TRANSACTIONS` on, of which every fourth is with delays, too.
        later: Numbers of the messages that are published with a delay.
    """

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.seed = seed
        self.transactional = seed >= WITH_TRANSACTIONS
        self.delays = seed % 4 == 3 if self.transactional else seed >= WITH_DELAYS
        self.publishers = rng.randint(1, 3)
        self.messages = rng.randint(200, 500)
        self.batch = rng.choice([1, 5, 20])
        self.keys = rng.choice([2, 8, 50])
        self.publish_timeout = rng.choice([2.0, 6.0])
        self.session_timeout = rng.choice([1.0, 2.0])
        self.revoke_timeout = rng.choice([0.3, 1.0, 3.0])
        self.concurrency = rng.choice([1, 4, 16])
        self.takes = rng.choice([0.0, 0.001, 0.005])
        self.members = [rng.choice(["task", "process"]) for _ in range(rng.randint(1, 3))]
        # One in five without what may make messages come twice, a machine that is busy included.
        is_gentle = rng.random() < 0.2
        if is_gentle:
            self.session_timeout = 6.0
        kinds = tuple(kind for kind in GROUP if not (is_gentle and kind in REPEATING))
        self.link = [] if is_gentle else self._faults(rng, LINK, rng.randint(1, 3))
        self.group = self._faults(rng, kinds, rng.randint(1 if is_gentle else 0, 3))
        self.odd: dict[int, str] = {}
        for kind, counts in ODD.items():
            if not (is_gentle and kind in REPEATING):
                numbers = rng.sample(range(self.messages), rng.choice(counts))
                self.odd |= dict.fromkeys(numbers, kind)

        self.later = (
            frozenset(rng.sample(range(self.messages), rng.choice([0, 5, 50])))
            if self.delays
            else frozenset[int]()
        )

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
    def repeating(self) -> set[str]:
        """What in it may make messages come again."""
        kinds = {fault.what for fault in (*self.link, *self.group)} | set(self.odd.values())
        return kinds & REPEATING

    def __repr__(self) -> str:
        """All of it, a line for each fault."""
        facts = {
            k: v for k, v in self.__dict__.items() if k not in ("link", "group", "odd", "later")
        }
        odd = {kind: [n for n, k in self.odd.items() if k == kind] for kind in {*self.odd.values()}}
        lines = [
            str(facts),
            f"odd: {odd}",
            f"later: {sorted(self.later)}",
            *(f"link: {f}" for f in self.link),
        ]
        return "\n  ".join([*lines, *(f"group: {f}" for f in self.group)])
