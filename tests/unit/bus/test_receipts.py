"""What a bridge is told of an event that it brought: done by every subscription, or lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventflow import CallOnFailure, EventBus, FailurePolicy, Overflow, Permanent, Retry
from eventflow._cause import Envelope, Receipt
from eventflow.bus._bringing import bring
from eventflow.errors import BufferFullError, BusClosedError, BusError
from eventflow.testing import VirtualClockLoop
from tests.unit.bus.support import Ping, Stubborn, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from eventflow import Event

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"


async def offer(bus: EventBus, event: Event) -> Receipt:
    receipt = Receipt()
    await bring(bus, Envelope(event, None, None, None, receipt))
    return receipt


async def told(receipt: Receipt) -> bool:
    """What it says in the end; a subscription that never tells is a time-out."""
    async with asyncio.timeout(1_000):
        await receipt.wait()
    return receipt.is_done


async def ok(event: Ping) -> None:
    del event


async def hang(event: Ping) -> None:
    del event
    await asyncio.Event().wait()


async def fail(event: Ping) -> None:
    raise ValueError(event.n)


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_done_when_everybody_is(concurrency: int) -> None:
    """Not before the slowest, whether by a return or by the end of its policy."""
    gate = asyncio.Event()

    async def slow(event: Ping) -> None:
        del event
        await gate.wait()

    async with EventBus() as bus:
        retried = FailurePolicy(retry=Retry(attempts=3))
        bus.subscribe(Ping, ok, concurrency=concurrency, order_key=lambda e: e.n)
        bus.subscribe(Ping, slow)
        bus.subscribe(Ping, fail, on_failure=retried)
        bus.subscribe(Ping, hang, timeout=5)
        receipt = await offer(bus, Ping())
        waiting = asyncio.create_task(told(receipt))
        await asyncio.sleep(20)
        assert not waiting.done()
        gate.set()
        assert await waiting


async def test_nobody_listens() -> None:
    """Then there is nobody to wait for."""
    async with EventBus() as bus:
        assert await told(await offer(bus, Ping()))


async def test_a_sync_handler_tells() -> None:
    """Its thread has to return first."""
    gate = threading.Event()

    def sync(event: Ping) -> None:
        del event
        assert gate.wait(30)

    async with EventBus() as bus:
        bus.subscribe(Ping, sync)
        receipt = await offer(bus, Ping())
        await turns()
        assert receipt.is_done
        gate.set()
        assert await told(receipt)


@pytest.mark.parametrize(
    ("overflow", "first", "second"),
    [
        (Overflow.DROP_NEWEST, True, False),
        (Overflow.DROP_OLDEST, False, True),
        (Overflow.KEEP_LATEST, False, True),
        (Overflow.BLOCK, True, False),
    ],
)
async def test_what_a_full_buffer_loses_is_told(
    overflow: Overflow, first: bool, second: bool
) -> None:
    """Whoever is dropped or rejected is lost, and the others are not."""
    gate = asyncio.Event()

    async def slow(event: Ping) -> None:
        del event
        await gate.wait()

    async with EventBus() as bus:
        bus.subscribe(Ping, slow, overflow=overflow, capacity=1, timeout=None)
        bus.subscribe(Ping, ok)
        running = await offer(bus, Ping(n=0))
        await turns()
        one = await offer(bus, Ping(n=1))
        two = Receipt()
        try:
            await bring(bus, Envelope(Ping(n=2), None, None, None, two))
        except BufferFullError:
            assert overflow is Overflow.BLOCK
        gate.set()
        assert await told(running)
        assert (await told(one), await told(two)) == (first, second)


async def test_what_raise_refuses_waits_for_nobody() -> None:
    """Nobody has it, so nobody tells."""
    async with EventBus() as bus:
        bus.subscribe(Ping, hang, overflow=Overflow.RAISE, capacity=1, timeout=1)
        await offer(bus, Ping())
        await turns()
        await offer(bus, Ping())
        receipt = Receipt()
        with pytest.raises(BufferFullError):
            await bring(bus, Envelope(Ping(), None, None, None, receipt))
        await told(receipt)


async def test_a_failing_key_function_ends_it() -> None:
    """Counted as failed: that is how the policy of such an event ends."""

    def broken(event: Ping) -> str:
        raise LookupError(event.n)

    async with EventBus() as bus:
        bus.subscribe(Ping, ok, overflow=Overflow.KEEP_LATEST, latest_key=broken)
        bus.subscribe(Ping, ok, concurrency=2, order_key=broken)
        assert await told(await offer(bus, Ping()))


async def called(event: Event, error: BaseException, attempts: int) -> None:
    del event, error, attempts


async def not_called(event: Event, error: BaseException, attempts: int) -> None:
    del event, attempts
    raise RuntimeError("nobody there") from error


@pytest.mark.parametrize(("callback", "done"), [(called, True), (not_called, False)])
async def test_whoever_is_called_has_to_return(callback: Any, done: bool) -> None:
    """A callback that raises was not told, so the event is not done."""
    async with EventBus() as bus:
        bus.subscribe(Ping, fail, on_failure=FailurePolicy(then=CallOnFailure(callback)))
        assert await told(await offer(bus, Ping())) is done


async def _fails_when_cut(event: Ping) -> None:
    try:
        await hang(event)
    except asyncio.CancelledError:
        raise ValueError("while it was stopped") from None


async def _swallows(event: Ping) -> None:
    try:
        await hang(event)
    except asyncio.CancelledError:
        return


@pytest.mark.parametrize(
    ("handler", "retry", "done"),
    [
        pytest.param(hang, None, False, id="running"),
        pytest.param(fail, Retry(attempts=9, initial=100, max_delay=100), False, id="waiting"),
        pytest.param(_fails_when_cut, Retry(attempts=9), False, id="attempts left"),
        pytest.param(_fails_when_cut, None, True, id="no attempts left"),
        pytest.param(_swallows, None, True, id="returned all the same"),
    ],
)
async def test_a_stop_before_the_end(
    handler: Callable[[Ping], Coroutine[Any, Any, None]], retry: Retry | None, done: bool
) -> None:
    """What it cut is lost, and what waited behind it; not what ended by itself."""
    async with EventBus(drain_timeout=1) as bus:
        bus.subscribe(Ping, handler, timeout=None, on_failure=FailurePolicy(retry=retry))
        first = await offer(bus, Ping(n=0))
        behind = await offer(bus, Ping(n=1))
        await turns()
    assert await told(first) is done
    assert not await told(behind)


async def test_a_publisher_in_turn_at_a_stop() -> None:
    """It is sent away, and its event is lost."""
    bus = EventBus(drain_timeout=1)
    async with bus:
        bus.subscribe(Ping, hang, timeout=None, capacity=1, block_timeout=100)
        for n in range(2):
            await offer(bus, Ping(n=n))
            await turns()
        receipt = Receipt()
        item = Envelope(Ping(n=2), None, None, None, receipt)
        bringing = asyncio.create_task(bring(bus, item))
        await turns()
    with pytest.raises(BusClosedError):
        await bringing
    assert not await told(receipt)


async def test_one_who_is_cancelled_while_it_brings() -> None:
    """Who has a copy keeps it; for the others it is lost."""
    async with EventBus(drain_timeout=0) as bus:
        bus.subscribe(Ping, hang, timeout=None, capacity=1, block_timeout=100)
        for n in range(2):
            await offer(bus, Ping(n=n))
            await turns()
        receipt = Receipt()
        bringing = asyncio.create_task(bring(bus, Envelope(Ping(), None, None, None, receipt)))
        await turns()
        bringing.cancel()
        await asyncio.wait({bringing})
        assert not await told(receipt)


async def test_what_is_abandoned_is_lost() -> None:
    """A handler that refuses to end has not handled anything."""
    stubborn = Stubborn()
    async with EventBus(drain_timeout=0, cancel_grace=1) as bus:
        bus.subscribe(Ping, stubborn, timeout=None)
        receipt = await offer(bus, Ping())
        await stubborn.running.wait()
    assert not await told(receipt)
    await stubborn.let_go()


async def test_a_subscription_that_is_left_alone() -> None:
    """What it had not handled comes again: to the others, and to it if it is there again."""
    async with EventBus() as bus:
        subscription = bus.subscribe(Ping, hang, timeout=None)
        running, waiting = await offer(bus, Ping()), await offer(bus, Ping())
        await turns()
        subscription.cancel()
        assert not await told(running)
        assert not await told(waiting)


async def test_a_stream_is_done_with_what_its_reader_left() -> None:
    """Nobody who asks for one event has the others brought again to everybody."""
    async with EventBus() as bus:
        async with bus.stream(Ping) as events:
            receipts = [await offer(bus, Ping(n=n)) for n in range(5)]
            async for event in events:
                if event.n == 2:
                    break
        assert all([await told(receipt) for receipt in receipts])


async def test_a_stream_whose_reader_is_cancelled() -> None:
    """The event it held, and those it had not read, are lost; the ones before are done."""
    async with EventBus() as bus:
        receipts: list[Receipt] = []

        async def read() -> None:
            async with bus.stream(Ping) as events:
                receipts.extend([await offer(bus, Ping(n=n)) for n in range(3)])
                async for event in events:
                    if event.n == 1:
                        await hang(event)

        reading = asyncio.create_task(read())
        await turns()
        reading.cancel()
        await asyncio.wait({reading})
        assert [await told(receipt) for receipt in receipts] == [True, False, False]


async def test_a_stream_at_a_stop() -> None:
    """What its reader had not finished, and what was buffered, is lost."""
    receipts: list[Receipt] = []
    async with EventBus(drain_timeout=1) as bus:
        stream = bus.stream(Ping)
        events = await stream.__aenter__()
        receipts.extend([await offer(bus, Ping(n=n)) for n in range(2)])
        await anext(events)
    assert [await told(receipt) for receipt in receipts] == [False, False]
    await stream.__aexit__(None, None, None)


# At random


class Plan(NamedTuple):
    """One subscription."""

    overflow: Overflow
    capacity: int
    concurrency: int
    attempts: int
    callback: str
    words: tuple[str, ...]


plans = st.builds(
    Plan,
    overflow=st.sampled_from(Overflow),
    capacity=st.integers(1, 3),
    concurrency=st.integers(1, 2),
    attempts=st.integers(1, 3),
    callback=st.sampled_from(("none", "none", "returns", "raises", "hangs")),
    words=st.lists(
        st.sampled_from(("return", "wait", "raise", "permanent", "hang", "stubborn", "spite")),
        min_size=1,
        max_size=4,
    ).map(tuple),
)


class Listener:
    """Does what its plan says, and remembers which events it handled."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.handled: set[str] = set()

    def word(self, event: Ping) -> str:
        return self.plan.words[event.n % len(self.plan.words)]

    async def __call__(self, event: Ping) -> None:
        match self.word(event):
            case "wait":
                await asyncio.sleep(1)
            case "hang":
                await asyncio.sleep(1_000)
            case "raise":
                await asyncio.sleep(0.1)
                raise ValueError(event.n)
            case "permanent":
                raise Permanent("never")
            case "spite":
                try:
                    await asyncio.sleep(1_000)
                except asyncio.CancelledError:
                    raise ValueError("when it was cut") from None
            case "stubborn":
                await refuse_to_end(20)
                return
            case _:
                pass
        self.handled.add(event.id)

    def policy(self) -> FailurePolicy:
        retry = Retry(attempts=self.plan.attempts, initial=0.5)
        if self.plan.callback == "none":
            return FailurePolicy(retry=retry)
        return FailurePolicy(retry=retry, then=CallOnFailure(self._called))

    async def _called(self, event: Event, error: BaseException, attempts: int) -> None:
        del event, attempts
        if self.plan.callback == "hangs":
            await asyncio.sleep(1_000)
        elif self.plan.callback == "raises":
            raise RuntimeError("nobody there") from error

    def is_done(self, event: Ping, attempts: int) -> bool:
        """Whether it handled it, or its policy went through; ``attempts`` as the log has it."""
        if event.id in self.handled:
            return True
        is_last = attempts == self.plan.attempts or self.word(event) == "permanent"
        return attempts > 0 and is_last and self.plan.callback in ("none", "returns")


