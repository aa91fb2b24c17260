"""Order per key: which of the waiting events may start, given the keys that are busy."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ("NO_LANES", "Lanes")


class Lanes:
    """Events parked because an earlier one with their key is being handled.

    A key is busy from `start` to `release`. An event whose key is busy is parked, and comes
    before anything that arrived later. No I/O and no waiting.
    """

    __slots__ = ("_lanes", "_parked", "_ready", "_sequence")

    def __init__(self) -> None:
        self._lanes: dict[Hashable, deque[int]] = {}
        self._parked: OrderedDict[int, tuple[Hashable, Any]] = OrderedDict()
        self._ready: deque[int] = deque()
        self._sequence = 0

    def __len__(self) -> int:
        """Events parked."""
        return len(self._parked)

    @property
    def has_ready(self) -> bool:
        """Whether an event is parked whose key has become free."""
        return bool(self._ready)

    def next_ready(self) -> tuple[Hashable, Any] | None:
        """Take a parked event whose key has become free; its key stays busy."""
        return self._parked.pop(self._ready.popleft()) if self._ready else None

    def start(self, key: Hashable, entry: Any) -> int | None:
        """Make ``key`` busy for ``entry``, or park the entry and return its number."""
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = deque()
            return None
        self._sequence += 1
        self._parked[self._sequence] = (key, entry)
        lane.append(self._sequence)
        return self._sequence

    def release(self, key: Hashable) -> bool:
        """The event of ``key`` has ended. Returns whether another became ready."""
        lane = self._lanes[key]
        if not lane:
            del self._lanes[key]
            return False
        self._ready.append(lane.popleft())
        return True

    def drop_oldest(self) -> Any:
        """Take away the event that was parked first."""
        number = next(iter(self._parked))
        entry = self._parked[number][1]
        self.withdraw(number)
        return entry

    def withdraw(self, number: int) -> None:
        """Take away a parked event. Who was woken for one that was ready finds the next."""
        key, _ = self._parked.pop(number)
        lane = self._lanes[key]
        if number in lane:
            lane.remove(number)
        else:  # its key had become free
            self._ready.remove(number)
            self.release(key)

    def clear(self) -> list[Any]:
        """Take away every parked event, oldest first."""
        entries = [entry for _, entry in self._parked.values()]
        self._parked.clear()
        self._ready.clear()
        for lane in self._lanes.values():
            lane.clear()
        return entries


NO_LANES = Lanes()
"""Stands in the place of lanes that nobody has needed so far; nothing is ever started in it."""
