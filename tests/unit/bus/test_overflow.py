"""What happens when a subscriber's buffer is full."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.bus import EventBus, Overflow
from eventflow.errors import BufferFullError, PublishDeadlockError
from tests.unit.bus.support import (
    Ping,
    Pong,
    Recorder,
    lines,
    now,
    outcome,
    publish_all,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventflow.bus import Subscription

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    async with EventBus(drain_timeout=0, cancel_grace=1) as bus:
        yield bus
    assert bus.ledger.adds_up


async def full(bus: EventBus, capacity: int = 1, **options: Any) -> tuple[Subscription, Recorder]:
    """A subscription whose handler waits, with event 0 in its hands and a full buffer."""
    recorder = Recorder(gate=asyncio.Event())
    sub = bus.subscribe(Ping, recorder, capacity=capacity, timeout=None, **options)
    await bus.publish(Ping(n=0))
    await turns()
    for n in range(1, capacity + 1):
        await bus.publish(Ping(n=n))
    assert sub.statistics().buffered == capacity
    return sub, recorder


async def opened(bus: EventBus, recorder: Recorder) -> list[int]:
    assert recorder.gate is not None
    recorder.gate.set()
    await bus.wait_idle()
    return recorder.seen


# ----------------------------------------------------------------------------- BLOCK


@pytest.mark.option("capacity")
@pytest.mark.option("overflow")
@pytest.mark.promise("8")
async def test_block_waits_for_room_and_loses_nothing(bus: EventBus) -> None:
    """The publisher waits while the buffer is at capacity, and goes on when a place is free."""
    sub, recorder = await full(bus, 3)
    publisher = asyncio.ensure_future(bus.publish(Ping(n=4)))
    await turns()
    assert not publisher.done()
    row = sub.statistics()
    assert (row.buffered, row.in_flight, row.waiting, row.offered) == (3, 1, 1, 4)
    assert row.adds_up
    assert await opened(bus, recorder) == [0, 1, 2, 3, 4]
    await publisher


@pytest.mark.option("block_timeout")
@pytest.mark.promise("8")
async def test_block_gives_up_after_block_timeout(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """A typed error with facts, counted as rejected, logged with its id; exactly on time."""
    sub, recorder = await full(bus, block_timeout=5, name="slow")
    event = Ping(n=9)
    with pytest.raises(BufferFullError) as caught:
        await bus.publish(event)
    assert now() == 5
    error = caught.value
    assert (error.topic, error.event_id, error.waited_s) == ("test.ping", event.id, 5)
    assert error.retriable
    assert "(capacity=1, overflow=Overflow.BLOCK)" in str(error)
    assert "slow" not in str(error)  # the publisher knows nothing of its subscribers
    assert sub.statistics().rejected == 1
    assert await opened(bus, recorder) == [0, 1]
    await asyncio.sleep(1)
    (line,) = lines(caplog, "events_rejected")
    assert event.id in line
    assert "subscription='slow'" in line


@pytest.mark.option("block_timeout")
async def test_block_timeout_zero_refuses_at_once(bus: EventBus) -> None:
    """0 s is a wait that ends in the same moment."""
    sub, _ = await full(bus, block_timeout=0)
    assert isinstance(await outcome(bus.publish(Ping())), BufferFullError)
    assert now() == 0
    assert sub.statistics().rejected == 1


async def test_publishers_wait_in_turn(bus: EventBus) -> None:
    """First come, first served; one is woken for each free place."""
    sub, recorder = await full(bus)
    done: list[int] = []

    async def publisher(n: int) -> None:
        await bus.publish(Ping(n=n))
        done.append(n)

    tasks = [asyncio.ensure_future(publisher(n)) for n in range(10, 15)]
    await turns()
    assert sub.statistics().waiting == 5
    assert await opened(bus, recorder) == [0, 1, 10, 11, 12, 13, 14]
    await asyncio.gather(*tasks)
    assert done == [10, 11, 12, 13, 14]


async def test_one_place_lets_one_publisher_in(bus: EventBus) -> None:
    """The others go on waiting."""
    step = asyncio.Semaphore(0)

    async def handler(event: Ping) -> None:
        await step.acquire()

    sub = bus.subscribe(Ping, handler, capacity=1, timeout=None)
    await bus.publish(Ping(n=0))
    await turns()
    await bus.publish(Ping(n=1))
    tasks = [asyncio.ensure_future(bus.publish(Ping(n=n))) for n in range(2, 6)]
    for left in (4, 3, 2, 1, 0):
        await turns()
        assert sub.statistics().waiting == left
        assert sub.statistics().buffered == 1
        step.release()
    await asyncio.gather(*tasks)


async def test_nobody_jumps_the_queue(bus: EventBus) -> None:
    """A publisher that comes in the very tick a place gets free stands behind who waits."""
    _, recorder = await full(bus)
    waiting = asyncio.ensure_future(bus.publish(Ping(n=10)))
    await turns()
    assert recorder.gate is not None
    recorder.gate.set()
    late: list[asyncio.Future[None]] = []
    for n in range(20, 26):
        late.append(asyncio.ensure_future(bus.publish(Ping(n=n))))
        await asyncio.sleep(0)
    await asyncio.gather(waiting, *late)
    await bus.wait_idle()
    assert recorder.seen == [0, 1, 10, *range(20, 26)]


@pytest.mark.parametrize("who", [0, 1, 2, 3])
async def test_a_cancelled_publisher_passes_its_turn_on(bus: EventBus, who: int) -> None:
    """Its event counts as rejected; nobody behind it waits longer than before."""
    sub, recorder = await full(bus)
    tasks = [asyncio.ensure_future(bus.publish(Ping(n=n))) for n in range(10, 14)]
    await turns()
    tasks[who].cancel()
    await turns()
    assert sub.statistics().waiting == 3
    assert sub.statistics().rejected == 1
    rest = [n for n in range(10, 14) if n != 10 + who]
    assert await opened(bus, recorder) == [0, 1, *rest]
    assert tasks[who].cancelled()


async def test_a_publisher_cancelled_in_the_tick_its_place_came(bus: EventBus) -> None:
    """The event is in the buffer then, and is handled: who has a copy keeps it."""
    sub, recorder = await full(bus)
    publisher = asyncio.ensure_future(bus.publish(Ping(n=10)))
    await turns()
    assert recorder.gate is not None
    recorder.gate.set()
    while sub.statistics().waiting:  # noqa: ASYNC110 - the very tick is the subject
        await asyncio.sleep(0)
    publisher.cancel()
    await bus.wait_idle()
    assert recorder.seen == [0, 1, 10]
    assert sub.statistics().rejected == 0


@pytest.mark.promise("5")
async def test_the_others_have_their_copy_before_anyone_waits(bus: EventBus) -> None:
    """Whatever the order of subscribing."""
    first, last = Recorder(), Recorder()
    bus.subscribe(Ping, first, name="first")
    await full(bus, name="slow")
    bus.subscribe(Ping, last, name="last")
    publisher = asyncio.ensure_future(bus.publish(Ping(n=7)))
    await turns()
    assert not publisher.done()
    assert first.seen[-1] == last.seen[-1] == 7
    publisher.cancel()


async def test_a_publisher_waits_for_all_full_ones_together(bus: EventBus) -> None:
    """Each at most its own block_timeout; an error of one does not take it from the others."""
    a, first = await full(bus, name="a", block_timeout=2)
    assert first.gate is not None
    b_recorder = Recorder(gate=asyncio.Event())
    b = bus.subscribe(Ping, b_recorder, name="b", capacity=1, block_timeout=10, timeout=None)
    first.gate.set()
    await turns()
    first.gate.clear()
    await bus.publish(Ping(n=1))
    await turns()
    await bus.publish(Ping(n=2))
    task = asyncio.ensure_future(outcome(bus.publish(Ping(n=3))))
    await asyncio.sleep(4)
    assert a.statistics().rejected == 1
    assert b.statistics().waiting == 1
    assert not task.done()
    assert b_recorder.gate is not None
    b_recorder.gate.set()
    assert isinstance(await task, BufferFullError)
    assert now() == 4
    await turns()
    assert b_recorder.seen == [1, 2, 3]


async def test_a_subscription_that_ends_lets_its_publishers_go(bus: EventBus) -> None:
    """Nobody waits for room in what is gone."""
    sub, _ = await full(bus)
    publisher = asyncio.ensure_future(bus.publish(Ping(n=3)))
    await turns()
    sub.cancel()
    assert await outcome(publisher) is None
    assert sub.statistics().waiting == 0


# ------------------------------------------------------------------------------ RAISE


@pytest.mark.option("overflow")
async def test_raise_is_judged_before_anyone_has_a_copy(bus: EventBus) -> None:
    """Nobody gets the event, whatever the order of subscribing."""
    before, after = Recorder(), Recorder()
    bus.subscribe(Ping, before, name="before")
    sub, _ = await full(bus, overflow=Overflow.RAISE)
    bus.subscribe(Ping, after, name="after")
    await turns()
    seen = list(before.seen)
    for call in (bus.publish(Ping(n=9)), asyncio.to_thread(bus.publish_from_thread, Ping(n=9))):
        error = await outcome(call)
        assert isinstance(error, BufferFullError)
        assert error.waited_s == 0
        assert "(capacity=1, overflow=Overflow.RAISE)" in str(error)
    with pytest.raises(BufferFullError):
        bus.publish_nowait(Ping(n=9))
    await turns()
    assert before.seen == seen
    assert after.seen == []
    assert sub.statistics().rejected == 3


async def test_two_that_raise_are_judged_together(bus: EventBus) -> None:
    """One has room, the other has not: neither has the event."""
    full_one, _ = await full(bus, overflow=Overflow.RAISE, name="full")
    roomy = bus.subscribe(Ping, Recorder(), overflow=Overflow.RAISE, name="roomy")
    assert isinstance(await outcome(bus.publish(Ping())), BufferFullError)
    assert roomy.statistics().offered == 0
    assert full_one.statistics().rejected == 1


async def test_raise_takes_again_when_there_is_room(bus: EventBus) -> None:
    """Room is looked for at each publish."""
    _, recorder = await full(bus, overflow=Overflow.RAISE)
    assert isinstance(await outcome(bus.publish(Ping(n=8))), BufferFullError)
    await opened(bus, recorder)
    await bus.publish(Ping(n=9))
    await bus.wait_idle()
    assert recorder.seen == [0, 1, 9]


# ----------------------------------------------------------------------- the droppers


@pytest.mark.option("overflow")
@pytest.mark.promise("2")
async def test_drop_newest(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """What comes when the buffer is full is dropped; each id is logged."""
    sub, recorder = await full(bus, 2, overflow=Overflow.DROP_NEWEST)
    events = [Ping(n=n) for n in range(3, 6)]
    for event in events:
        await bus.publish(event)
    assert sub.statistics().dropped == 3
    assert await opened(bus, recorder) == [0, 1, 2]
    await asyncio.sleep(1)
    text = "".join(lines(caplog, "events_dropped"))
    assert all(event.id in text for event in events)


@pytest.mark.option("overflow")
@pytest.mark.promise("2")
async def test_drop_oldest(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """The buffer keeps the newest; each id that was dropped is logged, in order."""
    sub, recorder = await full(bus, 2, overflow=Overflow.DROP_OLDEST)
    events = [Ping(n=n) for n in range(3, 253)]
    for event in events:
        await bus.publish(event)
    assert sub.statistics().dropped == 250
    assert await opened(bus, recorder) == [0, 251, 252]
    await asyncio.sleep(1)
    written = lines(caplog, "events_dropped")
    assert len(written) == 3  # up to 100 ids a line
    assert all(event.id in "".join(written) for event in events[:-2])


async def test_every_drop_is_logged_when_the_bus_stops_early(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was collected for a line is written at the stop, not lost with the timer."""
    async with EventBus(drain_timeout=0) as bus:
        await full(bus, overflow=Overflow.DROP_NEWEST)
        event = Ping()
        await bus.publish(event)
    assert event.id in "".join(lines(caplog, "events_dropped"))


