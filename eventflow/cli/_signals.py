"""SIGTERM and SIGINT: the first asks to stop, the second cuts, the third leaves at once.

The handlers are set with `signal.signal`, not by the event loop, so that they also run while
Python code blocks it. None of them raises anything.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from eventflow.cli._exit import say

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

    from eventflow.cli._exit import Guard

__all__ = ("NUMBERS", "START_BOUND_S", "StopSignals")

NUMBERS = (signal.SIGTERM, signal.SIGINT)

START_BOUND_S = 4.7
"""Most that a start takes to end after a signal; 5 s with the interpreter's own end."""


def _do_nothing() -> None: ...


class StopSignals:
    """Counts the signals that ask a process to stop.

    Attributes:
        count: How many came.
        number: The first one; 0 before it.
        last_act: Called before the third one ends the process.
    """

    def __init__(self, guard: Guard) -> None:
        self.count = 0
        self.number = 0
        self.last_act: Callable[[], None] = lambda: None
        self._guard = guard
        self._tell: Callable[[int], None] | None = None
        self._wake: Callable[[], None] = _do_nothing
        self._is_loading = True
        self._pid = os.getpid()

    def install(self) -> None:
        """Handle both signals from now on, and those that came before, if they were held back."""
        self._guard.on_signal = self._noticed
        self._guard.watch_signals()
        for number in NUMBERS:
            signal.signal(number, self._handle)
        # The interpreter's own end puts the system's handlers back, which would turn an exit that
        # is as good as done into a death by signal. Registered first, it is called last.
        atexit.register(_ignore_signals)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)

    def loaded(self) -> None:
        """From here on a signal raises nothing: it is counted, for `told_to`."""
        self._is_loading = False

    @contextlib.contextmanager
    def told_to(
        self, tell: Callable[[int], None], *, wake: Callable[[], None] = _do_nothing
    ) -> Generator[None]:
        """Hand the count on with each signal.

        Args:
            tell: Called in a signal handler.
            wake: Called in another thread, to end a wait of the main thread that a signal has not
                interrupted.
        """
        self._tell, self._wake = tell, wake
        self.loaded()
        if self.count:
            tell(self.count)
        try:
            yield
        finally:
            self._tell, self._wake = None, _do_nothing

    @property
    def exit_code(self) -> int:
        """What a process ends with that a signal has ended: 143 or 130."""
        return 128 + self.number

    def _noticed(self, number: int) -> None:
        """Called in the guard's thread: the handler runs as soon as the main thread does."""
        if number not in NUMBERS:
            return
        if self._is_loading:
            self._guard.set_deadline(0, 128 + (self.number or number), _loading)
        else:
            self._wake()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A process that the service's code has forked: it ends as if this were not there.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.count += 1
        self.number = self.number or number
        if self.count >= 3:
            self.last_act()
            say("third signal: leaving at once, without cleaning up")
            log = sys.modules.get("eventflow._log")
            if log is not None:  # else nothing was logged
                log.flush_repeats_at_once()
            os._exit(128 + number)
        if self._tell is not None:
            self._tell(self.count)
        elif self._is_loading:
            # Nothing has been entered, so nothing has to be left. By the guard's thread: an
            # exception raised here would come out in the middle of any code.
            self._guard.set_deadline(0, self.exit_code, _loading)


def _ignore_signals() -> None:
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _loading() -> str:
    return "stopped while it was loaded"
