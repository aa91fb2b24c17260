"""`CircuitBreaker`: when intake pauses, and what lets it go on."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import FailurePolicy, Permanent, Retry
from eventflow.errors import InvalidOptionError
from eventflow.messaging import Router
from eventflow.messaging.middleware import CircuitBreaker, Duplicator
from eventflow.messaging.middleware.circuit_breaker import Circuit
from tests.unit.messaging.middleware.support import Seen, lines, send
from tests.unit.messaging.support import Placed, Shipped, now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventflow.brokers.memory import MemoryBroker

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

ONCE = FailurePolicy()
AGAIN = FailurePolicy(retry=Retry(attempts=100, initial=0.1, multiplier=1, jitter=0))

COOL_DOWN, STEPS, CALLS = 10.0, 8, 3


def is_503(error: Exception) -> bool:
    return error.args == (503,)


# The machine


class Model:
    """The same rules, written down once more and in another way: as what happened."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.state = "closed"
        self.epoch = 0  # changes of state so far
        self.in_row = 0
        self.opened_at = 0.0
        self.calls: dict[int, tuple[int, bool]] = {}  # the epoch it began in; whether it counts

    def begin(self, call: int) -> None:
        counts = self.state == "closed" or (
            self.state == "half-open" and not any(self.deciding(c) for c in self.calls)
        )
        self.calls[call] = (self.epoch, counts)

    def deciding(self, call: int) -> bool:
        return self.calls[call] == (self.epoch, True)

    def end(self, call: int, outcome: str, now: float) -> None:
        counts = self.deciding(call)
        del self.calls[call]
        if not counts or outcome == "undecided":
            return
        self.in_row = self.in_row + 1 if outcome == "failed" else 0
        if self.state == "half-open" and outcome == "succeeded":
            self.turn("closed")
        elif outcome == "failed" and (self.state == "half-open" or self.in_row == self.failures):
            self.opened_at = now
            self.turn("open")

    def look(self, now: float) -> None:
        if self.state == "open" and now - self.opened_at >= COOL_DOWN:
            self.turn("half-open")

    def turn(self, state: str) -> None:
        self.state, self.in_row = state, 0
        self.epoch += 1


def possible(running: frozenset[int]) -> Iterator[tuple[str, int]]:
    """What can happen next: one of three calls begins or ends somehow, or time passes."""
    for call in range(CALLS):
        if call not in running:
            yield "begin", call
            break  # which of the idle ones begins makes no difference
    for call in running:
        for outcome in ("succeeded", "failed", "undecided"):
            yield outcome, call
    yield "wait", 0


def histories(running: frozenset[int], left: int) -> Iterator[tuple[tuple[str, int], ...]]:
    """Every sequence of so many of them."""
    if not left:
        yield ()
        return
    for step in possible(running):
        what, call = step
        after = running | {call} if what == "begin" else running - {call}
        for rest in histories(running if what == "wait" else after, left - 1):
            yield (step, *rest)


