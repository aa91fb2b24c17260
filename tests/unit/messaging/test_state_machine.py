"""The router driven at random on the virtual clock, with a broker that fails below it.

An account is kept outside: what was published for sure, what each handler began and ended, what
was acked, what was dead-lettered. After every turn of the loop the counts add up and nothing was
acked too early; at the end everything that was published has ended, in every group.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventflow import CallOnFailure, Event, FailurePolicy, Permanent, Retry, RetryAfter, current
from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import BrokerConnectionError, EventFlowError
from eventflow.failure import DeadLetter
from eventflow.messaging import Batch, Deliveries, Message, Router
from eventflow.testing import VirtualClockLoop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

    from eventflow.messaging import Delivery, Features, RouterHandler

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"

DRAIN_S, GRACE_S = 6.0, 2.0

WORDS = (
    "return",
    "wait",
    "raise",
    "permanent",
    "retry_after",
    "too_long",
    "swallow",
    "raise_cancelled",
    "cancel_inner",
    "slow_finally",
)
SCRIPTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)
SPECS = st.fixed_dictionaries(
    {
        "concurrency": st.integers(1, 3),
        "order": st.sampled_from(["strict", "strict", "relaxed"]),
        "keyed": st.booleans(),
        "batch": st.sampled_from([None, None, 3]),
        "timeout": st.sampled_from([None, 0.5, 3.0]),
        "max_in_flight": st.sampled_from([None, 4]),
        "policy": st.sampled_from(["log", "letter", "retry", "retry_slowly", "call", "bad_call"]),
    }
)


UNCHANGED_S = 300
"""Longer than any handler takes for one message: nothing moves any more."""


class Told(Event, topic="told"):
    n: int
    key: str
    script: tuple[str, ...]


def key_of(event: Told) -> str:
    return event.key


class Rough:
    """Breaks what the router has below it, when it is told to."""

    def __init__(self) -> None:
        self.links: set[RoughDeliveries] = set()
        self.faults = 0
        self.letters_away = False

    def cut(self) -> None:
        """Break every subscription."""
        self.faults += 1
        for link in tuple(self.links):
            link.cut()


class RoughDeliveries(Deliveries):
    def __init__(self, inner: Deliveries, rough: Rough) -> None:
        self._inner = inner
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rough = rough

    def cut(self) -> None:
        if not self._cut.done():
            self._cut.set_result(None)

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        receiving = asyncio.ensure_future(self._inner.receive(limit))
        try:
            both: set[asyncio.Future[Any]] = {receiving, self._cut}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                return receiving.result()
            raise BrokerConnectionError("cut")
        finally:
            receiving.cancel()
            with suppress(asyncio.CancelledError):
                await receiving

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    def has_more(self, until: float) -> bool:
        return self._inner.has_more(until)


class RoughSubscriber:
    """A memory subscriber whose link can be cut, and whose acks are watched."""

    def __init__(self, broker: MemoryBroker, group: str, rough: Rough, persistent: bool) -> None:
        self._inner = broker.subscriber(group=group)
        self._rough = rough
        self.group = group
        features = self._inner.features
        self._features = features if not persistent else _persistent(features)

    @property
    def features(self) -> Features:
        return self._features

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> AsyncGenerator[Deliveries]:
        async with self._inner.subscribe(
            topic, max_in_flight=max_in_flight, concurrency=concurrency
        ) as inner:
            link = RoughDeliveries(inner, self._rough)
            self._rough.links.add(link)
            try:
                yield link
            finally:
                self._rough.links.discard(link)

    async def prepare(self, topic: str) -> None:
        await self._inner.prepare(topic)

    def required_topics(self, topic: str) -> tuple[str, ...]:
        return self._inner.required_topics(topic)

    def publisher(self) -> RoughPublisher:
        return RoughPublisher(self._inner.publisher(), self._rough)

    async def lag(self, topic: str) -> int:
        return await self._inner.lag(topic)


class RoughPublisher:
    def __init__(self, inner: Any, rough: Rough) -> None:
        self._inner = inner
        self._rough = rough
        self.features = inner.features

    async def publish(self, topic: str, *messages: Message) -> None:
        await asyncio.sleep(0.01)
        if self._rough.letters_away:
            raise BrokerConnectionError("away")
        await self._inner.publish(topic, *messages)

    async def prepare(self, topic: str) -> None:
        await self._inner.prepare(topic)


def _persistent(features: Features) -> Features:
    import dataclasses

    return dataclasses.replace(features, persistent=True)


class CheckedLoop(VirtualClockLoop):
    """Looks after every turn, not only after every step of the machine."""

    look: Callable[[], None] = staticmethod(lambda: None)

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]  # not in typeshed
        self.look()


class Account:
    """What one group's handler did, by message id."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.started: list[str] = []
        self.done: set[str] = set()
        self.ended: set[str] = set()  # called back
        self.failed: set[str] = set()


