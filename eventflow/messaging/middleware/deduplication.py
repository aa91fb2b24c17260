"""Where it is kept what was handled already: a protocol for stores, and one in memory."""

from __future__ import annotations

import asyncio
import enum
from collections import OrderedDict
from typing import Protocol

from eventflow.lifecycle.options import check_seconds, check_whole

__all__ = ("DeduplicationStore", "MemoryDeduplicationStore", "Reservation")


class Reservation(enum.Enum):
    """What a store says to who asks for a key."""

    GRANTED = "granted"
    """It is yours: handle the message, then record or release it."""
    RUNNING = "running"
    """Somebody has it, and has not ended yet."""
    RECORDED = "recorded"
    """It was handled."""


class DeduplicationStore(Protocol):
    """Keeps which keys are handled now, and which were; for `Deduplicate`.

    Each method is atomic, also among processes where the store is shared by several. Keys are
    texts of any length and content. ``owner`` stands for one attempt.
    """

    async def reserve(self, key: str, owner: str, *, lease: float) -> Reservation:
        """Ask for a key: granted if nobody has it and it was not recorded.

        Args:
            key: The key.
            owner: Who asks.
            lease: Seconds after which it is free again, unless it is recorded or released
                before: the process may have died.
        """
        ...

    async def record(self, key: str, owner: str) -> None:
        """Say that it was handled, also where the lease is over: `reserve` says so from now on.

        For how long, or for how many, is the store's to say. It has to be longer than a message
        can take from its first delivery to its last.
        """
        ...

    async def release(self, key: str, owner: str) -> None:
        """Give it back unhandled. Does nothing unless it is ``owner`` who has it."""
        ...


class MemoryDeduplicationStore:
    """Keeps keys in the process, bounded in number and time.

    It knows what this process has handled since it began: enough for redeliveries within it, as
    after a lost connection; not for those after a restart, nor between instances. Belongs to
    one event loop.

    Args:
        max_keys: Most keys that are remembered once they were handled; the oldest go first.
            Those that are being handled are not among them, and never forgotten.
        ttl: Seconds that one is remembered; above 0.

    Raises:
        InvalidOptionError: An option is out of range.
    """

    def __init__(self, *, max_keys: int = 100_000, ttl: float = 3_600.0) -> None:
        check_whole("max_keys", max_keys)
        check_seconds("ttl", ttl, least=0.001)
        self._max_keys = max_keys
        self._ttl = ttl
        self._running: dict[str, tuple[str, float]] = {}
        self._recorded: OrderedDict[str, float] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        """How many keys it holds."""
        return len(self._running) + len(self._recorded)

    async def reserve(self, key: str, owner: str, *, lease: float) -> Reservation:
        """Ask for a key; see `DeduplicationStore`."""
        now = asyncio.get_running_loop().time()
        self._forget(now)
        if key in self._recorded:
            return Reservation.RECORDED
        if key in self._running and self._running[key][1] > now:
            return Reservation.RUNNING
        self._running[key] = (owner, now + lease)
        return Reservation.GRANTED

    async def record(self, key: str, owner: str) -> None:
        """Say that it was handled."""
        now = asyncio.get_running_loop().time()
        self._running.pop(key, None)
        self._recorded[key] = now + self._ttl
        self._recorded.move_to_end(key)
        self._forget(now)

    async def release(self, key: str, owner: str) -> None:
        """Give it back unhandled."""
        if key in self._running and self._running[key][0] == owner:
            del self._running[key]

    def _forget(self, now: float) -> None:
        recorded = self._recorded
        while recorded and (len(recorded) > self._max_keys or next(iter(recorded.values())) <= now):
            recorded.popitem(last=False)