@pytest.mark.parametrize("failures", [1, 2])
def test_every_history_ends_as_the_rules_say(failures: int) -> None:
    """All sequences of eight steps with up to three calls at once, against a model of the rules."""
    seen: set[str] = set()
    count = 0
    for history in histories(frozenset(), STEPS):
        count += 1
        circuit, model = Circuit(failures=failures, cool_down=COOL_DOWN), Model(failures)
        tickets: dict[int, int] = {}
        time = 0.0
        for what, call in history:
            before = model.state
            if what == "wait":
                time += COOL_DOWN / 2
                changed = circuit.cooled(time)
                model.look(time)
            elif what == "begin":
                tickets[call] = circuit.begin()
                model.begin(call)
                changed = False
                assert bool(tickets[call]) == model.calls[call][1]
            else:
                ticket = tickets.pop(call)
                decides = model.deciding(call)
                model.end(call, what, time)
                if what == "succeeded":
                    changed = circuit.succeeded(ticket)
                elif what == "failed":
                    changed = circuit.failed(ticket, time)
                else:
                    changed = False
                    assert circuit.undecided(ticket) == (decides and before == "half-open")
            assert circuit.state == model.state, history
            assert changed == (model.state != before), history
            probing = any(map(model.deciding, model.calls)) and model.state == "half-open"
            assert circuit.is_probing == probing, history
            seen.add(circuit.state)
    assert seen == {"closed", "open", "half-open"}
    assert count > 50_000


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_half_open_goes_both_ways(outcome: str) -> None:
    """Reached step by step, with an old call that ends meanwhile and changes nothing."""
    circuit = Circuit(failures=1, cool_down=1)
    old, failing = circuit.begin(), circuit.begin()
    assert circuit.failed(failing, 0.0)
    assert circuit.begin() == 0
    assert not circuit.cooled(0.9)
    assert circuit.cooled(1.0)
    probe = circuit.begin()
    assert circuit.begin() == 0
    assert not circuit.succeeded(old)
    if outcome == "succeeded":
        assert circuit.succeeded(probe)
        assert circuit.state == "closed"
    else:
        assert circuit.failed(probe, 1.5)
        assert (circuit.state, circuit.until) == ("open", 2.5)


# In a router


