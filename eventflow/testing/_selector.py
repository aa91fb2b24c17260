"""A selector that asks the loop what to do instead of sleeping."""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import FileDescriptorLike

__all__ = ("IdleSelector", "Ready")

Ready = list[tuple[selectors.SelectorKey, int]]


class IdleSelector(selectors.BaseSelector):
    """Passes everything on to a real selector; hands a wait longer than 0 to a callback.

    The callback is `idle`, set by the loop. It gets the real selector and returns what is ready,
    possibly nothing.
    """

    def __init__(self) -> None:
        self.real = selectors.DefaultSelector()
        self.idle: Callable[[selectors.BaseSelector], Ready] | None = None

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self.real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self.real.unregister(fileobj)

    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self.real.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> Ready:
        if self.idle is None or (timeout is not None and timeout <= 0):
            return self.real.select(timeout)
        return self.idle(self.real)

    def close(self) -> None:
        self.idle = None  # the loop's bound method: a cycle
        self.real.close()

    def get_key(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self.real.get_key(fileobj)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self.real.get_map()
