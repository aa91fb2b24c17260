"""One form for every log line of the process."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Literal

import structlog

from eventflow._escape import shown
from eventflow._log import flush_repeats
from eventflow.errors import InvalidOptionError
from eventflow.logging._handler import LogHandler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from structlog.typing import Processor

    from eventflow.logging._handler import TextStream

__all__ = ("configure", "remove")


def configure(
    *,
    format: Literal["json", "console"] | None = None,  # noqa: A002 - what users call it
    level: str | int = "INFO",
    stream: TextStream | None = None,
    processors: Iterable[Processor] = (),
) -> None:
    """Write every log line in one form, whoever logs: handlers, eventflow, libraries.

    Sets up structlog and stdlib logging together: one handler on the root logger, and the
    root logger's level. Lines carry ``event_id``, ``topic``, ``correlation_id`` and
    ``subscription`` when a handler of events writes them. Control characters, bidi and
    zero-width controls are escaped, so that one record is one line, save a traceback in the
    console form. Of many equal lines of eventflow's own about one event the first few come in
    full, then, within 10 s, summaries with the count and every event id. Nothing that fails
    here, a processor, a value or a closed stream, reaches the code that logs, save
    `KeyboardInterrupt` and `SystemExit`.

    Calling it again replaces what it did before. Handlers added by others stay as they are.
    Call it once, at the start of the program.

    Args:
        format: ``"json"``, one object a line; ``"console"``, for people; ``None`` for console
            on a terminal, else JSON.
        level: Name of a level in any case, or its number; lines below it are left out. A level
            set on a logger of its own goes before.
        stream: A text stream; ``None`` for stderr as it is when a line is written.
        processors: structlog processors that see every line before it is rendered, and return
            its dict. `structlog.DropEvent` drops the line; when one fails, the line is written
            without them, and says so.

    Raises:
        InvalidOptionError: An option is not one of these.

    Example::

        eventflow.logging.configure(format="json", level="WARNING")
    """
    number = _level(level)
    chain = tuple(processors)
    chosen: object = format
    if chosen not in ("json", "console", None):
        raise InvalidOptionError(
            f"format must be 'json', 'console' or None, not {shown(format)}", option="format"
        )
    if stream is not None and not callable(getattr(stream, "write", None)):
        raise InvalidOptionError(
            f"stream must be a text stream with write(), not {shown(stream)}", option="stream"
        )
    if not all(callable(processor) for processor in chain):
        raise InvalidOptionError("processors must be structlog processors", option="processors")
    terminal = _is_terminal(stream)
    as_json = format == "json" or (format is None and not terminal)
    colours = terminal and not os.environ.get("NO_COLOR")
    handler = LogHandler(stream, as_json=as_json, colours=colours, processors=chain)
    remove()
    # logging.shutdown no longer knows of the handler once somebody has called dictConfig.
    atexit.unregister(flush_repeats)
    atexit.register(flush_repeats)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(number)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        context_class=dict,
        cache_logger_on_first_use=False,
    )


def remove() -> None:
    """Take the handler out again that `configure` put on the root logger."""
    root = logging.getLogger()
    for handler in tuple(root.handlers):
        if isinstance(handler, LogHandler):
            root.removeHandler(handler)
            handler.close()


def _level(level: object) -> int:
    if isinstance(level, str):
        number = logging.getLevelNamesMapping().get(level.upper())
        if number is not None:
            return number
    elif isinstance(level, int) and not isinstance(level, bool) and level >= 0:
        return level
    names = "DEBUG, INFO, WARNING, ERROR, CRITICAL"
    raise InvalidOptionError(
        f"level must be one of {names}, or a number from 0, not {shown(level)}", option="level"
    )


def _is_terminal(stream: object) -> bool:
    target: Any = sys.stderr if stream is None else stream
    try:
        return bool(target.isatty())
    except Exception:  # noqa: BLE001 - none, closed, or not quite a stream
        return False
