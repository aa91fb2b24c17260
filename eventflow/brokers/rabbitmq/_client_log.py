"""The client library's own log lines about our connections.

aiormq writes an error for each attempt that fails, one with a traceback for each connection that
is lost, and a warning for each channel that is, or that is left while it is made, and for each
connection that is silent, or that the server blocks. All of this is said by us, once. It is held
back where it is about a connection of ours; what others in the process use is not touched.

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
    """Holds back what is about ours, except at DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        return not _is_ours.get() or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


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
