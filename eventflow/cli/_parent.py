"""A process that runs others: ``--workers`` and ``--reload``.

The children are fresh interpreters. Each holds one end of a socket: it tells the parent when
its service is ready, and a parent that dies, however it dies, is noticed by its end of file.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventflow._log import EventLogger
from eventflow.cli._exit import say
from eventflow.cli._serve import READY
from eventflow.cli._signals import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.cli._signals import StopSignals

__all__ = ("Reloader", "Workers")

log = EventLogger("eventflow.run")

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
GOOD_LIFE_S = 60.0
"""A worker that was ready for so long begins anew with the shortest delay."""
START_FAILURES = 3
"""A worker that could not start so often in a row ends the whole."""
USAGE = 2
LAST_S = 0.5
"""What children get to leave by themselves after the third signal."""
RELOAD_BOUND_S = 30.0
"""Most that the old process gets before it is killed; its own bounds are below, by default."""


class Child:
    """One process.

    Attributes:
        is_ready: Its service has been entered.
        ready_at: When, monotonic.
        asked: How often it was asked to stop.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.socket, theirs = socket.socketpair()
        # Held back until it can handle them: none is lost, and none kills it half-way.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                    [*command, "--parent", str(theirs.fileno())],
                    env=os.environ | environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    # A Ctrl-C reaches the whole group of the terminal; these get ours instead.
                    process_group=0,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.socket.setblocking(False)
        self.pid = self._process.pid
        self.is_ready = False
        self.ready_at = 0.0
        self.asked = 0
        self.hangs_up = False

    def listen(self) -> None:
        """Take what it says."""
        try:
            said = self.socket.recv(64)
        except BlockingIOError:
            return
        if READY in said:
            self.is_ready, self.ready_at = True, time.monotonic()
        self.hangs_up = not said

    def ask(self, times: int) -> None:
        """See that it was asked to stop so often: once to drain, twice to cut."""
        while self.asked < times:
            self.asked += 1
            # Always this one: it means the same, and a terminal's Ctrl-C is no other thing.
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, if it is there."""
        self._process.send_signal(signal.SIGKILL)

    def ended(self) -> int | None:
        """Its exit code, 128 + n for signal n; ``None`` while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        self.socket.close()
        return 128 - code if code < 0 else code


