"""One process that runs one service: from the first import to the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from eventflow._log import EventLogger
from eventflow.cli._exit import leave, say
from eventflow.cli._signals import START_BOUND_S
from eventflow.cli._target import TargetError, made
from eventflow.errors import ServiceError
from eventflow.lifecycle.supervisor import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from eventflow.cli._exit import Guard
    from eventflow.cli._signals import StopSignals
    from eventflow.lifecycle.service import Service

__all__ = ("READY", "Process")

log = EventLogger("eventflow.service")

READY = b"R"
"""What a child says to its parent when all members are entered."""
STRAY_TASKS_S = 0.5
"""What tasks that nobody owns get to end, after the service has stopped."""
EXIT_S = 1.0
"""The least that threads of others, and functions of `atexit`, get to end, after that."""


class Process:
    """Runs a target until a signal, a failed member, or a request to stop.

    Args:
        target: What was found under ``text``.
        text: ``pkg.mod:target``, for names and messages.
        ready_file: Exists while the service takes part.
        parent: A socket to the parent process, to tell it when the service is ready.
    """

    def __init__(
        self,
        target: object,
        text: str,
        *,
        signals: StopSignals,
        guard: Guard,
        ready_file: Path | None,
        parent: int | None,
    ) -> None:
        self._target = target
        self._text = text
        self._signals = signals
        self._guard = guard
        self._ready_file = ready_file
        self._parent = parent
        self._service: Service | None = None
        self._is_entered = False
        self._stop_began: float | None = None
        self._stray: list[str] = []

    def run(self, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None) -> int:
        """Run to the end and return the exit code; leaves at once where something is abandoned."""
        self._signals.loaded()
        runner = asyncio.Runner(loop_factory=loop_factory)
        try:
            code = runner.run(self._main())
            if self._stray or (self._service is not None and self._service.ledger.abandoned):
                # The loop would wait for those tasks for ever, and so would the interpreter.
                leave(code)
        except (SystemExit, KeyboardInterrupt):
            # Raised by a handler, a task or a callback, out of the loop, which stands still now;
            # closing it cuts the service.
            self._bound_the_exit()
            runner.close()
            if self._is_incomplete():
                return 1
            raise
        finally:
            self._bound_the_exit()
            runner.close()
        return code

    async def _main(self) -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def on_loop(count: int) -> None:
            self._bound_the_stop(count)  # the start may have ended since
            if self._service is not None and self._is_entered and count == 1:
                with contextlib.suppress(ServiceError):  # it has stopped by itself
                    self._service.request_stop()
            else:
                task.cancel()

        def in_handler(count: int) -> None:
            self._bound_the_stop(count)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(on_loop, count)

        def in_guard(unheard: bool) -> None:
            if unheard:
                self._bound_the_stop(1)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: None)  # wakes it

        with self._signals.told_to(in_handler, notice=in_guard):
            code = await self._serve()
        await self._end_stray_tasks()
        return code or (1 if self._stray else 0)

    async def _serve(self) -> int:
        failed = False
        try:
            self._service = service = await made(self._target, self._text)
            async with service:
                self._is_entered = True
                with self._shown_ready():
                    await service.wait_stopping()
                self._stop_began = time.monotonic()
        except asyncio.CancelledError:
            if not self._signals.count:
                raise
            if not self._is_entered:
                say("stopped while it started")
                return self._signals.exit_code
        except TargetError as exc:
            say(str(exc))
            return 2
        except BaseException as exc:  # noqa: BLE001 - whatever the service's own code raises
            # A member's SystemExit too: it has not ended well, whatever the code in it.
            failed = True
            if not self._is_entered:  # else it has been logged
                log.error("eventflow.start_failed", service=self._text, error=exc)
        return 1 if self._is_incomplete() or failed else 0

    def _is_incomplete(self) -> bool:
        if self._service is None:
            return False
        ledger = self._service.ledger
        incomplete = bool(ledger.abandoned) or not ledger.adds_up
        if incomplete:
            log.error(
                "eventflow.stop_incomplete",
                service=ledger.name,
                adds_up=ledger.adds_up,
                abandoned=list(ledger.abandoned),
            )
        return incomplete

    def _hide(self) -> None:
        """No longer ready: from the signal on, also where the loop is blocked."""
        if self._ready_file is not None:
            with contextlib.suppress(OSError):
                self._ready_file.unlink()

    @contextlib.contextmanager
    def _shown_ready(self) -> Generator[None]:
        """Let a probe and the parent see that the service takes part."""
        if self._parent is not None:
            with contextlib.suppress(OSError):  # it is gone; the guard has noticed
                os.write(self._parent, READY)
        if self._ready_file is not None:
            self._ready_file.write_text(f"{os.getpid()}\n")
        try:
            yield
        finally:
            self._hide()

    # Bounds

    def _bound_the_stop(self, count: int) -> None:
        """Called in a signal handler: what follows on the loop may never get its turn."""
        self._hide()
        service = self._service
        if service is None or not self._is_entered:
            if count == 1:
                self._guard.set_deadline(START_BOUND_S, self._signals.exit_code, _still_starting)
            return
        bound = service.cancel_grace + 2 * EXIT_S
        if count == 1:
            bound += service.drain_timeout
        self._guard.set_deadline(bound, 1, _is_blocked)

    async def _end_stray_tasks(self) -> None:
        """Cancel what the service's code has started and left; name what refuses."""
        known = ""
        if self._service is not None:
            ledger = self._service.ledger
            members = (f"eventflow:{ledger.name}:{name}" for name in ledger.given_up)
            known = "\n".join((*ledger.abandoned, *members))
        left = await cancel_and_wait(
            asyncio.all_tasks() - {asyncio.current_task()}, grace=STRAY_TASKS_S
        )
        self._stray = sorted(t.get_name() for t in left if t.get_name() not in known)
        if self._stray:
            log.error("eventflow.tasks_left", tasks=self._stray)

    def _bound_the_exit(self) -> None:
        """What is left can't hold up the end: threads of others, functions of `atexit`."""
        service = self._service
        if service is None or not self._is_entered:
            if self._signals.count:
                return  # the bound of the start holds
            seconds = START_BOUND_S
        elif service.ledger.state != "closed":
            seconds = service.cancel_grace + 2 * EXIT_S
        elif self._stop_began is None:
            seconds = EXIT_S
        else:
            drain_until = self._stop_began + service.drain_timeout
            seconds = max(drain_until - time.monotonic(), EXIT_S)
        self._guard.set_deadline(seconds, 1, _not_ending)


def _still_starting() -> str:
    return "asked to stop while it started, and still at it: leaving"


def _is_blocked() -> str:
    return "the event loop is blocked, so that the stop can't end: leaving"


def _not_ending() -> str:
    threads = [
        thread.name
        for thread in threading.enumerate()
        if not thread.daemon
        and thread is not threading.main_thread()
        and "_do_shutdown" not in thread.name  # asyncio's own, which waits for the others
    ]
    kept_by = f"threads still run ({', '.join(threads)})" if threads else "something holds it up"
    return f"the process does not end after the stop: {kept_by}: leaving"
