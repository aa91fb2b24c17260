"""What becomes of an open bus in a forked child: a copy that nobody runs.

The child's main thread has the identity of the parent's, and the copied loop still names it
as its thread, so `publish` can't see the difference by what it looks at for every event.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ("forget_in_children",)


class _Forgets(Protocol):
    def forget_home(self) -> None: ...


# Entered at least once, and still there. Only for the hook, which can't be taken back.
_entered: weakref.WeakSet[_Forgets] = weakref.WeakSet()
_hooked = False


def forget_in_children(bus: _Forgets) -> None:
    """Call ``bus.forget_home()`` in every process that is forked off from now on."""
    global _hooked  # noqa: PLW0603 - one hook for the process, and none at import
    _entered.add(bus)
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked = True
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    for bus in tuple(_entered):
        bus.forget_home()
