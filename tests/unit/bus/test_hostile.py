"""What the code of users can do to a bus, and what the ledger says then."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import CallOnFailure, EventBus, FailurePolicy, Overflow, Retry, current
from eventflow.errors import InvalidOptionError, ResourceError
from eventflow.testing import run_virtual
from tests.unit.bus.support import Ping, Recorder, turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from eventflow.bus import BusStatistics

pytestmark = pytest.mark.virtual_clock

held: contextvars.ContextVar[Any] = contextvars.ContextVar("held")


class NoReprError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("not this one")


@pytest.mark.promise("2")
@pytest.mark.promise("7")
@pytest.mark.parametrize("how", ["drain", "at once", "cancel"])
async def test_publishers_waiting_for_a_subscription_that_closes(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They return as if nothing were; what became of each event is counted, and logged by id."""
    gate = asyncio.Event()
    seen: list[int] = []

    async def handler(event: Ping) -> None:
        await gate.wait()
        seen.append(event.n)

    async with EventBus() as bus:
        subscription = bus.subscribe(Ping, handler, name="closing", capacity=1)
        events = [Ping(n=n) for n in range(5)]
        publishing = [asyncio.ensure_future(bus.publish(event)) for event in events]
        await turns(3)
        assert subscription.statistics().waiting == 3
        if how == "cancel":
            subscription.cancel()
        else:
            asyncio.get_running_loop().call_later(1, gate.set)
            await subscription.aclose(drain=how == "drain")
        await asyncio.gather(*publishing)

    row = bus.ledger["closing"]
    assert row.offered == 5
    assert row.adds_up
    assert row.handled == len(seen) == (5 if how == "drain" else 0)
    assert row.released == (0 if how == "drain" else 4)
    if how != "drain":
        assert all(event.id in caplog.text for event in events)


@pytest.mark.promise("7")
def test_an_abandoned_handler_that_undoes_its_cancellations() -> None:
    """It is counted once; what it does after the stop changes nothing."""

    async def main() -> None:
        over = asyncio.Event()

        async def handler(event: Ping) -> None:
            task = asyncio.current_task()
            assert task is not None
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    task.uncancel()

        async with EventBus(drain_timeout=1, cancel_grace=1) as bus:
            bus.subscribe(Ping, handler, timeout=None)
            await bus.publish(Ping())
        ledger = bus.ledger
        over.set()
        await turns(5)
        assert bus.ledger == ledger
        assert (ledger.total.abandoned, ledger.total.handled) == (1, 0)
        assert ledger.adds_up

    run_virtual(main)


async def test_a_failure_without_a_repr(caplog: pytest.LogCaptureFixture) -> None:
    """The event and the callback's own failure are counted and logged all the same."""

    async def handler(event: Ping) -> None:
        raise NoReprError

    async def tell(event: object, error: BaseException, attempts: int) -> None:
        raise LookupError("nobody there")

    async with EventBus() as bus:
        bus.subscribe(Ping, handler, on_failure=FailurePolicy(then=CallOnFailure(tell)))
        await bus.publish(Ping())

    row = bus.ledger.total
    assert (row.failed, row.restarts) == (1, 0)
    assert "eventflow.failure_callback_failed" in caplog.text


