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
import threading
from typing import TYPE_CHECKING

from eventflow.cli._exit import say

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

    from eventflow.cli._exit import Guard

__all__ = ("NUMBERS", "START_BOUND_S", "StopSignals")

NUMBERS = (signal.SIGTERM, signal.SIGINT)

HEARD_S = 0.5
"""Until the third signal ends a process whose main thread does not get to the handler."""

START_BOUND_S = 4.7
"""Most that a start takes to end after a signal; 5 s with the interpreter's own end."""


def _do_nothing(unheard: bool) -> None: ...


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
        self._notice: Callable[[bool], None] = _do_nothing
        self._noticed = 0
        self._is_loading = True
        self._is_ending = False
        self._loading = threading.RLock()  # a handler may run while the main thread has it
        self._forking = threading.local()
        self._pid = os.getpid()

    def install(self) -> None:
        """Handle both signals from now on, and those that came before, if they were held back."""
        self._guard.on_signal = self._in_guard
        self._guard.watch_signals()
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork,
            after_in_child=self._in_child,
        )
        for number in NUMBERS:
            signal.signal(number, self._handle)
        # The interpreter's own end puts the system's handlers back, which would turn an exit that
        # is as good as done into a death by signal. Registered first, it is called last.
        atexit.register(_ignore_signals)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)

    def loaded(self) -> None:
        """From here on a signal raises nothing: it is counted, for `told_to`.

        Does not return where one has come before: the guard's thread ends the process then, and
        may need a moment for that, in which nothing may be entered any more.
        """
        with self._loading:
            self._is_loading = False
        while self._is_ending:
            signal.pause()

    @contextlib.contextmanager
    def told_to(
        self, tell: Callable[[int], None], *, notice: Callable[[bool], None] = _do_nothing
    ) -> Generator[None]:
        """Hand the count on with each signal.

        Args:
            tell: Called in a signal handler.
            notice: Called in another thread, to wake the main thread where a signal has not; with
                whether the handler has not run yet at all.
        """
        self._tell, self._notice = tell, notice
        self.loaded()
        if self.count:
            tell(self.count)
        try:
            yield
        finally:
            self._tell, self._notice = None, _do_nothing

    @property
    def exit_code(self) -> int:
        """What a process ends with that a signal has ended: 143 or 130."""
        return 128 + self.number

    def _in_guard(self, number: int) -> None:
        """Called in the guard's thread: the handler runs as soon as the main thread does.

        Which may be never, so that what has to happen in any case happens here too. Not for
        signals that somebody else handles at the moment, a debugger for one.
        """
        if number not in NUMBERS or signal.getsignal(number) != self._handle:
            return
        self._noticed += 1
        self.number = self.number or number
        if self._ends_while_loading():
            pass
        elif self._noticed >= 3:
            self._guard.set_deadline(HEARD_S, 128 + number, _third)
        else:
            self._notice(not self.count)

    def _ends_while_loading(self) -> bool:
        """End the process, unless all is loaded. Whether it does.

        Nothing has been entered, so nothing has to be left. By the guard's thread: an exception
        raised by a handler would come out in the middle of any code.
        """
        with self._loading:
            if self._is_loading:
                self._is_ending = True
                self._guard.set_deadline(0, self.exit_code, _loading)
            return self._is_ending

    # A child must not get a signal before it is known to be one: held back, it reaches it then.

    def _before_fork(self) -> None:
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)

    def _after_fork(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _in_child(self) -> None:
        self._guard.leave_signals()
        # Not only when one comes: Python's handler runs with the next bytecode, and a child that
        # waits in a system call by then would never get to it.
        for number in NUMBERS:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL)
        self._after_fork()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A process that C code has forked: it ends as if this were not there.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.count += 1
        self.number = self.number or number
        if self.count >= 3:
            self.last_act()
            say(_third())
            log = sys.modules.get("eventflow._log")
            if log is not None:  # else nothing was logged
                log.flush_repeats_at_once()
            os._exit(128 + number)
        if self._tell is not None:
            self._tell(self.count)
        else:
            self._ends_while_loading()


def _ignore_signals() -> None:
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _third() -> str:
    return "third signal: leaving at once, without cleaning up"


def _loading() -> str:
    return "stopped while it was loaded"