@pytest.mark.parametrize(
    ("overflow", "first"), [(Overflow.DROP_NEWEST, 0), (Overflow.DROP_OLDEST, 0)]
)
async def test_nothing_is_dropped_for_a_subscriber_that_had_no_chance(
    bus: EventBus, overflow: Overflow, first: int
) -> None:
    """A burst without a single await in the publisher is a checkpoint before the first drop."""
    recorder = Recorder()
    sub = bus.subscribe(Ping, recorder, capacity=2, overflow=overflow)
    await publish_all(bus, range(50))
    await bus.wait_idle()
    assert recorder.seen == list(range(50))
    assert sub.statistics().dropped == 0


async def test_publish_is_a_checkpoint_every_256_calls(bus: EventBus) -> None:
    """Others get to run, and a cancellation is delivered, also where there is always room."""
    ticks: list[int] = []

    async def ticker() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0)

    task = asyncio.ensure_future(ticker())
    bus.subscribe(Ping, Recorder(), capacity=10_000)
    await publish_all(bus, range(256 * 4))
    assert 4 <= len(ticks) <= 6
    task.cancel()

    me = asyncio.current_task()
    assert me is not None
    me.cancel()
    published = 0
    try:
        while True:
            await bus.publish(Ping())
            published += 1
    except asyncio.CancelledError:
        me.uncancel()
    assert published <= 256