async def test_a_resource_that_fails_without_a_repr() -> None:
    """Entering fails; it does not wait for ever."""

    @contextlib.asynccontextmanager
    async def broken() -> AsyncGenerator[int]:
        raise NoReprError
        yield 1

    async def handler(event: Ping, value: int) -> None: ...

    bus = EventBus()
    bus.subscribe(Ping, handler, resources=broken)
    with pytest.raises(ResourceError, match="NoReprError"):
        await bus.__aenter__()


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, BaseException])
@pytest.mark.parametrize("option", ["order_key", "latest_key"])
async def test_a_key_function_that_raises_what_is_no_exception(
    option: str, error: type[BaseException]
) -> None:
    """The event counts as failed, nobody else's is touched, and no worker ends."""

    def key(event: Ping) -> int:
        if event.n == 1:
            raise error
        return event.n

    async def handler(event: Ping) -> None: ...

    options: dict[str, Any] = (
        {"order_key": key, "concurrency": 2}
        if option == "order_key"
        else {"latest_key": key, "overflow": Overflow.KEEP_LATEST}
    )
    async with EventBus() as bus:
        bus.subscribe(Ping, handler, **options)
        for n in range(4):
            await bus.publish(Ping(n=n))

    row = bus.ledger.total
    assert (row.offered, row.handled, row.failed, row.restarts) == (4, 3, 1, 0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("option", ["order_key", "latest_key"])
def test_a_key_function_that_ends_the_process(option: str, error: type[BaseException]) -> None:
    """It gets its way, and the event counts as failed."""

    def key(event: Ping) -> int:
        raise error

    async def handler(event: Ping) -> None: ...

    options: dict[str, Any] = (
        {"order_key": key, "concurrency": 2}
        if option == "order_key"
        else {"latest_key": key, "overflow": Overflow.KEEP_LATEST}
    )
    bus = EventBus()
    bus.subscribe(Ping, handler, **options)

    async def main() -> None:
        async with bus:
            await bus.publish(Ping())
            await bus.wait_idle()

    with pytest.raises(error):
        run_virtual(main)
    row = bus.ledger.total
    assert (row.offered, row.handled, row.failed) == (1, 0, 1)


@pytest.mark.parametrize("nowait", [False, True])
@pytest.mark.parametrize("overflow", [Overflow.BLOCK, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_a_key_function_that_ends_another_subscription(
    nowait: bool, overflow: Overflow
) -> None:
    """Which had no room: it is offered nothing more, drops nothing, and nobody waits for it."""

    def key(event: Ping) -> int:
        if event.n == 2:
            full.cancel()
        return 0

    async with EventBus() as bus:
        latest = bus.subscribe(
            Ping, Recorder(), name="latest", latest_key=key, overflow=Overflow.KEEP_LATEST
        )
        full = bus.subscribe(
            Ping, Recorder(gate=asyncio.Event()), name="full", capacity=1, overflow=overflow
        )
        for n in range(2):
            await bus.publish(Ping(n=n))
            await turns()
        assert full.statistics().buffered == 1
        if nowait:
            bus.publish_nowait(Ping(n=2))
        else:
            await bus.publish(Ping(n=2))
        await latest.aclose()
    rows = bus.ledger
    assert (rows["latest"].handled, rows["full"].offered) == (3, 2)
    assert (rows["full"].rejected, rows["full"].dropped) == (0, 0)


@pytest.mark.promise("7")
async def test_counts_seen_from_a_key_function() -> None:
    """The event whose key is asked for is still in the buffer."""
    seen: list[BusStatistics] = []

    def key(event: Ping) -> int:
        seen.append(bus.statistics())
        return event.n

    async def handler(event: Ping) -> None: ...

    async with EventBus() as bus:
        bus.subscribe(Ping, handler, order_key=key, concurrency=2)
        for n in range(4):
            await bus.publish(Ping(n=n))

    assert len(seen) == 4
    assert all(counts.adds_up for counts in seen)


def test_a_resource_while_the_loop_is_shut_down() -> None:
    """It closes after its handlers, whose clean-up is cancelled once and not twice."""
    order: list[str] = []

    @contextlib.asynccontextmanager
    async def resource() -> AsyncGenerator[int]:
        yield 1
        order.append("not reached")

    @contextlib.asynccontextmanager
    async def watched() -> AsyncGenerator[int]:
        try:
            async with resource() as value:
                yield value
        finally:
            order.append("closed")

    async def handler(event: Ping, value: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            order.append("cleaned up")

    bus = EventBus(drain_timeout=1, cancel_grace=2)

    async def main() -> None:
        await bus.__aenter__()
        bus.subscribe(Ping, handler, resources=watched)
        await bus.publish(Ping())
        await turns(5)

    asyncio.run(main())

    assert order == ["cleaned up", "closed"]
    assert bus.ledger.total.cancelled == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: EventBus().subscribe(Ping, print, timeout=10**400),
        lambda: EventBus().subscribe(Ping, print, block_timeout=10**400),
        lambda: Retry(multiplier=10**400),
        lambda: Retry(initial=True),
        lambda: Retry(max_delay=float("nan")),
    ],
)
def test_numbers_that_are_none(make: Callable[[], object]) -> None:
    """Refused where they are given, and not where they would overflow."""
    with pytest.raises(InvalidOptionError):
        make()


@pytest.mark.fault("BUS-13")
async def test_a_variable_bound_to_an_equal_value() -> None:
    """Equal is not the same: what a later event puts into it would be seen by the next."""
    held.set({})
    seen: list[dict[str, int]] = []

    async def handler(event: Ping) -> None:
        seen.append(held.get())
        own: dict[str, int] = {}
        held.set(own)
        asyncio.get_running_loop().call_soon(own.update, {"left by": event.n})

    async with EventBus() as bus:
        bus.subscribe(Ping, handler)
        for n in range(3):
            await bus.publish(Ping(n=n))
            await bus.wait_idle()
            await turns(2)

    assert seen == [{}, {}, {}]


async def test_a_copy_left_behind_by_an_attempt_that_is_retried() -> None:
    """The next event is seen as itself, although the copy has the cell of the attempt before."""
    kept: list[contextvars.Context] = []
    seen: list[tuple[int, int]] = []

    async def handler(event: Ping) -> None:
        now = current().event
        assert isinstance(now, Ping)
        seen.append((event.n, now.n))
        if current().attempt == 1:
            kept.append(contextvars.copy_context())
            raise LookupError

    async with EventBus() as bus:
        policy = FailurePolicy(retry=Retry(attempts=2, initial=0))
        bus.subscribe(Ping, handler, on_failure=policy)
        for n in range(10):
            await bus.publish(Ping(n=n))

    assert seen == [(n, n) for n in range(10) for _ in range(2)]
