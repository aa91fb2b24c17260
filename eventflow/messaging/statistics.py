"""The counts of a router: a snapshot while it runs, its ledger once it has stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eventflow.lifecycle.counts import Row, Table

__all__ = ("HandlerHealth", "HandlerStatistics", "RouterHealth", "RouterStatistics")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerStatistics(Row):
    """What became of the messages that reached one handler.

    At every moment ``offered == handled + failed + skipped + cancelled + released + abandoned
    + buffered + in_flight``.

    Attributes:
        name: Name of the handler.
        offered: Messages received for it.
        handled: The handler returned, its outputs are confirmed, and the message was acked.
        failed: Given up: dead-lettered, or ended as its policy says; acked.
        skipped: Their event's name is none that is bound, and ``unknown="skip"``; acked.
        cancelled: A stop cut the handler; the message comes again.
        released: Given back to the broker: at a stop, or for a retry later.
        abandoned: The handler refused cancellation, or is a thread that did not return.
        buffered: Received, and waiting for the handler.
        in_flight: Being handled now; waits before a retry, and for a dead letter, included.
        dead_lettered: How many of ``failed`` are dead letters.
        timed_out: How many of ``failed`` had a last attempt that timed out.
        undecodable: How many of ``failed`` reached no handler: bytes that are not the event,
            names that are not bound, and messages that came too often.
        retried: Attempts after the first.
        redelivered: Messages that had been delivered before, where the broker tells.
        restarts: Workers that ended while the handler was open, and were replaced.
    """

    OUTCOMES: ClassVar[tuple[str, ...]] = (
        *("handled", "failed", "skipped"),
        *("cancelled", "released", "abandoned", "buffered", "in_flight"),
    )

    name: str
    offered: int = 0
    handled: int = 0
    failed: int = 0
    skipped: int = 0
    cancelled: int = 0
    released: int = 0
    abandoned: int = 0
    buffered: int = 0
    in_flight: int = 0
    dead_lettered: int = 0
    timed_out: int = 0
    undecodable: int = 0
    retried: int = 0
    redelivered: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStatistics(Table[HandlerStatistics]):
    """The counts of a router; a `eventflow.lifecycle.ledger.Ledger`.

    Attributes:
        name: Name of the router.
        state: ``new``, ``open``, ``closing`` or ``closed``.
        handlers: One row each, in the order they were added.
        abandoned: What could not be stopped: names of tasks and threads.
    """

    OWNER: ClassVar[str] = "router"
    ROW: ClassVar[type[Row]] = HandlerStatistics
    ROWS: ClassVar[str] = "handlers"

    name: str
    state: str
    handlers: tuple[HandlerStatistics, ...] = ()
    abandoned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerHealth:
    """How one handler is.

    Attributes:
        name: Name of the handler.
        state: ``starting``, ``running``, ``paused``, ``stalled`` (something that has to be
            stored can't be), ``reconnecting``, ``failed`` (it will not receive again by
            itself), ``stopping`` or ``stopped``.
        reason: Why, where it is not running.
        lag: Messages that wait in the broker for this process, or are not settled, as far as was
            heard; handlers that share a subscription have the same. ``None`` where the backend
            does not say.
    """

    name: str
    state: str
    reason: str = ""
    lag: int | None = None

    @property
    def is_ready(self) -> bool:
        """Whether messages are handled, or could be; a pause somebody asked for is no fault."""
        return self.state in ("running", "paused")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterHealth:
    """How a router is.

    Attributes:
        name: Name of the router.
        state: ``new``, ``open``, ``closing`` or ``closed``.
        handlers: One each.
    """

    name: str
    state: str
    handlers: tuple[HandlerHealth, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether it is open and every handler is ready."""
        return self.state == "open" and all(handler.is_ready for handler in self.handlers)