@pytest.mark.option("overflow")
async def test_keep_latest_without_a_key(bus: EventBus) -> None:
    """Every event replaces the one before; the replaced one counts as dropped."""
    recorder = Recorder(gate=asyncio.Event())
    sub = bus.subscribe(Ping, recorder, overflow=Overflow.KEEP_LATEST, timeout=None)
    await bus.publish(Ping(n=0))
    await turns()
    await publish_all(bus, range(1, 6))
    row = sub.statistics()
    assert (row.offered, row.dropped, row.buffered, row.in_flight) == (6, 4, 1, 1)
    assert await opened(bus, recorder) == [0, 5]


@pytest.mark.option("latest_key")
async def test_keep_latest_with_a_key(bus: EventBus) -> None:
    """A newer event takes the place of the one with its key, at that one's place in line."""
    recorder = Recorder(gate=asyncio.Event())
    sub = bus.subscribe(
        Ping,
        recorder,
        overflow=Overflow.KEEP_LATEST,
        latest_key=lambda event: event.key,
        capacity=3,
        timeout=None,
    )
    await bus.publish(Ping(n=0))
    await turns()
    for n, key in enumerate("abcab", start=1):
        await bus.publish(Ping(n=n, key=key))
    assert sub.statistics().dropped == 2
    await bus.publish(Ping(n=6, key="d"))  # a new key in a full buffer: the oldest goes
    assert sub.statistics().dropped == 3
    assert sub.statistics().buffered == 3
    assert await opened(bus, recorder) == [0, 5, 3, 6]


