"""Leaving the process, also where something in it does not end."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Guard", "PatientStream", "leave", "say")

FLUSH_S = 0.5
STDERR = 2
ATOMIC = 4096
"""As much as a pipe that has room at all takes in one piece."""
WAKE = b"\0"
"""What wakes the guard's thread; a signal writes its number, which is never 0."""


def say(text: str) -> None:
    """Tell stderr, from a signal handler too: takes no lock, and never waits for room.

    Of a text over 4 KiB the middle is left out: what happened stands at its end.
    """
    data = f"eventflow: {text}\n".encode(errors="backslashreplace")
    if len(data) > ATOMIC:
        gap = b"\n[...]\n"
        data = data[: ATOMIC // 4] + gap + data[len(gap) - ATOMIC * 3 // 4 :]
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [STDERR], [], 0)[1]:
            os.write(STDERR, data)


class PatientStream:
    """stderr for a process that looks after others: a reader that has stopped can't hold it up.

    A line that finds no room within a second is left out.
    """

    def write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        while data:
            if not select.select([], [STDERR], [], 2 * FLUSH_S)[1]:
                return
            data = data[os.write(STDERR, data[:ATOMIC]) :]

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return os.isatty(STDERR)


def leave(code: int) -> None:
    """End the process now, with its streams flushed, whatever else still runs in it."""
    # In a thread: a stream whose reader has stopped reading would hold this one up.
    flusher = threading.Thread(target=_flush, daemon=True)
    flusher.start()
    flusher.join(FLUSH_S)
    os._exit(code)


def _flush() -> None:
    log = sys.modules.get("eventflow._log")  # else nothing was logged
    repeats = getattr(log, "flush_repeats", logging.shutdown)
    for flush in (repeats, logging.shutdown, sys.stdout.flush, sys.stderr.flush):
        with contextlib.suppress(Exception):
            flush()


class Guard:
    """A thread that ends the process when its time is up, even while the event loop is blocked.

    `set_deadline` only writes a variable and a byte, so that signal handlers can call it.

    Attributes:
        on_signal: Called in the thread with the number of each signal, after `watch_signals`.
    """

    def __init__(self) -> None:
        self.on_signal: Callable[[int], None] = lambda number: None
        self._due: tuple[float, int, Callable[[], str]] | None = None
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._lifeline: tuple[int, Callable[[], None]] | None = None
        threading.Thread(target=self._watch, name="eventflow:guard", daemon=True).start()
        # The first that is registered is the last to be called: a deadline holds for the others.
        atexit.register(self._disarm)

    def set_deadline(self, seconds: float, code: int, why: Callable[[], str]) -> None:
        """Leave with ``code`` after so many seconds; takes the place of an earlier deadline."""
        self._due = (time.monotonic() + seconds, code, why)
        self._wake()

    def _disarm(self) -> None:
        self._due = None
        self._wake()

    def watch_parent(self, descriptor: int, gone: Callable[[], None]) -> None:
        """Call ``gone``, in the thread, when the other end of a socket is closed."""
        self._lifeline = (descriptor, gone)
        self._wake()

    def watch_signals(self) -> None:
        """Notice signals without the main thread, which may not get to its handlers.

        Python runs them between two of the main thread's instructions. A signal that comes just
        before that one begins to wait, or that the kernel gives to another thread, interrupts no
        wait: its handler would run when the wait has ended, if ever.

        Ends where an event loop sets a descriptor of its own, for ``loop.add_signal_handler``.
        """
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def leave_signals(self) -> None:
        """In a forked child: it must not write its signals into our pipe."""
        descriptor = signal.set_wakeup_fd(-1)
        if descriptor not in (-1, self._write):
            signal.set_wakeup_fd(descriptor)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._write, WAKE)

    def _watch(self) -> None:
        while True:
            due, lifeline = self._due, self._lifeline
            left = None if due is None else due[0] - time.monotonic()
            if due is not None and left is not None and left <= 0:
                say(due[2]())
                leave(due[1])
            watched = [self._read] if lifeline is None else [self._read, lifeline[0]]
            readable = select.select(watched, [], [], left)[0]
            if self._read in readable:
                for number in os.read(self._read, 4096).replace(WAKE, b""):
                    self.on_signal(number)
            elif readable and lifeline is not None:
                self._lifeline = None
                lifeline[1]()
