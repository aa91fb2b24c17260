"""What a seed stands for, whatever the broker: faults at their times, and handlers that are odd."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

__all__ = ("FAULTS_S", "BaseSchedule", "Fault", "seeds")

FAULTS_S = 3.5
"""Seconds in which faults begin, and messages are published."""
GROUP = ("join", "join-process", "leave", "leave", "kill-member", "kill-member")
ODD = {"fail": [0, 5, 20], "poison": [0, 0, 3], "slow": [0, 0, 0, 1, 2], "block": [0, 0, 0, 1, 2]}
"""What handlers do, and how many messages may make them."""


def seeds(usual: Sequence[int]) -> Sequence[int]:
    """The one that ``EVENTFLOW_SEED`` names, or those that are usual."""
    one = os.environ.get("EVENTFLOW_SEED")
    return [int(one)] if one else usual


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


class BaseSchedule:
    """One run, by its seed.

    Attributes:
        LINK: Faults that there are of the broker and of the way to it.
        REPEATING: Faults after which a message may come again: an ack may not have got there.
        members: Who is there at the beginning: tasks of this process, or processes.
        link: Faults of the broker and of the way to it, one after another.
        group: What happens to members, one after another, beside those.
        odd: What handlers do with some messages, by number of the message.
    """

    LINK: ClassVar[tuple[str, ...]]
    REPEATING: ClassVar[frozenset[str]]

    seed: int
    publishers: int
    messages: int
    batch: int
    publish_timeout: float
    members: list[str]

    def _draw(self, rng: random.Random, *, is_gentle: bool, least: tuple[int, int]) -> None:
        """Draw the faults.

        Args:
            rng: What they are drawn with.
            is_gentle: Whether to leave out what may make messages come twice.
            least: How many there are at least of the link, and of the group.
        """

        def left(kinds: Sequence[str]) -> list[str]:
            return [kind for kind in kinds if not (is_gentle and kind in self.REPEATING)]

        self.link = self._faults(rng, left(self.LINK), least[0])
        self.group = self._faults(rng, left(GROUP), least[1])
        self.odd: dict[int, str] = {}
        for kind in left([*ODD]):
            numbers = rng.sample(range(self.messages), rng.choice(ODD[kind]))
            self.odd |= dict.fromkeys(numbers, kind)

    @staticmethod
    def _faults(rng: random.Random, kinds: Sequence[str], least: int) -> list[Fault]:
        count = rng.randint(least, 3) if kinds else 0
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
        return kinds & self.REPEATING

    def __repr__(self) -> str:
        """All of it, a line for each fault."""
        facts = {k: v for k, v in self.__dict__.items() if k not in ("link", "group", "odd")}
        odd = {kind: [n for n, k in self.odd.items() if k == kind] for kind in {*self.odd.values()}}
        lines = [str(facts), f"odd: {odd}", *(f"link: {f}" for f in self.link)]
        return "\n  ".join([*lines, *(f"group: {f}" for f in self.group)])