async def test_failures_in_a_row_pause_the_intake(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits stays at the broker, unacked and not nacked; health says paused, and why."""
    away = True
    subscriber = broker.subscriber(group="g")
    handler = Seen(fail=lambda _: ConnectionError("no route") if away else None)
    breaker = CircuitBreaker(failures=3, cool_down=30)
    router = Router(on_failure=AGAIN)
    router.add_handler("h", Placed, handler, subscriber=subscriber, middlewares=[breaker])
    async with router:
        await send(broker, 1)
        await asyncio.sleep(1)
        await send(broker, 2, 3)
        await asyncio.sleep(20)
        assert handler.times == [0, 0.1, 0.2]
        (health,) = router.health().handlers
        assert (health.state, health.is_ready) == ("paused", True)
        assert "circuit is open" in health.reason
        assert "no route" in health.reason
        assert await subscriber.lag("orders") == 3
        assert router.statistics()["h"].offered == 1
        away = False
        await asyncio.sleep(20)
        assert router.health().handlers[0].state == "running"
    assert handler.numbers == [1, 1, 1, 1, 2, 3]
    assert handler.times[3:] == [30.2, 30.2, 30.2]
    assert router.ledger["h"].handled == 3
    assert router.ledger["h"].redelivered == 0
    (opened,), (closed,) = lines(caplog, "circuit_opened"), lines(caplog, "circuit_closed")
    assert "ConnectionError" in opened
    assert "open_s=30.0" in closed


async def test_one_attempt_is_let_through_each_cool_down(broker: MemoryBroker) -> None:
    """Of four workers with work to do; until one succeeds."""
    handler = Seen(fail=lambda _: OSError() if now() < 35 else None)
    breaker = CircuitBreaker(failures=4, cool_down=10)
    router = Router(on_failure=AGAIN, middlewares=[breaker])
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=broker.subscriber(group="g"),
        concurrency=4,
        order="relaxed",
    )
    async with router:
        await send(broker, *range(8))
        await asyncio.sleep(60)
    assert [time for time in handler.times if 0 < time < 40] == [10, 20, 30]
    assert handler.times[-8:] == [40] * 8
    assert router.ledger["h"].handled == 8


async def test_a_message_to_try_with_is_received_where_none_waits(broker: MemoryBroker) -> None:
    """The one that failed is gone, and the intake is paused: it is opened for one."""
    handler = Seen(OSError(), None, None)
    router = Router(on_failure=ONCE, middlewares=[CircuitBreaker(failures=1, cool_down=10)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
        await asyncio.sleep(25)  # half-open since 10, with nothing to try
        assert router.health().handlers[0].state == "paused"
        await send(broker, 2, 3)
        await asyncio.sleep(1)
        assert router.health().handlers[0].state == "running"
    assert handler.numbers == [1, 2, 3]
    assert handler.times == [0, 25, 25]


async def test_a_timeout_is_a_failure_also_where_it_is_swallowed(broker: MemoryBroker) -> None:
    """A handler that hangs, and one that hides it."""

    async def hangs(event: Placed) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            if event.n == 1:
                raise

    breaker = CircuitBreaker(failures=2, cool_down=30, on=ConnectionError)
    router = Router(on_failure=ONCE, drain_timeout=0)
    router.add_handler(
        "h",
        Placed,
        hangs,
        subscriber=broker.subscriber(group="g"),
        timeout=5,
        middlewares=[breaker],
    )
    async with router:
        await send(broker, 1, 2, 3)
        await asyncio.sleep(9)
        assert router.health().handlers[0].state == "running"
        await asyncio.sleep(2)
        assert "took longer than 5 s" in router.health().handlers[0].reason
        assert router.statistics()["h"].timed_out == 2


@pytest.mark.parametrize(
    ("options", "error", "is_open"),
    [
        ({}, ValueError(), True),
        ({}, Permanent(), False),
        ({"on": OSError}, ConnectionError(), True),
        ({"on": OSError}, ValueError(), False),
        ({"on": (OSError, ValueError)}, ValueError(), True),
        ({"on": OSError}, ExceptionGroup("both", [OSError(), ConnectionError()]), True),
        ({"on": OSError}, ExceptionGroup("both", [OSError(), ValueError()]), False),
        ({"when": is_503}, ValueError(503), True),
        ({"when": is_503}, ValueError(404), False),
        ({}, asyncio.CancelledError(), False),
    ],
)
async def test_what_counts_as_a_failure(
    broker: MemoryBroker, options: dict[str, Any], error: BaseException, is_open: bool
) -> None:
    """By class and by a function; of a group all; what counts not changes nothing."""
    handler = Seen(ValueError(503), error)
    if options.get("on"):
        handler = Seen(OSError(), error)
    breaker = CircuitBreaker(failures=2, cool_down=30, **options)
    router = Router(on_failure=ONCE, drain_timeout=0, middlewares=[breaker])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1, 2)
        await asyncio.sleep(1)
        assert (router.health().handlers[0].state == "paused") == is_open


async def test_a_success_between_failures_starts_the_count_anew(broker: MemoryBroker) -> None:
    handler = Seen(OSError(), OSError(), None, OSError(), OSError(), None)
    router = Router(on_failure=ONCE, middlewares=[CircuitBreaker(failures=3)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, *range(6))
    assert handler.numbers == [*range(6)]
    assert now() < 1


async def test_what_tells_nothing_lets_another_through(broker: MemoryBroker) -> None:
    """Half-open, a bad message comes: neither open nor closed, and the next one decides."""
    handler = Seen(OSError(), Permanent("bad"), None)
    router = Router(on_failure=ONCE, middlewares=[CircuitBreaker(failures=1, cool_down=10)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1, 2, 3)
        await asyncio.sleep(15)
        assert router.health().handlers[0].state == "running"
    assert handler.times == [0, 10, 10]


async def test_what_never_reaches_the_breaker_does_not_stop_it(broker: MemoryBroker) -> None:
    """The attempt that was let through ends in a middleware further out."""
    calls = itertools.count(1)

    async def outside(delivery: Any, call_next: Any) -> Any:
        if next(calls) == 2:
            raise ValueError("not today")
        return await call_next(delivery)

    handler = Seen(OSError(), None)
    breaker = CircuitBreaker(failures=1, cool_down=10)
    router = Router(on_failure=ONCE, middlewares=[outside, breaker])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1, 2, 3)
        await asyncio.sleep(30)
    assert handler.times == [0, 20]


async def test_a_pause_of_somebody_else_holds(broker: MemoryBroker) -> None:
    """Half-open, the breaker lets nothing through that a user holds up."""
    handler = Seen(OSError(), None, None)
    router = Router(on_failure=ONCE, middlewares=[CircuitBreaker(failures=1, cool_down=10)])
    added = router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1, 2, 3)
        await asyncio.sleep(5)
        added.pause()
        await asyncio.sleep(45)
        assert handler.times == [0]
        added.resume()
        await asyncio.sleep(0)
        assert added.health().state == "paused"
        await asyncio.sleep(10)
        assert added.health().state == "running"
    assert handler.times == [0, 50, 50]


async def test_each_handler_has_a_circuit_of_its_own(broker: MemoryBroker) -> None:
    """The same object around two handlers of different topics."""
    failing, fine = Seen(fail=lambda _: OSError()), Seen()
    router = Router(
        on_failure=ONCE, drain_timeout=0, middlewares=[CircuitBreaker(failures=1, cool_down=10)]
    )
    router.add_handler("failing", Placed, failing, subscriber=broker.subscriber(group="g"))
    router.add_handler("fine", Shipped, fine, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
        await asyncio.sleep(1)
        assert [health.state for health in router.health().handlers] == ["paused", "running"]


async def test_a_second_run_inside_does_not_count_twice(broker: MemoryBroker) -> None:
    """Half-open counts one call at a time, also where a middleware further out calls twice."""
    handler = Seen(OSError(), None, OSError(), None, None)
    breaker = CircuitBreaker(failures=1, cool_down=10)
    router = Router(on_failure=AGAIN, middlewares=[Duplicator(), breaker])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
        await asyncio.sleep(30)
    assert handler.times == [0, 10, 10, 20, 20]


async def test_a_stop_leaves_no_timer_and_loses_nothing(broker: MemoryBroker) -> None:
    """Open or half-open, with what waits; a failure in the last moment opens it for nobody."""
    subscriber = broker.subscriber(group="g")

    async def stubborn(event: Placed) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise OSError from None

    for handler, wait in ((Seen(fail=lambda _: OSError()), 15.0), (stubborn, 1.0)):
        router = Router(
            on_failure=AGAIN,
            drain_timeout=1,
            middlewares=[CircuitBreaker(failures=1, cool_down=10)],
        )
        router.add_handler("h", Placed, handler, subscriber=subscriber)
        async with router:
            await send(broker, 1, 2)
            await asyncio.sleep(wait)
        assert router.ledger.adds_up
        assert router.ledger["h"].handled == router.ledger["h"].failed == 0
    assert await subscriber.lag("orders") == 4


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"failures": 0}, "failures"),
        ({"cool_down": 0}, "cool_down"),
        ({"on": ()}, "on"),
        ({"on": ValueError("x")}, "on"),
        ({"on": BaseException}, "on"),
        ({"when": 3}, "when"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], option: str) -> None:
    """With the option's name."""
    with pytest.raises(InvalidOptionError) as caught:
        CircuitBreaker(**options)
    assert caught.value.option == option


async def test_a_probe_that_takes_longer_than_the_cool_down_is_the_only_one(
    broker: MemoryBroker,
) -> None:
    """No other is let through before it has ended, however often the time has passed."""
    handler = Seen(fail=lambda event: ValueError() if event.n == 1 else None)

    async def slow(event: Placed) -> None:
        await handler(event)
        if event.n == 2:
            await asyncio.sleep(35)

    router = Router(on_failure=ONCE)
    router.add_handler(
        "h",
        Placed,
        slow,
        subscriber=broker.subscriber(group="g"),
        concurrency=4,
        timeout=None,
        middlewares=[CircuitBreaker(failures=1, cool_down=10)],
    )
    async with router:
        await send(broker, 1)
        await asyncio.sleep(1)
        await send(broker, 2, 3, 4)
        await asyncio.sleep(40)
        assert handler.numbers == [1, 2]
        await asyncio.sleep(20)
        assert handler.numbers == [1, 2, 3, 4]
        assert router.is_ready
