"""eventflow's own log lines.

Unless structlog is configured, they go through stdlib logging (loggers ``eventflow.…``):
warnings and errors reach stderr, nothing reaches stdout. Once `structlog.configure` was
called, they go where it sends them.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("IDS_PER_LINE", "EventLogger", "shown")

IDS_PER_LINE = 100

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
        return structlog.is_configured() or self._stdlib.isEnabledFor(level)

    def _write(
        self, level: int, event: str, error: BaseException | None, facts: dict[str, Any]
    ) -> None:
        try:
            if structlog.is_configured():
                if error is not None:
                    facts["exc_info"] = error
                structlog.get_logger(self._name).log(level, event, **facts)
            elif self._stdlib.isEnabledFor(level):
                line = _render(None, "", {"event": event, **facts})
                exc_info = None if error is None else (type(error), error, error.__traceback__)
                self._stdlib.log(level, "%s", line, exc_info=exc_info)
        except Exception:  # noqa: BLE001 - whatever a processor raises
            # As stdlib logging does with a handler that fails: say so on stderr, go on.
            if logging.raiseExceptions and sys.stderr is not None:
                print(f"eventflow could not write its log line {event!r}:", file=sys.stderr)  # noqa: T201
                traceback.print_exc()


def shown(error: BaseException) -> str:
    """An error as text, also where its own ``__repr__`` fails."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - the error's own
        return f"<{type(error).__name__}, whose repr() fails>"