@pytest.mark.option("latest_key")
@pytest.mark.parametrize("bad", ["raises", "unhashable"])
async def test_a_latest_key_that_fails(
    bus: EventBus, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its event counts as failed for this subscriber, is logged, and harms nobody else."""
    other = Recorder()
    recorder = Recorder()

    def key(event: Ping) -> Any:
        if event.n == 1:
            if bad == "raises":
                raise RuntimeError("no key")
            return []
        return event.n

    sub = bus.subscribe(Ping, recorder, overflow=Overflow.KEEP_LATEST, latest_key=key)
    bus.subscribe(Ping, other, name="other")
    event = Ping(n=1)
    await bus.publish(Ping(n=0))
    await bus.publish(event)
    bus.publish_nowait(event)
    await bus.publish(Ping(n=2))
    await bus.wait_idle()
    assert recorder.seen == [0, 2]
    assert other.seen == [0, 1, 1, 2]
    assert (sub.statistics().failed, sub.statistics().handled) == (2, 2)
    assert event.id in "".join(lines(caplog, "key_failed"))


# -------------------------------------------------------------------- publish_nowait


async def test_publish_nowait_never_waits(bus: EventBus) -> None:
    """A full BLOCK subscriber rejects; the others have it all the same."""
    other = Recorder()
    sub, _ = await full(bus)
    bus.subscribe(Ping, other, name="other")
    with pytest.raises(BufferFullError):
        bus.publish_nowait(Ping(n=7))
    await turns()
    assert other.seen == [7]
    assert sub.statistics().rejected == 1
    assert now() == 0


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_publish_nowait_follows_the_policy(bus: EventBus, overflow: Overflow) -> None:
    """It drops where the policy says so, and raises nothing."""
    sub, recorder = await full(bus, overflow=overflow)
    bus.publish_nowait(Ping(n=7))
    assert sub.statistics().dropped == 1
    assert await opened(bus, recorder) == [0, 7 if overflow is Overflow.DROP_OLDEST else 1]


# -------------------------------------------------------------------------- deadlocks


@pytest.mark.promise("5")
async def test_a_handler_into_its_own_full_buffer(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """A typed error at once, after the others got their copy; counted and logged."""
    other = Recorder()
    errors: list[BaseException | None] = []

    async def again(event: Ping) -> None:
        if event.n == 0:
            await bus.publish(Ping(n=1))
            errors.append(await outcome(bus.publish(Ping(n=2))))

    sub = bus.subscribe(Ping, again, capacity=1)
    bus.subscribe(Ping, other)
    await bus.publish(Ping(n=0))
    await bus.wait_idle()
    (error,) = errors
    assert isinstance(error, PublishDeadlockError)
    assert error.topic == "test.ping"
    assert now() == 0
    assert other.seen == [0, 1, 2]
    assert sub.statistics().rejected == 1
    assert len(lines(caplog, "publish_deadlock")) == 1


async def test_a_cycle_of_two(bus: EventBus) -> None:
    """A → B → A: whoever would close the cycle gets the error, the other one goes on."""
    errors: list[BaseException | None] = []

    async def ping(event: Ping) -> None:
        for n in range(3):
            errors.append(await outcome(bus.publish(Pong(n=n))))  # noqa: PERF401

    async def pong(event: Pong) -> None:
        for n in range(3):
            errors.append(await outcome(bus.publish(Ping(n=n + 10))))  # noqa: PERF401

    a = bus.subscribe(Ping, ping, capacity=1)
    b = bus.subscribe(Pong, pong, capacity=1)

    async def stop_feeding() -> None:
        await turns(200)
        a.cancel()
        b.cancel()

    task = asyncio.ensure_future(stop_feeding())
    await bus.publish(Ping(n=0))
    await task
    await turns(50)
    assert any(isinstance(error, PublishDeadlockError) for error in errors)
    assert not any(isinstance(error, BufferFullError) for error in errors)
    assert now() == 0


async def test_a_second_worker_is_no_deadlock(bus: EventBus) -> None:
    """With concurrency 2 the other worker makes room; only both together are stuck."""
    gate = asyncio.Event()
    errors: list[BaseException | None] = []

    async def handler(event: Ping) -> None:
        if event.n == 0:
            errors.append(await outcome(bus.publish(Ping(n=3))))
        elif event.n == 1:
            await gate.wait()

    bus.subscribe(Ping, handler, capacity=1, concurrency=2, timeout=None, block_timeout=100)
    await bus.publish(Ping(n=1))
    await turns()
    go = asyncio.ensure_future(publish_all(bus, range(1)))
    await turns()
    await bus.publish(Ping(n=2))
    await turns()
    assert errors in ([], [None])
    gate.set()
    await bus.wait_idle()
    await go
    assert errors == [None]


async def test_both_workers_stuck_is_a_deadlock(bus: EventBus) -> None:
    """The second of two workers that waits for their own buffer closes the cycle."""
    errors: list[BaseException | None] = []
    both = asyncio.Barrier(2)

    async def handler(event: Ping) -> None:
        if event.n < 2:
            await both.wait()
            errors.append(await outcome(bus.publish(Ping(n=9))))

    bus.subscribe(Ping, handler, capacity=1, concurrency=2, block_timeout=100)
    await publish_all(bus, range(2))
    await turns()
    await bus.wait_idle()
    kinds = sorted(type(error).__name__ for error in errors)
    assert kinds in (["NoneType", "NoneType"], ["NoneType", "PublishDeadlockError"])
    assert now() == 0


async def test_a_buffer_that_gave_room_is_no_part_of_a_cycle_any_more(bus: EventBus) -> None:
    """A handler that waits for A and B, got its place in A, and waits for B alone."""
    release_b = asyncio.Event()
    errors: list[BaseException | None] = []
    a_may_go = asyncio.Event()

    async def x(event: Pong) -> None:
        if event.n == 0:
            await bus.publish(Ping(n=1))  # waits for a and b

    async def a(event: Ping) -> None:
        if event.n == -2:
            await a_may_go.wait()
        if event.n == -1:
            errors.append(await outcome(bus.publish(Pong(n=7))))

    async def b(event: Ping) -> None:
        await release_b.wait()

    bus.subscribe(Pong, x, capacity=1, block_timeout=100, timeout=None)
    bus.subscribe(Ping, a, capacity=1, block_timeout=100, timeout=None)
    b_sub = bus.subscribe(Ping, b, capacity=1, block_timeout=100, timeout=None)
    await bus.publish(Ping(n=-2))
    await turns()
    await bus.publish(Ping(n=-1))  # both full now
    await bus.publish(Pong(n=0))
    await turns()
    assert b_sub.statistics().waiting == 1
    await bus.publish(Pong(n=1))  # x's buffer is full
    a_may_go.set()
    await turns()
    release_b.set()
    await bus.wait_idle()
    assert errors == [None]
    assert now() == 0


@pytest.mark.option("order_key")
async def test_a_cycle_through_lanes(bus: EventBus) -> None:
    """An idle worker is no help where all that waits belongs to the publisher's own key."""
    errors: list[BaseException | None] = []

    async def handler(event: Ping) -> None:
        if event.n == 0:
            await bus.publish(Ping(n=1, key="a"))
            await turns()
            errors.append(await outcome(bus.publish(Ping(n=2, key="a"))))

    bus.subscribe(
        Ping, handler, capacity=1, concurrency=2, order_key=lambda event: event.key, timeout=None
    )
    await bus.publish(Ping(n=0, key="a"))
    await bus.wait_idle()
    assert [type(error) for error in errors] == [PublishDeadlockError]
    assert now() == 0


async def test_a_task_that_outlives_its_handler_may_wait(bus: EventBus) -> None:
    """For room in the handler's own buffer: the handler goes on, so that room will come."""
    recorder = Recorder(gate=asyncio.Event())
    full = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await full.wait()
        await bus.publish(Ping(n=3))

    async def handler(event: Ping) -> None:
        if event.n == 0:
            tasks.append(asyncio.create_task(later()))
        else:
            await recorder(event)

    sub = bus.subscribe(Ping, handler, capacity=1, timeout=None)
    for n in range(3):
        await bus.publish(Ping(n=n))
        await turns()
    full.set()
    await turns()
    assert sub.statistics().waiting == 1
    assert recorder.gate is not None
    recorder.gate.set()
    await bus.wait_idle()
    assert await outcome(tasks[0]) is None
    assert recorder.seen == [1, 2, 3]


async def test_a_thread_into_its_own_full_buffer(bus: EventBus) -> None:
    """The same through publish_from_thread of a sync handler."""
    errors: list[str] = []

    def again(event: Ping) -> None:
        if event.n == 0:
            bus.publish_from_thread(Ping(n=1))
            try:
                bus.publish_from_thread(Ping(n=2))
            except PublishDeadlockError as exc:
                errors.append(type(exc).__name__)

    bus.subscribe(Ping, again, capacity=1)
    await bus.publish(Ping(n=0))
    await bus.wait_idle()
    assert errors == ["PublishDeadlockError"]
