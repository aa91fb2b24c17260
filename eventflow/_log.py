"""eventflow's own log lines.

Unless structlog is configured, they go through stdlib logging (loggers ``eventflow.…``):
warnings and errors reach stderr, nothing reaches stdout. Once `structlog.configure` was
called, by `eventflow.logging.configure` for example, they go where it sends them.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any

import structlog

from eventflow._cause import current_attempt, event_of
from eventflow._escape import error_text, escaped, shown
from eventflow.context import EventContext

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = (
    "IDS_PER_LINE",
    "EventLogger",
    "complain",
    "flush_repeats",
    "flush_repeats_at_once",
    "shown",
)

IDS_PER_LINE = 100

_NO_EVENT: Any = None

# repr() of values escapes newlines, escape sequences and bidi controls: one line a record.
_render = structlog.processors.KeyValueRenderer(key_order=["event"], repr_native_str=True)


class EventLogger:
    """Writes our own lines. Never raises: a broken log processor must not stop a handler."""

    __slots__ = ("_name", "_stdlib")

    def __init__(self, name: str) -> None:
        self._name = name
        self._stdlib = logging.getLogger(name)

    def info(self, event: str, **facts: Any) -> None:
        self._write(logging.INFO, event, None, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._write(logging.WARNING, event, None, facts)

    def error(self, event: str, *, error: BaseException | None = None, **facts: Any) -> None:
        self._write(logging.ERROR, event, error, facts)

    def ids(self, event: str, event_ids: Sequence[str], **facts: Any) -> None:
        """One warning for many events: every id is written, up to 100 a line."""
        for start in range(0, len(event_ids), IDS_PER_LINE):
            part = event_ids[start : start + IDS_PER_LINE]
            self.warning(event, **facts, count=len(part), event_ids=list(part))

    def enabled(self, level: int = logging.WARNING) -> bool:
        """Whether anybody would see a line; saves making ids that nobody reads."""
        self._enable()
        return structlog.is_configured() or self._stdlib.isEnabledFor(level)

    def _write(
        self, level: int, event: str, error: BaseException | None, facts: dict[str, Any]
    ) -> None:
        try:
            self._enable()
            if structlog.is_configured():
                if error is not None:
                    facts["exc_info"] = error
                structlog.get_logger(self._name).log(level, event, **_correlated(facts))
            elif self._stdlib.isEnabledFor(level):
                line = escaped(_render(None, "", {"event": event, **_correlated(facts)}))
                self._stdlib.handle(self._record(level, line, error))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever a processor raises
            complain(f"eventflow could not write its log line {event!r}:", exc)

    def _enable(self) -> None:
        """Take back what ``dictConfig`` and ``fileConfig`` do to loggers that are there already.

        Nobody means a loss to be silent who leaves ``disable_existing_loggers`` as it is. A
        level or a filter says so.
        """
        self._stdlib.disabled = False

    def _record(self, level: int, line: str, error: BaseException | None) -> logging.LogRecord:
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        record = self._stdlib.makeRecord(
            self._name, level, __file__, 0, "%s", (line,), exc_info, "_write"
        )
        if error is not None:
            # Formatters take this for the traceback, if it is there already. Theirs would
            # write what the error says as it is, with newlines and escape sequences.
            record.exc_text = error_text(error)
        return record


def _correlated(facts: dict[str, Any]) -> dict[str, Any]:
    """Add the correlation id to a line about the event that is being handled where it is written.

    Nothing else of the context: what a handler publishes may be dropped elsewhere, and that
    line is about another event and another subscription.
    """
    attempt, event_id = current_attempt(), facts.get("event_id")
    # A worker between two events has an attempt without one; key functions run there.
    if attempt is None or event_id is None or attempt.item is _NO_EVENT:
        return facts
    if event_of(attempt.item).id == event_id:
        facts.setdefault("correlation_id", EventContext.of(attempt).correlation_id)
    return facts


def flush_repeats() -> None:
    """Have the lines written that `eventflow.logging.configure` held back as repeats."""
    for handler in tuple(logging.getLogger().handlers):
        flush = getattr(handler, "flush_repeats", None)
        if flush is not None:
            flush()


def flush_repeats_at_once(within: float = 0.2) -> None:
    """The same where a process leaves without cleaning up: for a signal handler, before `os._exit`.

    Waits at most that many seconds: for a line that is being written in another thread, and for
    a stream whose reader does not read. What could not be written by then is lost.
    """
    for handler in tuple(logging.getLogger().handlers):
        flush = getattr(handler, "flush_at_once", None)
        if flush is not None:
            flush(within)


def complain(what: str, error: BaseException) -> None:
    """As stdlib logging does with a handler that fails: say so on stderr, go on."""
    if logging.raiseExceptions and sys.stderr is not None:
        # When stderr is closed or its reader gone, there is nowhere to say it.
        with contextlib.suppress(Exception, CancelledError, GeneratorExit):
            sys.stderr.write(f"{escaped(what)}\n{error_text(error)}\n")
