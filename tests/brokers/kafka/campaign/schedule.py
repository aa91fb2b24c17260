"""What a seed stands for: who publishes, who receives, and what is done to them."""

from __future__ import annotations

import random

from tests.brokers.campaign.schedule import BaseSchedule

__all__ = ("WITH_DELAYS", "WITH_TRANSACTIONS", "Schedule")

WITH_DELAYS = 1_000
WITH_TRANSACTIONS = 2_000


class Schedule(BaseSchedule):
    """One run, by its seed.

    Attributes:
        delays: Whether retries wait in topics, and some messages are published with a delay: that
            is so with seeds from `WITH_DELAYS` on.
        transactional: Whether handlers publish, in one transaction with the group's place: that is
            so with seeds from `WITH_TRANSACTIONS` on, of which every fourth is with delays, too.
        later: Numbers of the messages that are published with a delay.
    """

    LINK = ("cut", "cut", "reset", "stall", "refuse", "kill-broker", "freeze-broker")
    REPEATING = frozenset({*LINK, "kill-member", "slow", "block"})

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
        self._draw(rng, is_gentle=is_gentle, least=(1, 1 if is_gentle else 0))
        self.later: list[int] = []
        if self.delays:
            self.later = sorted(rng.sample(range(self.messages), rng.choice([0, 5, 50])))
