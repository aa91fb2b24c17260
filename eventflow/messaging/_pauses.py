"""Who has paused a handler, and what may start all the same. Plain state, without waiting."""

from __future__ import annotations

__all__ = ("Pauses",)


class Pauses:
    """Pauses by whoever holds them: a handler starts nothing while there is one.

    A holder may let a number of jobs start as a probe. They start once each holder lets them.

    Attributes:
        reasons: Why, by holder, in the order in which they came; for reading.
    """

    __slots__ = ("_probes", "reasons")

    def __init__(self) -> None:
        self.reasons: dict[object, str] = {}
        self._probes: dict[object, int] = {}

    def __bool__(self) -> bool:
        """Whether somebody has paused it, probes or not."""
        return bool(self.reasons)

    @property
    def hold(self) -> bool:
        """Whether nothing may start."""
        return not all(self._probes.get(by) for by in self.reasons)

    def add(self, by: object, reason: str) -> None:
        """Pause; a probe of the same holder is over."""
        self.reasons[by] = reason
        self._probes.pop(by, None)

    def remove(self, by: object) -> bool:
        """Take a pause back. Whether there was one."""
        self._probes.pop(by, None)
        return self.reasons.pop(by, None) is not None

    def let(self, by: object, count: int) -> bool:
        """Let this many jobs start. Whether the holder has paused it at all."""
        if by not in self.reasons:
            return False
        self._probes[by] = count
        return True

    def started(self) -> None:
        """A probe was started."""
        for by in self.reasons:
            self._probes[by] -= 1