class Routed(RuleBasedStateMachine):
    """A router whose handlers, messages and broker come, go, fail and recover."""

    @initialize(
        seed=st.integers(0, 2**16),
        specs=st.lists(SPECS, min_size=1, max_size=3),
        persistent=st.booleans(),
    )
    def make(self, seed: int, specs: list[dict[str, Any]], persistent: bool) -> None:
        note(f"seed of the loop: {seed}")
        structlog.configure(processors=[self.drop_line])
        self.loop = CheckedLoop(seed=seed)
        self.loop.look = self.look
        self.rough = Rough()
        self.persistent = persistent
        self.broker = MemoryBroker()
        self.router = Router("machine", drain_timeout=DRAIN_S, cancel_grace=GRACE_S)
        self.entered = False
        self.accounts: dict[str, Account] = {}
        self.handlers: dict[str, RouterHandler] = {}
        self.published: dict[str, tuple[str, bool]] = {}  # id: key, whether it can be decoded
        self.order: list[str] = []
        self.cuts = 0
        self.numbers = 0
        self.run(self.broker.__aenter__())
        for spec in specs:
            self.add_handler(spec)
        self.enter()

    @staticmethod
    def drop_line(logger: Any, name: str, line: Any) -> Any:
        raise structlog.DropEvent

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)

    def look(self) -> None:
        """After every turn."""
        for row in self.router.statistics().handlers:
            assert row.adds_up, row
            assert min(row.in_flight, row.buffered, row.released) >= 0, row
        if self.entered:
            for name, account in self.accounts.items():
                self.look_at_acks(name, account)

    def look_at_acks(self, name: str, account: Account) -> None:
        """Acked is only what was handled, dead-lettered, called back, or logged by choice."""
        topic = self.topics.get("told")
        if topic is None or name not in topic.log.groups:
            return
        group: Any = topic.log.groups[name]
        unsettled = {item.message.id for item in group._open.values()}
        read = [topic.log[offset].id for offset in range(topic.log.begin, group._position)]
        acked = set(read) - unsettled
        letters = self.letters(name)
        allowed = account.done | account.ended | letters
        if account.spec["policy"] == "log":
            allowed |= account.failed | {i for i in acked if not self.published[i][1]}
        assert acked <= allowed, (name, acked - allowed)

    @property
    def topics(self) -> Any:
        """What the broker has stored."""
        return vars(self.broker)["_store"].topics

    def letters(self, name: str) -> set[str]:
        """Ids of the dead letters of a handler; those that no callback can get among them."""
        found: set[str] = set()
        for topic in (f"graves.{name}", "told.dead_letter"):
            graves = self.topics.get(topic)
            if graves is not None:
                log = graves.log
                stored = [log[offset] for offset in range(log.begin, log.end)]
                found |= {m.id for m in stored if m.metadata["handler_poisoned"] == name}
        return found

    # Handlers

    @precondition(lambda self: len(self.accounts) < 4)
    @rule(spec=SPECS)
    def add_handler(self, spec: dict[str, Any]) -> None:
        name = f"h{len(self.accounts)}"
        if spec["batch"]:
            spec = {**spec, "keyed": False}
            if spec["concurrency"] > 1:
                spec["order"] = "relaxed"
        account = self.accounts[name] = Account(spec)
        options: dict[str, Any] = {
            key: spec[key] for key in ("concurrency", "order", "timeout", "max_in_flight")
        }
        if spec["keyed"] and spec["order"] == "strict":
            options["order_key"] = key_of
        if spec["batch"]:
            options |= {"batch": spec["batch"], "max_wait": 0.3}

        async def handler(event: Told) -> None:
            account.started.append(event.id)
            word = event.script[min(current().attempt, len(event.script)) - 1]
            try:
                await self.act(word)
            except BaseException:
                account.failed.add(event.id)
                raise
            account.done.add(event.id)

        async def batch_handler(batch: Batch[Told]) -> None:
            for event in batch:
                account.started.append(event.id)
                word = event.script[-1]
                if word in ("raise", "permanent"):
                    account.failed.add(event.id)
                    batch.fail(event, Permanent() if word == "permanent" else ValueError(word))
            account.failed.update(event.id for event in batch)
            await asyncio.sleep(0.2)
            account.done.update(
                event.id for event in batch if event.script[-1] not in ("raise", "permanent")
            )

        async def add() -> None:
            self.handlers[name] = self.router.add_handler(
                name,
                Told,
                batch_handler if spec["batch"] else handler,
                subscriber=cast(
                    "Any", RoughSubscriber(self.broker, name, self.rough, self.persistent)
                ),
                on_failure=self.policy(spec["policy"], name, account),
                **options,
            )

        self.run(add())

    def policy(self, kind: str, name: str, account: Account) -> FailurePolicy:
        letter = DeadLetter(
            f"graves.{name}", publisher=RoughPublisher(self.broker.publisher(), self.rough)
        )

        async def call(event: Event, error: BaseException, attempts: int) -> None:
            if kind == "bad_call" and self.rough.letters_away:
                raise OSError("away")
            account.ended.add(event.id)

        match kind:
            case "log":
                return FailurePolicy.log()
            case "letter":
                return FailurePolicy(then=letter)
            case "retry":
                return FailurePolicy(retry=Retry(attempts=2, initial=0.2), then=letter)
            case "retry_slowly":
                return FailurePolicy(retry=Retry(attempts=3, initial=2.0), then=letter)
            case _:
                return FailurePolicy(retry=Retry(attempts=2, initial=0.1), then=CallOnFailure(call))

    async def act(self, word: str) -> None:
        match word:
            case "wait":
                await asyncio.sleep(0.3)
            case "raise":
                raise ValueError(word)
            case "permanent":
                raise Permanent(word)
            case "retry_after":
                raise RetryAfter(1.5)
            case "too_long":
                await asyncio.sleep(20)
            case "swallow":
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(4)
            case "raise_cancelled":
                raise asyncio.CancelledError
            case "cancel_inner":
                inner = asyncio.ensure_future(asyncio.sleep(10))
                self.loop.call_later(0.1, inner.cancel)
                await inner
            case "slow_finally":
                try:
                    await asyncio.sleep(4)
                finally:
                    await asyncio.sleep(0.5)
            case _:
                pass

    # What happens

    def enter(self) -> None:
        with suppress(EventFlowError):
            self.run(self.router.__aenter__())
            self.entered = True

    @rule(
        scripts=st.lists(SCRIPTS, min_size=1, max_size=4),
        key=st.sampled_from(["a", "b", ""]),
        is_garbage=st.sampled_from([False, False, False, True]),
    )
    def publish(self, scripts: list[list[str]], key: str, is_garbage: bool) -> None:
        messages: list[Message] = []
        for script in scripts:
            self.numbers += 1
            event = Told(n=self.numbers, key=key, script=tuple(script))
            payload = b"{" if is_garbage else event.to_json()
            messages.append(Message(payload, {"name": "Told"}, id=event.id, key=key or None))
        self.run(self.broker.publisher().publish("told", *messages))
        for message in messages:
            self.published[message.id] = (key, not is_garbage)
            self.order.append(message.id)

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.3, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule()
    def cut_links(self) -> None:
        self.rough.cut()
        self.run(asyncio.sleep(0))

    @rule()
    def letters_go_away(self) -> None:
        self.rough.letters_away = True

    @rule()
    def letters_come_back(self) -> None:
        self.rough.letters_away = False

    @rule(which=st.integers(0, 3))
    @precondition(lambda self: self.entered)
    def pause_one(self, which: int) -> None:
        handler = [*self.handlers.values()][which % len(self.handlers)]
        handler.pause()

    @rule(which=st.integers(0, 3))
    @precondition(lambda self: self.entered)
    def resume_one(self, which: int) -> None:
        handler = [*self.handlers.values()][which % len(self.handlers)]
        handler.resume()

    @rule(drain=st.booleans())
    @precondition(lambda self: self.entered)
    def leave(self, drain: bool) -> None:
        self.check_left(drain)

    def check_left(self, drain: bool) -> None:
        began = self.loop.time()
        error = None if drain else ValueError()
        self.run(self.router.__aexit__(None if drain else ValueError, error, None))
        took = self.loop.time() - began
        assert took <= (DRAIN_S if drain else 0) + GRACE_S + 1 + 0.01, took
        self.entered = False
        ledger = self.router.ledger
        assert ledger.adds_up
        self.cuts += ledger.total.cancelled + ledger.total.abandoned
        if self.rough.letters_away:
            self.cuts += ledger.total.released  # its dead letter could not be stored
        for row in ledger.handlers:
            assert row.buffered == row.in_flight == 0, row
        assert not [task for task in asyncio.all_tasks(self.loop) if not task.done()]

    @rule()
    @precondition(lambda self: not self.entered)
    def enter_again(self) -> None:
        self.enter()

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.rough.letters_away = False
            if not self.entered:
                self.enter()
            assert self.entered
            for handler in self.handlers.values():
                handler.resume()
            self.run(self.settle())
            for name, account in self.accounts.items():
                self.check_all_ended(name, account)
            self.check_left(drain=True)
            self.run(self.broker.__aexit__(None, None, None))
        finally:
            self.loop.close()
            structlog.reset_defaults()

    async def settle(self) -> None:
        """Until nothing is left; where handlers without a timeout have much to do, that is long."""
        before: object = None
        unchanged = 0
        for _ in range(10_000):
            await asyncio.sleep(1)
            lags = [await self.broker.subscriber(group=name).lag("told") for name in self.accounts]
            if not any(lags):
                return
            found = (lags, self.router.statistics())
            unchanged = unchanged + 1 if found == before else 0
            before = found
            if unchanged == UNCHANGED_S:
                break
        raise AssertionError(f"never idle: {self.router.statistics()} {self.router.health()}")

    def check_all_ended(self, name: str, account: Account) -> None:
        """Nothing is lost, nothing is invented, and without faults nothing is handled twice."""
        letters = self.letters(name)
        ended = account.done | account.ended | letters
        if account.spec["policy"] == "log":
            ended |= account.failed | {i for i, (_, fits) in self.published.items() if not fits}
        assert set(self.published) <= ended, ("lost", name, set(self.published) - ended)
        assert ended <= set(self.published), ("invented", name)
        starts = Counter(account.started)
        if not self.rough.faults and not self.cuts and account.spec["policy"] in ("log", "letter"):
            assert not [i for i, count in starts.items() if count > 1], "handled twice"
        # First starts of one key are in the order of its publication, where order is kept.
        if account.spec["order"] == "strict" and not account.spec["batch"]:
            firsts = list(dict.fromkeys(account.started))
            for key in ("a", "b"):
                mine = [i for i in firsts if self.published[i][0] == key]
                assert mine == [i for i in self.order if i in set(mine)], ("order", name, key)


@pytest.mark.promise("3")
@pytest.mark.stress
@pytest.mark.timeout(900)
def test_the_router_at_random() -> None:
    """Whatever its handlers, its broker and its owner do."""
    run_state_machine_as_test(
        Routed,
        settings=settings(
            max_examples=2_000 if STRESS else 50,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
            print_blob=True,
        ),
    )
