"""Log lines for events that a policy dropped: every id, but not a line for each.

They are written outside of any handler's context: a line lists events of many publishers, and
must not carry the ids and variables of the one whose publish happened to write it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow._cause import Envelope, event_of
from eventflow._log import IDS_PER_LINE, EventLogger

if TYPE_CHECKING:
    import asyncio

    from eventflow.events import Event
    from eventflow.lifecycle.supervisor import Supervisor

__all__ = ("Reports",)

FLUSH_S = 1.0

log = EventLogger("eventflow.bus")


class Reports:
    """Collects events by what happened to them; writes when 100 are there, or after 1 s."""

    __slots__ = ("_events", "_loop", "_subscription", "_supervisor", "_timer", "bus")

    def __init__(
        self,
        bus: str,
        subscription: str,
        *,
        loop: asyncio.AbstractEventLoop,
        supervisor: Supervisor,
    ) -> None:
        self.bus = bus
        self._subscription = subscription
        self._loop = loop
        self._supervisor = supervisor
        self._events: dict[str, list[Event]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, what: str, item: Event | Envelope) -> None:
        """Note that ``what`` happened to an event."""
        events = self._events.setdefault(what, [])
        events.append(event_of(item))
        if len(events) >= IDS_PER_LINE:
            self._write(what)
        elif self._timer is None:
            context = self._supervisor.copy_context()
            self._timer = self._loop.call_later(FLUSH_S, self.flush, context=context)

    def flush(self) -> None:
        """Write what was collected."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for what in list(self._events):
            self._write(what)

    def _write(self, what: str) -> None:
        events = self._events.pop(what)
        if log.enabled():
            self._supervisor.outside(
                log.ids,
                f"eventflow.{what}",
                [event.id for event in events],
                bus=self.bus,
                subscription=self._subscription,
                topics=sorted({event.topic or "" for event in events}),
            )
