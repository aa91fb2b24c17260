"""The client library's own log lines about our connections.

aiormq writes an error for each attempt that fails, one with a traceback for each connection that
is lost, and a warning for each channel that is, or that is left while it is made. All of this is
said by us, once. It is held back where it is about a connection of ours; what others in the
process use is not touched.

Its tasks and callbacks run in a copy of the context that they were made in, so that a mark in
there is known wherever it writes.
"""

from __future__ import annotations

import contextlib
import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ("ours", "quiet")

CONNECTION, CHANNEL = "aiormq.connection", "aiormq.channel"

_is_ours: ContextVar[bool] = ContextVar("eventflow_rabbitmq", default=False)


class _Filter(logging.Filter):
    """Of ours, lets warnings about connections through, without tracebacks; at DEBUG, all."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        if not _is_ours.get() or logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return True
        is_plain = record.levelno < logging.ERROR and record.exc_info is None
        return is_plain and record.name == CONNECTION


_filter = _Filter()


def quiet() -> None:
    """See that the library's loggers have the filter: setting up logging may have reset it."""
    for name in (CONNECTION, CHANNEL):
        logging.getLogger(name).addFilter(_filter)  # once, however often


@contextlib.contextmanager
def ours() -> Generator[None]:
    """What the library does inside, and starts there, is for a connection of ours."""
    token = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(token)