class Slot:
    """The place of a worker: one process at a time.

    Attributes:
        due: When to start one, monotonic; ``None`` while one runs.
        deaths: Processes that ended in a row, without a good life in between.
        start_failures: Those that did not even become ready, in a row.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.child: Child | None = None
        self.due: float | None = 0.0
        self.deaths = 0
        self.start_failures = 0


class Parent(ABC):
    """Starts children, hands signals on to them, and ends after the last of them."""

    def __init__(
        self, target: str, options: Sequence[str], signals: StopSignals, *, count: int
    ) -> None:
        self._command = [
            *(sys.executable, *_interpreter_flags()),
            *("-m", "eventflow", "run", target, *options),
        ]
        self._signals = signals
        self._slots = [Slot(index) for index in range(count)]
        self._is_stopping = False
        self._code = 0
        self._ready_file: Path | None = None

    def run(self, ready_file: Path | None) -> int:
        """Run to the end; returns the exit code."""
        self._ready_file = ready_file
        ours, wake = socket.socketpair()
        with ours, wake:
            ours.setblocking(False)
            wake.setblocking(False)
            # Each signal, the death of a child included, ends the wait below.
            signal.signal(signal.SIGCHLD, lambda number, frame: None)
            signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
            self._signals.last_act = self._kill
            try:
                # At once, whatever this process does or waits for; the loop takes up the rest.
                with self._signals.told_to(lambda count: self._hand_on()):
                    self._prepare(wake)
                    self._loop(ours)
            finally:
                signal.set_wakeup_fd(-1)
                self._set_ready(False)
        return self._code

    def _loop(self, ours: socket.socket) -> None:
        while True:
            self._hand_on()
            self._reap()
            self._start()
            self._set_ready(not self._is_stopping and all(_is_ready(s) for s in self._slots))
            if self._is_stopping and not self._children():
                return
            sockets = [child.socket for child in self._children() if not child.hangs_up]
            with contextlib.suppress(InterruptedError):
                select.select([ours, *sockets], [], [], self._patience())
            with contextlib.suppress(BlockingIOError):
                ours.recv(4096)
            for child in self._children():
                child.listen()

    def _children(self) -> list[Child]:
        return [slot.child for slot in self._slots if slot.child is not None]

    def _patience(self) -> float | None:
        """Seconds until something is due; ``None`` if nothing is."""
        due = [slot.due for slot in self._slots if slot.due is not None]
        if not due or self._is_stopping:
            return None
        return max(min(due) - time.monotonic(), 0)

    def _hand_on(self) -> None:
        """Give each signal to every child: the first, the second; the third kills."""
        if self._signals.count:
            self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        self._set_ready(False)
        for child in self._children():
            child.ask(max(self._signals.count, 1))

    def _kill(self) -> None:
        """The third signal: each has a moment to leave by itself, with what its log holds back."""
        for child in self._children():
            child.ask(3)
        until = time.monotonic() + LAST_S
        while time.monotonic() < until and any(c.ended() is None for c in self._children()):
            time.sleep(0.01)
        for child in self._children():
            child.kill()

    def _reap(self) -> None:
        for slot in self._slots:
            child = slot.child
            if child is None or (code := child.ended()) is None:
                continue
            slot.child = None
            if self._is_stopping:
                self._code = self._code or code
            else:
                self._child_ended(slot, child, code)

    def _start(self) -> None:
        for slot in self._slots:
            if self._is_stopping or slot.due is None or slot.due > time.monotonic():
                continue
            slot.due = None
            slot.child = Child(self._command, self._environment(slot))

    def _set_ready(self, ready: bool) -> None:
        path = self._ready_file
        if path is None:
            return
        if ready and not path.exists():
            path.write_text(f"{os.getpid()}\n")
        elif not ready:
            with contextlib.suppress(OSError):
                path.unlink()

    def _prepare(self, wake: socket.socket) -> None:
        """Before the first child is started."""
        return

    def _environment(self, slot: Slot) -> dict[str, str]:
        return {}

    @abstractmethod
    def _child_ended(self, slot: Slot, child: Child, code: int) -> None:
        """A child has ended that nobody has asked to."""


def _interpreter_flags() -> list[str]:
    """Such as ``-X dev`` and ``-W error``: children get those of the parent."""
    found: Any = subprocess
    flags: list[str] = found._args_from_interpreter_flags()
    return flags


def _is_ready(slot: Slot) -> bool:
    return slot.child is not None and slot.child.is_ready


class Workers(Parent):
    """``--workers N``: a worker that dies is replaced, later each time."""

    def _environment(self, slot: Slot) -> dict[str, str]:
        return {"EVENTFLOW_WORKER": str(slot.index)}

    def _child_ended(self, slot: Slot, child: Child, code: int) -> None:
        if child.is_ready:
            slot.start_failures = 0
            if time.monotonic() - child.ready_at >= GOOD_LIFE_S:
                slot.deaths = 0
        else:
            slot.start_failures += 1
            if code == USAGE or slot.start_failures >= START_FAILURES:
                log.error(
                    "eventflow.worker_start_failed",
                    worker=slot.index,
                    exit_code=code,
                    failures=slot.start_failures,
                )
                self._code = code or 1
                self._stop()
                return
        slot.deaths += 1
        delay = min(FIRST_DELAY_S * 2 ** (slot.deaths - 1), LONGEST_DELAY_S)
        slot.due = time.monotonic() + delay
        log.warning(
            "eventflow.worker_ended",
            worker=slot.index,
            pid=child.pid,
            exit_code=code,
            restart_in_s=delay,
        )


class Reloader(Parent):
    """``--reload``: one child, and a new one when a Python file changes."""

    def __init__(
        self, target: str, options: Sequence[str], signals: StopSignals, *, watchfiles: Any
    ) -> None:
        super().__init__(target, options, signals, count=1)
        self._watchfiles = watchfiles
        self._changes = 0
        self._seen = 0
        self._kill_at: float | None = None

    def _environment(self, slot: Slot) -> dict[str, str]:
        # Bytecode is taken for that of any source with its size and its second, and so of the
        # code before a fast edit.
        return {"PYTHONDONTWRITEBYTECODE": "1"}

    def _prepare(self, wake: socket.socket) -> None:
        threading.Thread(
            target=self._watch, args=(wake,), name="eventflow:reload", daemon=True
        ).start()

    def _watch(self, wake: socket.socket) -> None:
        changes = self._watchfiles.watch(
            Path.cwd(), watch_filter=self._watchfiles.PythonFilter(), raise_interrupt=False
        )
        for _ in changes:
            self._changes += 1
            with contextlib.suppress(OSError):
                wake.send(b"x")

    def _start(self) -> None:
        slot = self._slots[0]
        if self._changes > self._seen and not self._is_stopping:
            self._seen = self._changes
            if slot.child is None:
                slot.due = 0.0
            elif self._kill_at is None:
                say("files changed: starting anew")
                slot.child.ask(1)
                self._kill_at = time.monotonic() + RELOAD_BOUND_S
        if self._kill_at is not None and self._kill_at <= time.monotonic() and slot.child:
            say(f"the old process has not ended within {RELOAD_BOUND_S:g} s: killing it")
            slot.child.kill()
        super()._start()

    def _patience(self) -> float | None:
        if self._kill_at is not None:
            return max(self._kill_at - time.monotonic(), 0.1)
        return super()._patience()

    def _child_ended(self, slot: Slot, child: Child, code: int) -> None:
        if self._kill_at is not None:
            self._kill_at = None
            slot.due = 0.0
            return
        say(f"the service has ended with {code}; waiting for a change")