async def refuse_to_end(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


class Witness(logging.Handler):
    """Attempts of those that failed for good, from the log: by subscription and event."""

    LINE = re.compile(
        r"event='eventflow.handler_failed' subscription='(\w+)' event_id='(\S+)' .*attempts=(\d+)"
    )

    def __init__(self) -> None:
        super().__init__()
        self.failed: dict[tuple[str, str], int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if match := self.LINE.match(record.getMessage()):
            assert (match[1], match[2]) not in self.failed
            self.failed[match[1], match[2]] = int(match[3])


async def play(plans: list[Plan], pauses: list[float], drain: float, witness: Witness) -> None:
    listeners = {f"s{number}": Listener(plan) for number, plan in enumerate(plans)}
    bus = EventBus(drain_timeout=drain, cancel_grace=1)
    for name, listener in listeners.items():
        plan = listener.plan
        options: dict[str, Any] = {"order_key": _parity} if plan.concurrency > 1 else {}
        if plan.overflow is Overflow.BLOCK:
            options["block_timeout"] = 2
        bus.subscribe(
            Ping,
            listener,
            name=name,
            overflow=plan.overflow,
            capacity=plan.capacity,
            concurrency=plan.concurrency,
            timeout=10,
            on_failure=listener.policy(),
            **options,
        )
    offered: list[tuple[Ping, Receipt, bool]] = []
    async with bus:
        for n, pause in enumerate(pauses):
            event, receipt, refused = Ping(n=n), Receipt(), False
            try:
                await bring(bus, Envelope(event, None, None, None, receipt))
            except BusError:
                refused = True
            offered.append((event, receipt, refused))
            await asyncio.sleep(pause)
    for event, receipt, refused in offered:
        said = await told(receipt) and not refused
        done = {
            name: listener.is_done(event, witness.failed.get((name, event.id), 0))
            for name, listener in listeners.items()
        }
        assert said == all(done.values()), (event, done)
    await asyncio.sleep(60)  # those that were abandoned go on for a while
    assert not [event for event, receipt, _ in offered if receipt._open]  # pyright: ignore[reportPrivateUsage]


def _parity(event: Ping) -> int:
    return event.n % 2


@pytest.mark.stress
@pytest.mark.promise("3")
@settings(
    max_examples=2_000 if STRESS else 100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    plans=st.lists(plans, min_size=1, max_size=3),
    pauses=st.lists(st.sampled_from((0.0, 0.0, 0.3, 2.0)), min_size=1, max_size=8),
    drain=st.sampled_from((0.0, 3.0, 1_000.0)),
)
def test_done_if_and_only_if_everybody_is(
    plans: list[Plan], pauses: list[float], drain: float
) -> None:
    """Whatever subscriptions do, and whenever the bus stops; each tells exactly once."""
    witness = Witness()
    logger = logging.getLogger("eventflow.bus")
    logger.addHandler(witness)
    logger.propagate = False
    try:
        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            runner.run(play(plans, pauses, drain, witness))
    finally:
        logger.propagate = True
        logger.removeHandler(witness)
