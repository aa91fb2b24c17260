"""What happens when a handler fails: policies on the bus."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventflow.bus import EventBus
from eventflow.context import current
from eventflow.errors import EventFlowError, HandlerTimeoutError, Permanent, RetryAfter
from eventflow.failure import CallOnFailure, FailurePolicy, Retry
from eventflow.testing import run_virtual
from tests.unit.bus.support import Ping, Pong, Recorder, lines, now, publish_all, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from eventflow import Event

pytestmark = [
    pytest.mark.virtual_clock,
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.option("on_failure"),
]


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    async with EventBus() as bus:
        yield bus
    assert bus.ledger.adds_up


class Failing:
    """Raises the same error in every attempt, and remembers when that was."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self.times: list[float] = []
        self.attempts: list[int] = []
        self._make = make

    async def __call__(self, event: Event) -> None:
        self.times.append(now())
        self.attempts.append(current().attempt)
        raise self._make()


def steady(attempts: int = 4, **options: object) -> FailurePolicy:
    return FailurePolicy(
        retry=Retry(attempts=attempts, initial=1, multiplier=2, jitter=0, **options)  # type: ignore[arg-type]
    )


async def test_by_default_a_failure_is_logged_and_counted(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """One attempt; the line has the id, the traceback is there; the worker goes on."""
    failing = Failing(lambda: ValueError("no"))
    sub = bus.subscribe(Ping, failing)
    events = [Ping(n=n) for n in range(3)]
    for event in events:
        await bus.publish(event)
    await bus.wait_idle()
    assert len(failing.times) == 3
    row = sub.statistics()
    assert (row.failed, row.retried, row.restarts) == (3, 0, 0)
    written = lines(caplog, "handler_failed")
    assert [event.id in line for event, line in zip(events, written, strict=True)] == [True] * 3
    assert "ValueError: no" in caplog.text


async def test_retries_follow_the_policy(bus: EventBus) -> None:
    """Exactly that many attempts, each numbered, after 1, 2 and 4 s."""
    failing = Failing(lambda: ValueError("no"))
    sub = bus.subscribe(Ping, failing, on_failure=steady())
    await bus.publish(Ping())
    await asyncio.sleep(0.5)
    row = sub.statistics()
    assert (row.in_flight, row.retried) == (1, 1)  # the wait before a retry is in flight
    assert row.adds_up
    await bus.wait_idle()
    assert failing.times == [0, 1, 3, 7]
    assert failing.attempts == [1, 2, 3, 4]
    row = sub.statistics()
    assert (row.failed, row.retried, row.offered) == (1, 3, 1)


async def test_a_retry_that_succeeds_is_handled(bus: EventBus) -> None:
    """Counted once, as handled; FIFO holds over it."""
    seen: list[int] = []

    async def second_time(event: Ping) -> None:
        if current().attempt == 1 and event.n == 0:
            raise ValueError
        seen.append(event.n)

    sub = bus.subscribe(Ping, second_time, on_failure=steady())
    await publish_all(bus, range(3))
    await bus.wait_idle()
    assert seen == [0, 1, 2]
    assert (sub.statistics().handled, sub.statistics().failed) == (3, 0)


@pytest.mark.parametrize("on", [Exception, EventFlowError, Permanent])
async def test_permanent_is_not_retried(bus: EventBus, on: type[Exception]) -> None:
    """One attempt, whatever the policy."""
    failing = Failing(lambda: Permanent("never"))
    bus.subscribe(Ping, failing, on_failure=steady(on=(on,)))
    await bus.publish(Ping())
    await bus.wait_idle()
    assert failing.times == [0]


async def test_retry_after_names_its_own_wait(bus: EventBus) -> None:
    """In place of the policy's delay; it counts against the attempts."""
    failing = Failing(lambda: RetryAfter(100))
    bus.subscribe(Ping, failing, on_failure=steady(3))
    await bus.publish(Ping())
    await bus.wait_idle()
    assert failing.times == [0, 100, 200]


async def test_on_and_never(bus: EventBus) -> None:
    """`on` says what is retried, `never` what is not even then."""
    policy = steady(on=(LookupError,), never=(KeyError,))
    for error, attempts in ((IndexError, 4), (KeyError, 1), (ValueError, 1)):
        failing = Failing(error)
        sub = bus.subscribe(Ping, failing, on_failure=policy)
        await bus.publish(Ping())
        await bus.wait_idle()
        assert len(failing.times) == attempts
        await sub.aclose()


async def test_a_timeout_is_retried_like_an_error(bus: EventBus) -> None:
    """HandlerTimeoutError is a TimeoutError, and an Exception."""
    starts: list[float] = []

    async def hangs(event: Ping) -> None:
        starts.append(now())
        await asyncio.sleep(1000)

    sub = bus.subscribe(Ping, hangs, timeout=10, on_failure=steady(3, on=(TimeoutError,)))
    await bus.publish(Ping())
    await bus.wait_idle()
    assert starts == [0, 11, 23]
    assert (sub.statistics().failed, sub.statistics().timed_out) == (1, 1)


async def test_jitter_stays_in_its_bounds(bus: EventBus) -> None:
    """± 20 % of the wait, and never above max_delay."""
    policy = FailurePolicy(
        retry=Retry(attempts=200, initial=10, multiplier=1, jitter=0.2, max_delay=11)
    )
    failing = Failing(ValueError)
    bus.subscribe(Ping, failing, on_failure=policy)
    await bus.publish(Ping())
    await bus.wait_idle()
    waits = [b - a for a, b in zip(failing.times, failing.times[1:], strict=False)]
    assert min(waits) >= 8 - 1e-6
    assert max(waits) <= 11 + 1e-6
    assert len({round(wait, 3) for wait in waits}) > 20


# ------------------------------------------------------------------------ the callback


async def test_call_on_failure(bus: EventBus) -> None:
    """Called once, with the event, the last error and the number of attempts, in its context."""
    calls: list[tuple[Event, str, int, str]] = []

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        calls.append((event, repr(error), attempts, current().event_id))
        await bus.publish(Pong(n=1))

    pongs = Recorder()
    sub = bus.subscribe(
        Ping,
        Failing(lambda: ValueError("no")),
        on_failure=FailurePolicy(
            retry=Retry(attempts=2, initial=1, jitter=0), then=CallOnFailure(tell)
        ),
    )
    bus.subscribe(Pong, pongs)  # type: ignore[arg-type]
    event = Ping()
    await bus.publish(event)
    await bus.wait_idle()
    assert calls == [(event, "ValueError('no')", 2, event.id)]
    assert sub.statistics().failed == 1
    assert pongs.seen == [1]


async def test_a_failure_is_logged_once_and_then_the_callback_is_called(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Attempts before the last are counted, not logged; nor is what ends well after them."""
    logged: list[int] = []

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        logged.append(len(lines(caplog, "handler_failed")))

    async def handle(event: Ping) -> None:
        if event.n or current().attempt == 1:
            raise ValueError(event.n)

    sub = bus.subscribe(
        Ping,
        handle,
        on_failure=FailurePolicy(
            retry=Retry(attempts=3, initial=1, jitter=0), then=CallOnFailure(tell)
        ),
    )
    await bus.publish(Ping(n=0))
    await bus.wait_idle()
    assert sub.statistics().retried == 1
    assert caplog.text == ""
    await bus.publish(Ping(n=1))
    await bus.wait_idle()
    assert sub.statistics().retried == 3
    assert logged == [1]
    (line,) = lines(caplog, "handler_failed")
    assert "attempts=3" in line


async def test_call_on_failure_that_fails_itself(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Both errors are logged with the event's id; it counts as failed, once."""

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        raise LookupError("nobody there")

    sub = bus.subscribe(
        Ping,
        Failing(lambda: ValueError("no")),
        on_failure=FailurePolicy(then=CallOnFailure(tell)),
    )
    event = Ping()
    await bus.publish(event)
    await bus.publish(Ping(n=1))
    await bus.wait_idle()
    assert sub.statistics().failed == 2
    first, _ = lines(caplog, "failure_callback_failed")
    assert event.id in first
    assert "reason=\"ValueError('no')\"" in first
    assert "LookupError: nobody there" in caplog.text
    assert event.id in lines(caplog, "handler_failed")[0]


async def test_call_on_failure_that_hangs(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """It has the handler's timeout; then the event is failed, and the next one begins."""

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        await asyncio.sleep(1000)

    failing = Failing(ValueError)
    sub = bus.subscribe(
        Ping, failing, timeout=3, on_failure=FailurePolicy(then=CallOnFailure(tell))
    )
    await publish_all(bus, range(2))
    await bus.wait_idle()
    assert failing.times == [0, 3]
    assert (sub.statistics().failed, sub.statistics().timed_out) == (2, 0)
    assert len(lines(caplog, "failure_callback_failed")) == 2


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_call_on_failure_that_ends_the_process(kind: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit of a callback go through, as those of a handler."""
    bus = EventBus()

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        raise kind

    async def main() -> None:
        bus.subscribe(Ping, Failing(ValueError), on_failure=FailurePolicy(then=CallOnFailure(tell)))
        async with bus:
            await bus.publish(Ping())
            await asyncio.sleep(5)

    with pytest.raises(kind):
        run_virtual(main)
    assert bus.ledger["Failing"].failed == 1
    assert bus.ledger.adds_up


async def test_a_stop_during_call_on_failure() -> None:
    """The callback is cancelled like a handler; the event counts as failed, which it was."""
    bus = EventBus(drain_timeout=1)

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        await asyncio.sleep(1000)

    async with bus:
        sub = bus.subscribe(
            Ping,
            Failing(ValueError),
            timeout=None,
            on_failure=FailurePolicy(then=CallOnFailure(tell)),
        )
        await publish_all(bus, range(2))
        await turns()
    row = sub.statistics()
    assert (row.failed, row.released, row.cancelled) == (1, 1, 0)
    assert now() == 1


async def test_a_stop_while_waiting_to_retry() -> None:
    """The event counts as cancelled: a stop cut it."""
    bus = EventBus(drain_timeout=1)
    async with bus:
        sub = bus.subscribe(Ping, Failing(lambda: RetryAfter(50)), on_failure=steady())
        await bus.publish(Ping())
        await turns()
    row = sub.statistics()
    assert (row.cancelled, row.failed, row.retried) == (1, 0, 1)
    assert now() == 1


async def test_the_timeout_error_carries_its_facts(bus: EventBus) -> None:
    """Which subscription, how long; what the handler raised is its cause."""
    errors: list[BaseException] = []

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        errors.append(error)

    async def hangs(event: Ping) -> None:
        await asyncio.sleep(1000)

    bus.subscribe(
        Ping,
        hangs,
        name="slow",
        timeout=2.5,
        on_failure=FailurePolicy(then=CallOnFailure(tell)),
    )
    await bus.publish(Ping())
    await bus.wait_idle()
    (error,) = errors
    assert isinstance(error, HandlerTimeoutError)
    assert (error.subscription, error.timeout_s) == ("slow", 2.5)
    assert isinstance(error.__cause__, asyncio.CancelledError)
