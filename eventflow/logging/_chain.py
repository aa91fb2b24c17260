"""What happens to a record before it is rendered: the same for structlog's and for stdlib's.

All of it runs inside `logging.Handler.emit`, so whatever raises here is the log's trouble and
never reaches the code that wrote the line.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import structlog

from eventflow._escape import shown
from eventflow.logging._renderers import Line, free

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import EventDict, Processor

__all__ = (
    "Guarded",
    "add_extra",
    "add_record",
    "error_of",
    "fitting",
    "format_positional",
    "line_of",
)

# What uvicorn adds for its own formatter: the message again, with colours.
_LEFT_OUT = ("color_message",)

_META = ("_record", "_from_structlog")

_RECORD_KEYS = frozenset(
    (*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName")
)


def format_positional(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """``log.info("%s of %s", 1, 2)``; arguments that do not fit stay beside the text."""
    args = event_dict.pop("positional_args", None)
    if args:
        event = event_dict.get("event")
        try:
            first = args[0] if len(args) == 1 and isinstance(args[0], dict) and args[0] else args
            event_dict["event"] = str(event) % first
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - the arguments' own, or a format they do not fit
            event_dict["positional_args"] = args
    return event_dict


def fitting(record: logging.LogRecord) -> logging.LogRecord:
    """A record of stdlib's that can be formatted: what does not fit its text stays beside it."""
    text: Any = record.msg
    facts = record.__dict__
    if "_logger" in facts and isinstance(cast("object", text), dict):
        return record  # structlog's
    taken = {"_logger", "_name"} <= facts.keys()  # extras, which would be taken for structlog's
    misfit: Any = None
    try:
        record.getMessage()
        if not taken:
            return record
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - the arguments' own, or a format they do not fit
        misfit = record.args
    # Other handlers have the same record.
    copy = logging.makeLogRecord(record.__dict__)
    if taken:
        copy.__dict__[free("_name", facts)] = copy.__dict__.pop("_name")
    if misfit is not None:
        copy.msg, copy.args = (text if isinstance(text, str) else shown(text)), ()
        copy.__dict__[free("positional_args", copy.__dict__)] = misfit
    return copy


def add_extra(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """``logging.info("…", extra={…})``; an extra named ``event`` does not replace the message."""
    for key, value in event_dict["_record"].__dict__.items():
        if key not in _RECORD_KEYS:
            event_dict[free(key, event_dict)] = value
    return event_dict


def add_record(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """Timestamp, level and logger. A fact of the same name keeps its value beside them."""
    record: logging.LogRecord = event_dict["_record"]
    for key, value in (
        ("timestamp", timestamp(record.created)),
        ("level", record.levelname.lower()),
        ("logger", record.name),
    ):
        if key in event_dict:
            event_dict[free(key, event_dict)] = event_dict[key]
        event_dict[key] = value
    return event_dict


class Guarded:
    """The user's processors as one that raises `structlog.DropEvent`, or to end the program.

    When one fails, the line is written as it was before them, with what failed as
    ``processor_failed``. A line that is written while they run, by one of them, passes them by.
    """

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._processors = tuple(processors)
        self._running = False  # guarded by the handler's lock

    def __call__(self, logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
        """Run them all."""
        if self._running:
            return event_dict
        line: EventDict = dict(event_dict)
        self._running = True
        processor: Any = None
        try:
            for processor in self._processors:
                given: Any = processor(logger, method_name, line)
                if not isinstance(given, dict):
                    raise TypeError(f"returned {type(given).__name__}, not the line's dict")
                line = cast("EventDict", given)
        except (structlog.DropEvent, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever a processor raises
            name = getattr(processor, "__qualname__", type(processor).__qualname__)
            event_dict["processor_failed"] = f"{name}: {shown(exc)}"
            return event_dict
        finally:
            self._running = False
        return {**line, **{key: event_dict[key] for key in _META}}


def line_of(event_dict: EventDict) -> Line:
    """What stands at the head of the line, what follows, and the error."""
    facts = cast("dict[Any, Any]", event_dict)
    for key in (*_META, *_LEFT_OUT):
        facts.pop(key, None)
    error = error_of(facts.pop("exc_info", None))
    if stack := facts.pop("stack_info", None):
        facts[free("stack", facts)] = stack
    head: dict[str, str] = {}
    for key in ("timestamp", "level", "event", "logger"):
        value = facts.pop(key, "")
        head[key] = str.__str__(value) if isinstance(value, str) else shown(value)
    return Line(head, facts, error)


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, microseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def error_of(exc_info: Any) -> BaseException | None:
    """The exception behind what logging calls ``exc_info``."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        parts = cast("Sequence[object]", exc_info)
        return next((part for part in parts if isinstance(part, BaseException)), None)
    return sys.exc_info()[1] if exc_info else None
