"""What becomes of the decisions that go to the broker in one commit.

All deliveries that were settled since the last commit share one of these, and it knows only those
that somebody waits for: what was handled is freed at its ack, and not at the end of a commit some
thousand messages later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("CONFIRMED", "UNDECIDED", "Outcome")


class Outcome:
    """Open until the broker has the decisions, or never will. The first end stands.

    Attributes:
        is_confirmed: Whether the broker has them.
        is_lost: Whether it never will.
        error: Why not, where that is known of one delivery.
    """

    __slots__ = ("_watchers", "error", "is_confirmed", "is_lost")

    def __init__(self, *, error: BaseException | None = None) -> None:
        self.is_confirmed = False
        self.is_lost = error is not None
        self.error = error
        self._watchers: list[Callable[[], None]] = []

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have somebody told of the end; at once if it has come."""
        if self.is_confirmed or self.is_lost:
            watcher()
        else:
            self._watchers.append(watcher)

    def confirm(self) -> None:
        """The broker has them."""
        self.is_confirmed = not self.is_lost
        self._tell()

    def lose(self) -> None:
        """The broker will not get them, or does not accept them."""
        self.is_lost = not self.is_confirmed
        self._tell()

    def _tell(self) -> None:
        watchers, self._watchers = self._watchers, []
        for tell in watchers:
            tell()


UNDECIDED = Outcome()
"""Of what is in somebody's hands."""
CONFIRMED = Outcome()
"""Of a decision that nobody has to be told."""
CONFIRMED.confirm()
