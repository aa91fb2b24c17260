"""Log lines in one form, each with the event it belongs to: `configure`, `add_event_context`."""

from __future__ import annotations

from eventflow.logging._configure import configure
from eventflow.logging._context import add_event_context

__all__ = ("add_event_context", "configure")
