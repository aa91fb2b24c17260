"""Where a scope lives: the event loop, thread and process it was entered in.

Whether code runs there is asked for every event. `asyncio._get_running_loop` knows, but in
CPython 3.11 it makes a system call each time, to find out whether the process was forked:
0.15 to 0.25 µs, a quarter of what publishing takes. There the same is asked in another way:
asyncio's own loops note the thread that runs them, and forks are counted when they happen.

Source: CPython's ``Modules/_asynciomodule.c``, ``get_running_loop``, 3.11 and 3.12.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

__all__ = ("noting_loop", "process")


class _Process:
    """How often a process was forked on the way to this one; grows in the child alone."""

    def __init__(self) -> None:
        self.forks = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.forks += 1


process = _Process()


def noting_loop(loop: asyncio.AbstractEventLoop) -> Any:
    """The loop, where looking at its ``_thread_id`` is faster than asking asyncio; else ``None``.

    ``_thread_id`` is the identifier of the thread that runs the loop, ``None`` while none does.
    """
    if sys.version_info >= (3, 12) or not isinstance(loop, asyncio.BaseEventLoop):
        return None
    return loop
