"""The bus driven at random on the virtual clock, against a ledger kept outside of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog
from hypothesis import HealthCheck, Phase, Verbosity, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventflow import CallOnFailure, EventBus, FailurePolicy, Overflow, Retry, current
from eventflow.errors import (
    BufferFullError,
    BusClosedError,
    Permanent,
    PublishDeadlockError,
    RetryAfter,
)
from eventflow.testing import VirtualClockLoop
from tests.unit.bus.outside_ledger import MOST_PROBLEMS, First, Ledger, Probe, Row, Second

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from eventflow.bus import EventStream, Subscription, SubscriptionStatistics

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
FAST_FAILURE = os.environ.get("EVENTFLOW_SHRINK") == "0"

DRAIN_S, GRACE_S = 6.0, 2.0
LONGEST_STOP_S = DRAIN_S + GRACE_S + 1
MOST_MEMBERS = 5

BOUND: ContextVar[int | None] = ContextVar("bound", default=None)

SELECTORS: dict[str, tuple[type[Probe] | str, frozenset[type[Probe]]]] = {
    "class": (First, frozenset({First})),
    "base": (Probe, frozenset({First, Second})),
    "topic": ("probe.second", frozenset({Second})),
    "pattern": ("probe.*", frozenset({First, Second})),
}
WORDS = (
    "return",
    "yield",
    "wait",
    "raise",
    "permanent",
    "retry_after",
    "raise_cancelled",
    "cancel_inner",
    "cancel_myself",
    "too_long",
    "swallow",
    "turn_into_error",
    "slow_finally",
    "stubborn",
    "bind",
    "bind_and_raise",
    "publish_own",
    "publish_other",
    "publish_nowait",
    "end_subscription",
    "leave_my_task",
)
SCRIPTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)
POLICIES = st.sampled_from(
    ["log", "retry", "retry_slowly", "call", "retry_and_call", "bad_call", "stubborn_call"]
)
SPECS = st.fixed_dictionaries(
    {
        "selector": st.sampled_from(sorted(SELECTORS)),
        "overflow": st.sampled_from(list(Overflow)),
        "capacity": st.integers(1, 3),
        "concurrency": st.integers(1, 3),
        "keyed": st.booleans(),
        "latest_by_key": st.booleans(),
        "key_fails": st.booleans(),
        "timeout": st.sampled_from([None, 0.2, 0.5, 3.0]),
        "block_timeout": st.sampled_from([0.0, 0.4, 2.5]),
        "policy": POLICIES,
        "resources": st.sampled_from([False, False, True]),
    }
)


class CheckedLoop(VirtualClockLoop):
    """Looks after every turn, not only after every step of the machine."""

    look: Callable[[], None] = staticmethod(lambda: None)
    turns = 0

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]  # not in typeshed
        self.turns += 1
        self.look()


class Busy(RuleBasedStateMachine):
    """A bus with subscribers, streams, publishers and closers that come, go and are cancelled."""

    @initialize(seed=st.integers(0, 2**16), specs=st.lists(SPECS, min_size=1, max_size=4))
    def make(self, seed: int, specs: list[dict[str, Any]]) -> None:
        note(f"seed of the loop: {seed}")
        self.ledger = Ledger()
        self.loop = CheckedLoop(seed=seed)
        self.loop.look = self.look
        self.bus = EventBus("machine", drain_timeout=DRAIN_S, cancel_grace=GRACE_S)
        self.entered = False
        self.declared: dict[str, dict[str, Any]] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.specs: dict[str, dict[str, Any]] = {}
        self.publishers: list[asyncio.Task[Any]] = []
        self.others: list[asyncio.Task[Any]] = []
        self.readers: dict[str, asyncio.Task[Any]] = {}
        self.reader_leaves: dict[str, str] = {}
        self.cancelled: set[asyncio.Task[Any]] = set()
        self.worker_tasks: list[asyncio.Task[Any]] = []
        self.grown: list[asyncio.Task[Any]] = []
        self.members = 0
        self.resources_open = 0
        self.told: set[tuple[str, int]] = set()
        structlog.configure(processors=[self.read_log])
        for spec in specs:
            self.subscribe(spec)
        self.enter()

    # Helpers

    def read_log(self, _: Any, __: str, line: Any) -> Any:
        self.ledger.read_log(dict(line))
        raise structlog.DropEvent

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coro)

    def spawn(
        self, into: list[asyncio.Task[Any]], coro: Coroutine[Any, Any, Any]
    ) -> asyncio.Task[Any]:
        task = self.loop.create_task(coro)
        into.append(task)
        return task

    def counts(self) -> dict[str, SubscriptionStatistics]:
        return {row.name: row for row in self.bus.statistics().subscriptions}

    def look(self) -> None:
        counts = self.counts()
        for row in tuple(self.ledger.rows.values()):
            if (now := counts.get(row.name)) is not None:
                row.check(now)
        if len(self.ledger.problems) >= MOST_PROBLEMS:
            # Perhaps something goes on and on without time moving: don't wait for its end.
            raise AssertionError("\n".join(self.ledger.problems))

    @invariant()
    def nothing_wrong(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert not self.ledger.problems, "\n".join(self.ledger.problems)
        for task in [*self.publishers, *self.others]:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
            if task.done() and task in self.cancelled:
                assert task.cancelled(), f"{task} swallowed its cancellation"
        self.publishers = [task for task in self.publishers if not task.done()]
        self.others = [task for task in self.others if not task.done()]

    # Publishing

    async def announce(self, event: Probe) -> None:
        """Publish, with every call and every end noted outside."""
        ledger, turn = self.ledger, self.loop.turns
        rows = ledger.routed(event)
        refusing = self.without_room(rows, Overflow.RAISE)
        ledger.calling(event, refusing or rows)
        refused = False
        try:
            await self.bus.publish(event)
        except BusClosedError:
            if self.loop.turns == turn:
                ledger.refused(event)
        except PublishDeadlockError:
            pass
        except BufferFullError as error:
            refused = not error.waited_s and self.loop.turns == turn
            if not refused and not any(row.overflow is Overflow.BLOCK for row in rows):
                ledger.problem(f"nobody blocks, but {error!r}")
        else:
            if refusing:
                ledger.problem(f"{refusing} had no room, and nothing was raised")
        finally:
            ledger.called_back(event)
        if refused and not refusing:
            ledger.problem(f"{event.number} was refused though there was room")

    def without_room(self, rows: list[Row], overflow: Overflow) -> list[Row]:
        counts = self.counts()
        return [
            row
            for row in rows
            if row.overflow is overflow and counts[row.name].buffered >= row.capacity
        ]

    def announce_nowait(self, event: Probe) -> None:
        ledger = self.ledger
        rows = ledger.routed(event)
        refusing = self.without_room(rows, Overflow.RAISE)
        full = self.without_room(rows, Overflow.BLOCK)
        ledger.calling(event, refusing or rows)
        try:
            self.bus.publish_nowait(event)
        except BusClosedError:
            ledger.refused(event)
        except BufferFullError:
            if not (refusing or full):
                ledger.problem(f"{event.number} was refused though there was room")
        else:
            if refusing or full:
                ledger.problem(f"{refusing or full} had no room, and nothing was raised")
        finally:
            ledger.called_back(event)

    @precondition(lambda self: self.entered)
    @rule(
        event_class=st.sampled_from([First, Second]),
        keys=st.lists(st.integers(0, 2), min_size=1, max_size=6),
        does=SCRIPTS,
        turns=st.integers(0, 3),
    )
    def publish(
        self, event_class: type[Probe], keys: list[int], does: list[str], turns: int
    ) -> None:
        for key in keys:
            self.spawn(self.publishers, self.announce(self.ledger.event(event_class, key, does)))
        self.turns(turns)

    @precondition(lambda self: self.entered)
    @rule(
        event_class=st.sampled_from([First, Second]),
        keys=st.lists(st.integers(0, 2), min_size=1, max_size=4),
        does=SCRIPTS,
    )
    def publish_nowait(self, event_class: type[Probe], keys: list[int], does: list[str]) -> None:
        async def all_at_once() -> None:
            for key in keys:
                self.announce_nowait(self.ledger.event(event_class, key, does))

        self.run(all_at_once())

    @precondition(lambda self: bool(self.publishers))
    @rule(which=st.integers(0, 9), turns=st.integers(0, 2))
    def cancel_publisher(self, which: int, turns: int) -> None:
        self.cancel(self.publishers[which % len(self.publishers)])
        self.turns(turns)

    @precondition(lambda self: bool(self.others))
    @rule(which=st.integers(0, 9))
    def cancel_closer_or_waiter(self, which: int) -> None:
        self.cancel(self.others[which % len(self.others)])

    @precondition(lambda self: bool(self.worker_tasks))
    @rule(which=st.integers(0, 9))
    def cancel_worker(self, which: int) -> None:
        """Somebody got hold of a worker's task, and cancels it whatever it does now."""
        self.worker_tasks.pop(which % len(self.worker_tasks)).cancel()

    def cancel(self, task: asyncio.Task[Any]) -> None:
        if task.cancel():
            self.cancelled.add(task)

    # Time

    @rule(count=st.integers(1, 6))
    def turns(self, count: int) -> None:
        async def some() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.run(some())

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 1.0, 3.0, 9.0]))
    def advance(self, seconds: float) -> None:
        async def sleep() -> None:
            await asyncio.sleep(seconds)
            while self.loop._ready:  # noqa: ASYNC110 - nothing could tell # pyright: ignore[reportPrivateUsage]
                await asyncio.sleep(0)

        self.run(sleep())
        # Nothing is ready any more: whoever has not returned waits for room, or for time.
        counts = self.counts()
        waiting = sum(row.waiting for row in counts.values())
        assert waiting >= len(self.ledger.pending), (counts, self.ledger.pending)
        for row in self.ledger.rows.values():
            row.check_at_rest(counts[row.name])

    # Handlers

    async def handle(self, name: str, event: Probe, resource: tuple[Any, ...]) -> None:
        row, spec, began = self.ledger.rows[name], self.specs[name], self.loop.time()
        context = current()
        if context.event is not event or context.subscription != name:
            self.ledger.problem(f"{name}: {event} is not current: {context}")
        if BOUND.get() is not None:
            self.ledger.problem(f"{name}: {event.number} sees what {BOUND.get()} bound")
        if resource != ((name,) if spec["resources"] else ()):
            self.ledger.problem(f"{name}: {event.number} got {resource}")
        row.begin(event, context.attempt)
        cuts: list[float] = []
        well = False
        try:
            does = event.does[min(context.attempt, len(event.does)) - 1]
            await self.behave(name, event, does, cuts)
            well = True
        finally:
            took = (cuts[0] if cuts else self.loop.time()) - began
            if spec["timeout"] is not None and took > spec["timeout"] + 1e-6:
                self.ledger.problem(f"{name}: {event.number} ran {took}, over its timeout")
            row.end(event, well=well, for_sure=not cuts)

    async def behave(self, name: str, event: Probe, does: str, cuts: list[float]) -> None:
        match does:
            case "return":
                return
            case "yield":
                await asyncio.sleep(0)
            case "wait":
                await asyncio.sleep(0.3)
            case "raise":
                raise LookupError("mine")
            case "permanent":
                raise Permanent("mine")
            case "retry_after":
                raise RetryAfter(0.7)
            case "raise_cancelled":
                raise asyncio.CancelledError
            case "cancel_inner":
                inner = asyncio.ensure_future(asyncio.sleep(1))
                self.loop.call_soon(inner.cancel)
                await inner
            case "cancel_myself":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case "too_long":
                await asyncio.sleep(50)
            case "swallow":
                await self.wait_out(cuts, 1)
            case "turn_into_error":
                try:
                    await asyncio.sleep(50)
                except asyncio.CancelledError:
                    cuts.append(self.loop.time())
                    raise LookupError("turned") from None
            case "slow_finally":
                try:
                    await asyncio.sleep(50)
                finally:
                    cuts.append(self.loop.time())
                    await asyncio.sleep(GRACE_S * 1.5)
            case "stubborn":
                await self.wait_out(cuts, 4)
            case "bind":
                BOUND.set(event.number)
            case "bind_and_raise":
                BOUND.set(event.number)
                raise LookupError("mine")
            case "publish_own":
                await self.announce(self.ledger.event(type(event), event.key, ["return"]))
            case "publish_other":
                other = Second if isinstance(event, First) else First
                await self.announce(self.ledger.event(other, event.key, ["wait"]))
            case "publish_nowait":
                self.announce_nowait(self.ledger.event(type(event), event.key, ["return"]))
            case "end_subscription":
                self.ledger.rows[name].close()
                self.declared.pop(name, None)
                self.subscriptions[name].cancel()
            case "leave_my_task":
                task = asyncio.current_task()
                assert task is not None
                self.worker_tasks.append(task)
            case _:
                raise AssertionError(does)

    async def wait_out(self, cuts: list[float], times: int) -> None:
        """Swallow that many cancellations."""
        for _ in range(times):
            try:
                await asyncio.sleep(50)
            except asyncio.CancelledError:
                cuts.append(self.loop.time())

    async def tell(self, name: str, event: Probe, attempts: int, *, policy: str) -> None:
        """What `CallOnFailure` calls."""
        row = self.ledger.rows[name]
        if attempts != row.attempts[event.number]:
            self.ledger.problem(f"{name}: told of {attempts} attempts, {row.attempts} were made")
        if (name, event.number) in self.told:
            self.ledger.problem(f"{name}: told of {event.number} twice")
        self.told.add((name, event.number))
        if policy == "stubborn_call":
            await self.wait_out([], 4)
        await asyncio.sleep(0.2)
        if policy == "bad_call":
            raise LookupError("telling failed")

    # Members

    @rule(spec=SPECS)
    def subscribe(self, spec: dict[str, Any]) -> None:
        if len(self.declared) + self.live_members() >= MOST_MEMBERS:
            return
        self.members += 1
        name = f"s{self.members}"
        self.specs[name] = spec

        async def handler(event: Probe, *resource: Any) -> None:
            await self.handle(name, event, resource)

        async def start() -> None:
            selector: Any = SELECTORS[spec["selector"]][0]
            self.subscriptions[name] = self.bus.subscribe(
                selector, handler, **self.options(name, spec)
            )
            if self.entered:
                self.add_row(name)
            else:
                self.declared[name] = spec

        self.run(start())

    def live_members(self) -> int:
        return sum(not row.settled for row in self.ledger.rows.values()) if self.entered else 0

    def options(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        async def tell(event: Any, error: BaseException, attempts: int) -> None:
            await self.tell(name, event, attempts, policy=spec["policy"])

        def key(event: Probe) -> int:
            if spec["key_fails"] and event.key == 2:
                raise LookupError("no key")
            return event.key

        options: dict[str, Any] = {
            "name": name,
            "overflow": spec["overflow"],
            "capacity": spec["capacity"],
            "concurrency": spec["concurrency"],
            "timeout": spec["timeout"],
        }
        if spec["overflow"] is Overflow.BLOCK:
            options["block_timeout"] = spec["block_timeout"]
        if spec["overflow"] is Overflow.KEEP_LATEST and spec["latest_by_key"]:
            options["latest_key"] = key
        if spec["keyed"]:
            options["order_key"] = key
        if spec["resources"]:
            options["resources"] = lambda: self.resource(name)
        retry = {
            "retry": Retry(attempts=3, initial=0.1),
            "retry_slowly": Retry(attempts=2, initial=2.0, jitter=0.0),
            "retry_and_call": Retry(attempts=2, initial=0.0),
        }.get(spec["policy"])
        calls = "call" in spec["policy"]
        options["on_failure"] = FailurePolicy(
            retry=retry, then=CallOnFailure(tell) if calls else None
        )
        return options

    @contextlib.asynccontextmanager
    async def resource(self, name: str) -> AsyncGenerator[str]:
        await asyncio.sleep(0.1)
        self.resources_open += 1
        self.ledger.rows[name].ready = True
        try:
            yield name
        finally:
            self.resources_open -= 1
            await asyncio.sleep(0.1)

    def add_row(self, name: str) -> None:
        spec = self.specs[name]
        self.ledger.rows[name] = Row(
            self.ledger,
            name,
            SELECTORS[spec["selector"]][1],
            overflow=spec["overflow"],
            capacity=spec["capacity"],
            concurrency=spec["concurrency"],
            attempts_allowed={"retry": 3, "retry_slowly": 2, "retry_and_call": 2}.get(
                spec["policy"], 1
            ),
            keyed=spec["keyed"] and spec["concurrency"] > 1,
            latest_by_key=spec["latest_by_key"],
            ready=not spec["resources"],
        )

    @precondition(lambda self: self.entered)
    @rule(which=st.integers(0, 9), drain=st.booleans(), turns=st.integers(0, 3))
    def close_subscription(self, which: int, drain: bool, turns: int) -> None:
        open_ones = [r for r in self.ledger.rows.values() if not (r.closing or r.is_stream)]
        if open_ones:
            self.spawn(self.others, self.aclose(open_ones[which % len(open_ones)].name, drain))
        self.turns(turns)

    async def aclose(self, name: str, drain: bool) -> None:
        row, began = self.ledger.rows[name], self.loop.time()
        row.close()
        self.declared.pop(name, None)
        try:
            await self.subscriptions[name].aclose(drain=drain)
        finally:
            took = self.loop.time() - began
            if took > LONGEST_STOP_S:
                self.ledger.problem(f"{name}: closing took {took}")
            if self.ledger.rows.get(name) is row and not row.settled:
                row.settle(self.subscriptions[name].statistics())

    @precondition(lambda self: self.entered)
    @rule(which=st.integers(0, 9))
    def cancel_subscription(self, which: int) -> None:
        open_ones = [r for r in self.ledger.rows.values() if not (r.closing or r.is_stream)]

        async def end(row: Row) -> None:
            row.close()
            self.declared.pop(row.name, None)
            self.subscriptions[row.name].cancel()

        if open_ones:
            self.run(end(open_ones[which % len(open_ones)]))

    @precondition(lambda self: self.entered)
    @rule(timeout=st.sampled_from([0.3, 2.0]), key=st.integers(0, 2))
    def wait_for(self, timeout: float, key: int) -> None:
        async def wait() -> None:
            with contextlib.suppress(TimeoutError, BusClosedError):
                found = await self.bus.wait_for(
                    Probe, where=lambda event: event.key == key, timeout=timeout
                )
                assert found.key == key

        self.spawn(self.others, wait())

    @precondition(lambda self: self.entered)
    @rule()
    def wait_idle(self) -> None:
        async def wait() -> None:
            with contextlib.suppress(BusClosedError):
                await self.bus.wait_idle()
                busy = [
                    row
                    for row in self.counts().values()
                    if row.buffered or row.in_flight or row.waiting
                ]
                assert not busy, busy

        self.spawn(self.others, wait())

    # Streams

    @precondition(lambda self: self.entered)
    @rule(
        selector=st.sampled_from(sorted(SELECTORS)),
        overflow=st.sampled_from(list(Overflow)),
        capacity=st.integers(1, 3),
        pause=st.sampled_from([0.0, 0.4]),
        turns=st.integers(0, 3),
    )
    def stream(
        self, selector: str, overflow: Overflow, capacity: int, pause: float, turns: int
    ) -> None:
        if len(self.readers) >= 2:
            return
        self.members += 1
        name = f"s{self.members}"
        selected: Any = SELECTORS[selector][0]
        options: Any = {"name": name, "overflow": overflow, "capacity": capacity}
        made = self.bus.stream(selected, **options)
        row = Row(
            self.ledger,
            name,
            SELECTORS[selector][1],
            overflow=overflow,
            capacity=capacity,
            is_stream=True,
        )
        self.readers[name] = self.loop.create_task(self.read(row, made, pause))
        self.turns(turns)

    async def read(self, row: Row, stream: EventStream[Any], pause: float) -> None:
        held: Probe
        try:
            async with stream:
                self.ledger.rows[row.name] = row
                try:
                    async for held in stream:
                        row.begin(held, 1)
                        await asyncio.sleep(pause)
                        match self.reader_leaves.get(row.name):
                            case "normally":
                                row.end(held, well=True)
                                return
                            case "by an error":
                                row.end(held, well=False)
                                raise LookupError("the reader's own")
                            case _:
                                row.end(held, well=True)
                finally:
                    row.close()
        except LookupError:
            pass
        finally:
            row.running.clear()
            self.readers.pop(row.name, None)
            if row.name in self.ledger.rows and not row.settled:
                row.settle(self.counts()[row.name])

    @precondition(lambda self: bool(self.readers))
    @rule(which=st.integers(0, 9), how=st.sampled_from(["normally", "by an error", "cancelled"]))
    def leave_stream(self, which: int, how: str) -> None:
        name = sorted(self.readers)[which % len(self.readers)]
        if how == "cancelled":
            self.readers[name].cancel()
        else:
            self.reader_leaves[name] = how

    # The bus itself

    @precondition(lambda self: not self.entered)
    @rule()
    def enter(self) -> None:
        self.ledger.rows.clear()
        self.entered = True

        async def enter() -> None:
            for name in self.declared:
                self.add_row(name)
            await self.bus.__aenter__()

        self.run(enter())

    @precondition(lambda self: self.entered)
    @rule(how=st.sampled_from(["normally", "by an error", "cancelled"]), after=st.floats(0, 7))
    def leave(self, how: str, after: float) -> None:
        began = self.loop.time()

        async def leave() -> None:
            error = LookupError("the block's own") if how == "by an error" else None
            leaving = asyncio.ensure_future(
                self.bus.__aexit__(None if error is None else LookupError, error, None)
            )
            for row in self.ledger.rows.values():
                # Not close(): a stop rejects and counts those that wait.
                row.closing = True
            if how == "cancelled":
                await asyncio.wait({leaving}, timeout=after)
                cancelled = leaving.cancel()
                await asyncio.wait({leaving})
                assert leaving.cancelled() == cancelled, leaving
            else:
                await leaving

        self.run(leave())
        took = self.loop.time() - began
        assert took <= LONGEST_STOP_S, took
        self.entered = False
        self.after_the_stop()

    def after_the_stop(self) -> None:
        ledger = self.bus.ledger
        assert ledger.state == "closed"
        assert ledger.adds_up, str(ledger)
        counts = self.counts()
        own = {*self.publishers, *self.others, *self.readers.values(), *self.grown}
        named = {line.split()[1] for line in ledger.abandoned}
        left = {task.get_name() for task in asyncio.all_tasks(self.loop) - own if not task.done()}
        assert left <= named, (left, named)
        for reader in tuple(self.readers.values()):
            reader.cancel()
        for task in self.others:
            task.cancel()  # a wait_for may be there yet; nothing else is
        self.turns(6)
        assert not self.ledger.pending, "a publisher still waits"
        for row in self.ledger.rows.values():
            if not row.settled:
                row.settle(counts[row.name])
        self.nothing_wrong()
        # What refused to end does so at last, and then nothing of the bus is left.
        self.run(asyncio.sleep(1000))
        tasks = asyncio.all_tasks(self.loop)
        scheduled = self.loop._scheduled  # pyright: ignore[reportPrivateUsage]
        timers = [t for t in scheduled if not t.cancelled()]
        assert not tasks, tasks
        assert not timers, timers
        assert not self.resources_open
        assert str(self.bus.ledger) == str(ledger), "the ledger changed after the stop"

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            if self.entered and not self.ledger.problems:
                self.leave("by an error", 0)
                self.nothing_wrong()
        finally:
            structlog.reset_defaults()
            tasks = asyncio.all_tasks(self.loop)
            self.loop.look = lambda: None
            for _ in range(6):
                for task in tasks:
                    task.cancel()
                self.run(asyncio.sleep(0))
            self.loop.close()


PROFILE = settings(
    max_examples=3000 if STRESS else 250,
    stateful_step_count=80 if STRESS else 40,
    derandomize=not STRESS,
    phases=[Phase.generate] if FAST_FAILURE else [Phase.generate, Phase.shrink],
    print_blob=True,
    deadline=None,
    database=None,
    suppress_health_check=cast("list[HealthCheck]", list(HealthCheck)),
    verbosity=Verbosity.normal,
)


@pytest.mark.fault("BUS-04")
@pytest.mark.stress
@pytest.mark.timeout(3600 if STRESS else 600)  # to find the smallest example takes a while
def test_every_event_is_accounted_for_whatever_happens() -> None:
    """The equation holds at every turn of the loop, and at the end each event is in one place."""
    run_state_machine_as_test(Busy, settings=PROFILE)
