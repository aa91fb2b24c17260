"""A ledger outside the bus: what publishers and handlers saw, against what the bus says.

Nothing in here asks the bus what became of an event. Publishers note each call, handlers each
attempt, and the log lines name the ids that did not end well. `Row.check` and `Row.settle`
compare that with the counts.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eventflow.bus import Overflow, SubscriptionStatistics
from eventflow.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("MOST_PROBLEMS", "First", "Ledger", "Probe", "Row", "Second")

MOST_PROBLEMS = 10

ENDS = ("failed", "dropped", "rejected", "cancelled", "released", "abandoned")

_BY_LINE = {
    "eventflow.handler_failed": "failed",
    "eventflow.key_failed": "failed",
    "eventflow.events_dropped": "dropped",
    "eventflow.events_rejected": "rejected",
    "eventflow.events_released": "released",
    "eventflow.handler_cancelled": "cancelled",
    "eventflow.task_abandoned": "abandoned",
    "eventflow.reader_abandoned": "abandoned",
}


class Probe(Event):
    """What its handlers do with it, one word an attempt; the last word is for the rest."""

    number: int
    key: int
    does: tuple[str, ...]


class First(Probe, topic="probe.first"):
    pass


class Second(Probe, topic="probe.second"):
    pass


@dataclass
class Row:
    """What is known from outside of one subscription or stream, in one stay in the bus."""

    ledger: Ledger
    name: str
    classes: frozenset[type[Probe]]
    overflow: Overflow = Overflow.BLOCK
    capacity: int = 1
    concurrency: int = 1
    attempts_allowed: int = 1
    keyed: bool = False
    latest_by_key: bool = False
    is_stream: bool = False
    ready: bool = True
    withdrawn: bool = False
    closing: bool = False
    settled: bool = False
    # Events by number, in order of the calls that offered them; those a closing may have sent
    # away uncounted; attempts begun; attempts running now.
    calls: list[int] = field(default_factory=list[int])
    uncertain: set[int] = field(default_factory=set[int])
    attempts: dict[int, int] = field(default_factory=dict[int, int])
    running: dict[int, Probe] = field(default_factory=dict[int, Probe])
    returned: Counter[int] = field(default_factory=Counter[int])
    returned_last: set[int] = field(default_factory=set[int])
    open_keys: dict[int, int] = field(default_factory=dict[int, int])
    ends: dict[str, list[int]] = field(default_factory=lambda: {end: [] for end in ENDS})
    newest: dict[object, int] = field(default_factory=dict[object, int])
    seen: SubscriptionStatistics | None = None

    @property
    def counts_every_call_at_once(self) -> bool:
        """Nothing can lie between a call and its count but a wait for room."""
        return self.overflow in {Overflow.BLOCK, Overflow.RAISE}

    def begin(self, event: Probe, attempt: int) -> None:
        """An attempt starts in the handler, or an event is in the reader's hands."""
        problem, number = self.ledger.problem, event.number
        before = self.attempts.get(number, 0)
        if attempt != before + 1:
            problem(f"{self.name}: attempt {attempt} of {number} after {before}")
        if attempt > self.attempts_allowed:
            problem(f"{self.name}: attempt {attempt} of {number}, {self.attempts_allowed} allowed")
        if number in self.running:
            problem(f"{self.name}: {number} is being handled twice at once")
        if self.settled:
            problem(f"{self.name}: {number} is handled after the end")
        if number not in self.calls:
            problem(f"{self.name}: {number} was never offered to it")
        self.attempts[number] = attempt
        self.running[number] = event
        self.returned_last.discard(number)
        if len(self.running) > self.concurrency:
            problem(f"{self.name}: {sorted(self.running)} at once, {self.concurrency} allowed")
        if before == 0:
            self._check_order(event)
        if self.keyed:
            holder = self.open_keys.setdefault(event.key, number)
            if holder != number:
                problem(f"{self.name}: {number} and {holder} of key {event.key} at once")

    def _check_order(self, event: Probe) -> None:
        group: object = event.key if self.keyed else None
        if self.overflow is Overflow.KEEP_LATEST:
            if self.keyed and not self.latest_by_key:
                return  # an event takes the place of another key's: no order to speak of
            group = event.key if self.latest_by_key else None
        called, returned = self.ledger.called, self.ledger.returned
        newest = self.newest.get(group)
        if newest is not None:
            # A drop is preceded by a checkpoint, so two calls that overlap may change places.
            ends = called[event.number] if self.counts_every_call_at_once else None
            if ends is None:
                ends = returned.get(event.number, self.ledger.now() + 1)
            if ends < newest:
                self.ledger.problem(f"{self.name}: {event.number} is out of order")
        self.newest[group] = max(newest or 0, called[event.number])

    def end(self, event: Probe, *, well: bool, for_sure: bool = True) -> None:
        """An attempt ended; ``for_sure`` unless a cancellation came in between."""
        self.running.pop(event.number, None)
        if well:
            self.returned[event.number] += 1
            self.returned_last.add(event.number)
        if (well or not for_sure) and self.open_keys.get(event.key) == event.number:
            del self.open_keys[event.key]

    def ended_by(self, end: str, number: int) -> None:
        """The log says what became of an event."""
        if end == "abandoned" and number in self.ends["failed"]:
            self.ends["failed"].remove(number)  # it was telling of the failure that hung
        self.ends[end].append(number)
        for key, holder in tuple(self.open_keys.items()):
            if holder == number:
                del self.open_keys[key]

    def close(self) -> None:
        """It takes nothing in any more; publishers that wait for it are sent away."""
        if not self.withdrawn:
            self.withdrawn = self.closing = True
            self.uncertain |= {n for n, rows in self.ledger.pending.items() if self in rows}

    def check(self, now: SubscriptionStatistics) -> None:
        """What holds at every moment."""
        problem = self.ledger.problem
        if not now.adds_up:
            problem(f"does not add up: {now}")
        if not 0 <= now.buffered <= self.capacity:
            problem(f"over its capacity of {self.capacity}: {now}")
        if now.waiting and now.buffered < self.capacity:
            problem(f"publishers wait though there is room: {now}")
        seen, self.seen = self.seen, now
        if seen is not None:
            fallen = [
                c for c in ("offered", "handled", *ENDS) if getattr(now, c) < getattr(seen, c)
            ]
            if fallen:
                problem(f"{self.name}: {fallen} went down, from {seen} to {now}")
        # An abandoned handler still runs, and is no longer in flight.
        live = len(self.running.keys() - set(self.ends["abandoned"]))
        if not (self.settled and self.is_stream) and now.in_flight < live:
            problem(f"{self.name}: {sorted(self.running)} run, but: {now}")
        if now.in_flight > self.concurrency:
            problem(f"more in flight than {self.concurrency}: {now}")
        started = len(self.attempts)
        if not self.is_stream and now.handled > len(self.returned):
            problem(f"{len(self.returned)} returned, but: {now}")
        if now.handled + now.cancelled + now.in_flight + now.abandoned > started + now.in_flight:
            problem(f"{started} started, but: {now}")
        accounted, calls = now.offered + now.waiting, len(self.calls)
        pending = sum(self in rows for rows in self.ledger.pending.values())
        if accounted > calls or now.waiting > pending:
            problem(f"{calls} calls, {pending} of them pending, but: {now}")
        elif not self.closing and accounted < (
            calls if self.counts_every_call_at_once else calls - pending
        ):
            problem(f"{calls} calls, {pending} of them pending, but only: {now}")

    def check_at_rest(self, now: SubscriptionStatistics) -> None:
        """What holds when only time can change anything."""
        if self.closing or self.is_stream or not (self.ready and now.buffered):
            return
        if now.in_flight == 0 or (now.in_flight < self.concurrency and not self.keyed):
            self.ledger.problem(f"{self.name}: events wait though a worker is free: {now}")

    def settle(self, now: SubscriptionStatistics) -> None:
        """It has ended: each event that was offered is in exactly one place."""
        problem = self.ledger.problem
        if now.buffered or now.in_flight or now.waiting:
            problem(f"not everything has ended: {now}")
        ended = Counter(itertools.chain.from_iterable(self.ends.values()))
        handled = self.attempts.keys() - ended.keys()
        if twice := [number for number, times in ended.items() if times > 1]:
            problem(f"{self.name}: {twice} ended more than once: {self.ends}")
        if not_well := handled - self.returned_last:
            problem(f"{self.name}: {not_well} neither returned nor named as anything else")
        if lost := set(self.calls) - self.uncertain - handled - ended.keys():
            problem(f"{self.name}: {lost} lost without a word; {now}")
        if invented := (handled | ended.keys()) - set(self.calls):
            problem(f"{self.name}: {invented} were never offered")
        counts = {"handled": len(handled), **{end: len(ids) for end, ids in self.ends.items()}}
        said = {what: getattr(now, what) for what in counts}
        if counts != said:
            problem(f"{self.name}: the log and the handlers say {counts}, the ledger says {said}")
        self.settled = True


