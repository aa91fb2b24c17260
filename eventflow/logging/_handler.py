"""The one stdlib handler that `configure` installs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from _thread import allocate_lock, start_new_thread
from typing import TYPE_CHECKING, Any, Protocol, cast

import structlog

from eventflow._escape import shown
from eventflow._log import complain
from eventflow.logging._chain import (
    Guarded,
    add_extra,
    add_record,
    error_of,
    fitting,
    format_positional,
    line_of,
)
from eventflow.logging._context import add_event_context, is_own
from eventflow.logging._reminder import Reminder
from eventflow.logging._renderers import console, json_line
from eventflow.logging._repeats import SAME, Repeats, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import EventDict, Processor

__all__ = ("LogHandler", "TextStream")

MAX_DEPTH = 4
"""Lines written while one is rendered; beyond, somebody's repr() logs itself."""

_OWN_LOGGER = "eventflow.logging"


class TextStream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class LogHandler(logging.Handler):
    """Renders every record and writes it to a stream; never raises.

    Args:
        stream: Where to; ``None`` for what `sys.stderr` is when a line is written.
        as_json: JSON, or a line for people to read.
        colours: With colours; for people only.
        processors: The user's.
        clock: Seconds; for the windows of repeats.
    """

    def __init__(
        self,
        stream: TextStream | None,
        *,
        as_json: bool,
        colours: bool = False,
        processors: Sequence[Processor] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._as_json = as_json
        self._colours = colours
        self._clock = clock
        # All of this is guarded by the handler's lock, which logging holds during emit().
        self._repeats = Repeats()
        self._reminder: Reminder | None = None
        self._pid = os.getpid()
        self._depth = 0
        self.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[add_extra, structlog.contextvars.merge_contextvars],
                processors=[
                    format_positional,
                    add_event_context,
                    add_record,
                    Guarded(processors),
                    self._render,
                ],
            )
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it repeats one of ours too often."""
        if self._depth == MAX_DEPTH:
            return
        self._depth += 1
        try:
            self._emit(record)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - a closed stream, a value that can't be shown
            self.handleError(record)
        finally:
            self._depth -= 1

    def _emit(self, record: logging.LogRecord) -> None:
        self._forget_the_parents()
        now = self._clock()
        facts: Any = record.msg
        if (
            record.name.startswith("eventflow.")
            and isinstance(facts, dict)
            and is_own(cast("EventDict", facts))
            and cast("EventDict", facts).get("event_id") is not None
        ):
            full, due = self._admit(record, cast("EventDict", facts), now)
        else:
            full, due = True, self._repeats.due(now)
        self._write_summaries(due)
        if full:
            self._write(record)
        elif self._reminder is None:
            # Where no thread can be started any more, the end of the process is near.
            with contextlib.suppress(RuntimeError):
                self._reminder = Reminder(self.write_due)

    def _admit(
        self, record: logging.LogRecord, facts: EventDict, now: float
    ) -> tuple[bool, list[Window]]:
        error = error_of(facts.get("exc_info"))
        key = (
            str(facts["event"]),
            *(str(facts.get(name) or "") for name in SAME),
            "" if error is None else type(error).__qualname__,
        )
        return self._repeats.admit(key, record.levelno, str(facts["event_id"]), now)

    def _write_summaries(self, windows: list[Window]) -> None:
        for window in windows:
            record = logging.LogRecord(
                _OWN_LOGGER, window.level, __file__, 0, cast("Any", window.summary()), (), None
            )
            # As structlog hands over its own.
            record.__dict__["_logger"] = logging.getLogger(_OWN_LOGGER)
            record.__dict__["_name"] = record.levelname.lower()
            try:
                self._write(record)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # noqa: BLE001 - as in emit; the line that comes after it still does
                self.handleError(record)

    def _write(self, record: logging.LogRecord) -> None:
        try:
            text = f"{self.format(fitting(record))}\n"
        except structlog.DropEvent:
            return
        stream = self._stream if self._stream is not None else cast("TextStream | None", sys.stderr)
        if stream is None:
            return  # the process was started with stderr closed
        try:
            stream.write(text)
        except UnicodeEncodeError as exc:
            stream.write(text.encode(exc.encoding, "backslashreplace").decode(exc.encoding))
        stream.flush()

    def _render(self, logger: Any, method_name: str, event_dict: EventDict) -> str:
        line = line_of(event_dict)
        return json_line(line) if self._as_json else console(line, colours=self._colours)

    def _forget_the_parents(self) -> None:
        """In a forked child: what was held back is the parent's to write."""
        if os.getpid() != self._pid:
            self._pid, self._repeats, self._reminder = os.getpid(), Repeats(), None

    def write_due(self) -> float | None:
        """Write the summaries of windows that are over.

        Returns:
            Seconds until the next one is; ``None`` when nothing is held back, and whoever
            reminds is not needed any more.
        """
        self.acquire()
        try:
            self._forget_the_parents()
            now = self._clock()
            self._write_summaries(self._repeats.due(now))
            due = self._repeats.next_due()
            if due is None:
                self._reminder = None
                return None
            return due - now
        except BaseException:
            self._reminder = None  # a processor ended the thread
            raise
        finally:
            self.release()

    def flush_repeats(self) -> None:
        """Write how many lines were held back, and their event ids."""
        self.acquire()
        try:
            self._write_held_back()
        finally:
            self.release()

    def flush_at_once(self, within: float) -> None:
        """The same from a signal handler, before the process leaves; waits no longer than that."""
        lock: Any = self.lock
        # Also taken if the signal came in the middle of emit(). That stands still now, so that
        # another thread can write in its place; this one could wait for the stream for ever.
        mine = lock.acquire(blocking=False)
        ended = allocate_lock()
        ended.acquire()

        def write() -> None:
            try:
                with contextlib.nullcontext() if mine else lock:
                    self._write_held_back()
            finally:
                ended.release()

        try:
            with contextlib.suppress(RuntimeError):
                start_new_thread(write, ())
                ended.acquire(timeout=within)
        finally:
            if mine:
                lock.release()

    def _write_held_back(self) -> None:
        self._forget_the_parents()
        self._write_summaries(self._repeats.held_back())
        if self._reminder is not None:
            self._reminder.wake()  # to find that it is not needed

    def flush(self) -> None:
        """Write what was held back; `logging.shutdown` calls it at the end of the process."""
        self.flush_repeats()

    def close(self) -> None:
        """Write what was held back. The stream stays open: it is not ours."""
        self.flush_repeats()
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - stdlib's name
        """Say on stderr that a line could not be written, in a way that forges no other."""
        error = sys.exc_info()[1]
        if error is not None:
            message: Any = record.msg
            complain(f"eventflow could not write a log line: {shown(message)}", error)
