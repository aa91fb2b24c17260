"""Which of our own lines are written in full, and which are only counted, with their event ids.

Only lines about one event are counted: they come in floods, and what they say stands in the
summary or in the equal lines before it. All others are rare, and each says something of its own.

Has no clock of its own: what is due is found when the next line comes, or when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from eventflow._log import IDS_PER_LINE

__all__ = ("FIRST", "SAME", "WINDOW_S", "Repeats", "Window")

FIRST = 5
"""Equal lines that are written in full in each window."""

WINDOW_S = 10.0

MAX_WINDOWS = 256

SAME = ("bus", "subscription", "option", "task")
"""What equal lines have in common, next to their event and the type of their error."""


@dataclass(slots=True)
class Window:
    """Equal lines of the last seconds.

    Attributes:
        key: Their event, their values of `SAME`, the type of their error.
        level: Their level.
        opened: Time of the first.
        written: How many were written in full.
        event_ids: The ids of those that were not, and are not in a summary yet; up to 100.
    """

    key: tuple[str, ...]
    level: int
    opened: float
    written: int = 0
    event_ids: list[str] = field(default_factory=list[str])

    def summary(self) -> dict[str, object]:
        """The facts of the line that stands for those held back; starts anew."""
        line, *same = self.key
        facts: dict[str, object] = {
            "event": "eventflow.lines_repeated",
            "line": line,
            "count": len(self.event_ids),
        }
        facts |= {name: value for name, value in zip((*SAME, "error"), same, strict=True) if value}
        facts["event_ids"], self.event_ids = self.event_ids, []
        return facts


class Repeats:
    """Remembers at most 256 kinds of lines, each with at most 100 ids. Not thread-safe."""

    def __init__(self) -> None:
        # In the order in which they were opened, which is that in which they end.
        self._windows: dict[tuple[str, ...], Window] = {}

    def admit(
        self, key: tuple[str, ...], level: int, event_id: str, now: float
    ) -> tuple[bool, list[Window]]:
        """Take note of a line.

        Returns:
            Whether to write it in full, and the windows whose summary has to be written now.
        """
        due = self.due(now)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) == MAX_WINDOWS:
                due += self._end([next(iter(self._windows.values()))])
            window = self._windows[key] = Window(key, level, now)
        if window.written < FIRST:
            window.written += 1
            return True, due
        window.event_ids.append(event_id)
        if len(window.event_ids) == IDS_PER_LINE:
            due.append(window)
        return False, due

    def due(self, now: float) -> list[Window]:
        """The windows that are over and have held something back."""
        over: list[Window] = []
        for window in self._windows.values():
            if now - window.opened < WINDOW_S:
                break
            over.append(window)
        return self._end(over) if over else over

    def next_due(self) -> float | None:
        """When the first window is over that has held something back; ``None`` without one."""
        return next((w.opened + WINDOW_S for w in self._windows.values() if w.event_ids), None)

    def held_back(self) -> list[Window]:
        """Every window that has held something back. Those that go on, go on counting."""
        return [window for window in self._windows.values() if window.event_ids]

    def _end(self, windows: list[Window]) -> list[Window]:
        for window in windows:
            del self._windows[window.key]
        return [window for window in windows if window.event_ids]