class Ledger:
    """Every call and every attempt, by the number of its event."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.pending: dict[int, list[Row]] = {}
        self.called: dict[int, int] = {}
        self.returned: dict[int, int] = {}
        self.problems: list[str] = []
        self._numbers = itertools.count(1)
        self._moments = itertools.count(1)
        self._moment = 0
        self._by_id: dict[str, int] = {}

    def problem(self, text: str) -> None:
        """Note what must not be; an error raised in a handler would be the bus's to judge."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)

    def event(self, event_class: type[Probe], key: int, does: Iterable[str]) -> Probe:
        """A new event, known by its id."""
        event = event_class(number=next(self._numbers), key=key, does=tuple(does))
        self._by_id[event.id] = event.number
        return event

    def now(self) -> int:
        """The moment of the last call or return."""
        return self._moment

    def routed(self, event: Probe) -> list[Row]:
        """The rows that an event published now is offered to."""
        return [r for r in self.rows.values() if type(event) in r.classes and not r.withdrawn]

    def calling(self, event: Probe, rows: list[Row]) -> None:
        """A publish begins, to these rows."""
        self._moment = self.called[event.number] = next(self._moments)
        self.pending[event.number] = rows
        for row in rows:
            row.calls.append(event.number)

    def refused(self, event: Probe) -> None:
        """The publish was refused at the door: nobody was offered anything."""
        for row in self.pending[event.number]:
            row.calls.remove(event.number)

    def called_back(self, event: Probe) -> None:
        """The publish has returned or raised."""
        self._moment = self.returned[event.number] = next(self._moments)
        del self.pending[event.number]

    def read_log(self, line: dict[str, Any]) -> None:
        """Take a log line's word for what became of events."""
        end = _BY_LINE.get(line["event"])
        if end is None:
            return
        name = line.get("subscription") or str(line.get("task", "")).rpartition(":")[2]
        ids = line.get("event_ids") or [line.get("event_id")]
        for event_id in ids:
            if event_id is not None and name in self.rows:
                self.rows[name].ended_by(end, self._by_id[event_id])
