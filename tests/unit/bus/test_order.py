"""Order and concurrency: FIFO, order per key, and what parallel handlers may do."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.bus import EventBus, Overflow
from eventflow.lifecycle.lanes import Lanes
from tests.unit.bus.support import Ping, Recorder, lines, now, publish_all, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    async with EventBus() as bus:
        yield bus
    assert bus.ledger.adds_up


class Keyed:
    """A handler that checks that no two events of one key overlap."""

    def __init__(self, seed: int | None = None) -> None:
        self.seen: dict[str, list[int]] = {}
        self.running: set[str] = set()
        self.most = 0
        self._random = None if seed is None else random.Random(seed)

    async def __call__(self, event: Ping) -> None:
        assert event.key not in self.running
        self.running.add(event.key)
        self.most = max(self.most, len(self.running))
        try:
            delay = 1.0 if self._random is None else self._random.choice([0.0, 0.1, 1.0, 2.0])
            await asyncio.sleep(delay)
            self.seen.setdefault(event.key, []).append(event.n)
        finally:
            self.running.discard(event.key)


async def test_fifo_with_one_worker(bus: EventBus) -> None:
    """Events are handled in the order of their publishing, whatever each takes."""
    delays = random.Random(7)
    recorder = Recorder()

    async def handler(event: Ping) -> None:
        await asyncio.sleep(delays.choice([0, 0.1, 5]))
        await recorder(event)

    bus.subscribe(Ping, handler)
    await publish_all(bus, range(100))
    await bus.wait_idle()
    assert recorder.seen == list(range(100))


@pytest.mark.option("concurrency")
async def test_concurrency_is_a_bound_and_is_used(bus: EventBus) -> None:
    """Up to that many at once, and started in order."""
    running: list[int] = []
    most: list[int] = []
    started: list[int] = []

    async def handler(event: Ping) -> None:
        started.append(event.n)
        running.append(event.n)
        most.append(len(running))
        await asyncio.sleep(1)
        running.remove(event.n)

    bus.subscribe(Ping, handler, concurrency=4)
    await publish_all(bus, range(20))
    await bus.wait_idle()
    assert max(most) == 4
    assert started == list(range(20))
    assert now() == 5


@pytest.mark.option("order_key")
async def test_in_order_per_key_and_parallel_across(bus: EventBus) -> None:
    """Four keys with five events each take five rounds, not twenty."""
    keyed = Keyed()
    bus.subscribe(Ping, keyed, concurrency=4, order_key=lambda event: event.key)
    for n in range(20):
        await bus.publish(Ping(n=n, key="abcd"[n % 4]))
    await bus.wait_idle()
    assert keyed.most == 4
    assert now() == 5
    assert keyed.seen == {key: list(range(i, 20, 4)) for i, key in enumerate("abcd")}


@pytest.mark.option("order_key")
@pytest.mark.parametrize("seed", range(10))
async def test_order_per_key_at_random(bus: EventBus, seed: int) -> None:
    """Random keys, times and capacity: no inversion, no overlap, no loss."""
    rng = random.Random(seed)
    keyed = Keyed(seed)
    sub = bus.subscribe(
        Ping,
        keyed,
        concurrency=rng.randint(2, 6),
        capacity=rng.randint(1, 8),
        order_key=lambda event: event.key,
        block_timeout=1000,
    )
    keys = [rng.choice("abcdefg") for _ in range(300)]
    for n, key in enumerate(keys):
        await bus.publish(Ping(n=n, key=key))
        row = sub.statistics()
        assert row.buffered <= sub.binding.options.capacity
        assert row.adds_up
    await bus.wait_idle()
    for key in set(keys):
        assert keyed.seen[key] == [n for n, k in enumerate(keys) if k == key]


@pytest.mark.option("order_key")
async def test_an_order_key_beside_one_worker_has_no_effect(bus: EventBus) -> None:
    """It is taken, since the concurrency may come from a configuration, and never called."""
    keyed = Keyed()
    called: list[Ping] = []
    bus.subscribe(Ping, keyed, concurrency=1, order_key=called.append)
    for n, key in enumerate("aba"):
        await bus.publish(Ping(n=n, key=key))
    await bus.wait_idle()
    assert keyed.seen == {"a": [0, 2], "b": [1]}
    assert called == []


@pytest.mark.option("order_key")
async def test_one_busy_key_does_not_hold_up_the_others(bus: EventBus) -> None:
    """Events behind it in the buffer overtake what waits for the busy key."""
    gate = asyncio.Event()
    seen: list[str] = []

    async def handler(event: Ping) -> None:
        if event.key == "slow":
            await gate.wait()
        seen.append(f"{event.key}{event.n}")

    bus.subscribe(Ping, handler, concurrency=2, order_key=lambda event: event.key, timeout=None)
    for n, key in enumerate(["slow", "slow", "slow", "a", "b", "a"]):
        await bus.publish(Ping(n=n, key=key))
    await turns()
    assert seen == ["a3", "b4", "a5"]
    gate.set()
    await bus.wait_idle()
    assert seen[3:] == ["slow0", "slow1", "slow2"]


@pytest.mark.option("order_key")
async def test_a_failing_and_a_retried_event_hold_their_lane(bus: EventBus) -> None:
    """The next of the key starts when the one before has ended for good."""
    from eventflow.failure import FailurePolicy, Retry

    log: list[tuple[int, float]] = []

    async def handler(event: Ping) -> None:
        log.append((event.n, now()))
        if event.n == 0:
            raise ValueError

    bus.subscribe(
        Ping,
        handler,
        concurrency=3,
        order_key=lambda event: event.key,
        on_failure=FailurePolicy(retry=Retry(attempts=3, initial=1, multiplier=1, jitter=0)),
    )
    await publish_all(bus, range(2))
    await bus.publish(Ping(n=7, key="other"))
    await bus.wait_idle()
    assert log == [(0, 0), (7, 0), (0, 1), (0, 2), (1, 2)]


@pytest.mark.option("order_key")
@pytest.mark.parametrize("bad", ["raises", "unhashable"])
@pytest.mark.parametrize("waiting", [False, True])
async def test_an_order_key_that_fails(
    bus: EventBus, bad: str, waiting: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its event counts as failed and is logged; what comes behind is handled as ever."""
    recorder = Recorder()

    def key(event: Ping) -> Any:
        if event.n % 2:
            if bad == "raises":
                raise RuntimeError("no key")
            return {}
        return event.n

    sub = bus.subscribe(
        Ping, recorder, concurrency=2, order_key=key, capacity=1 if waiting else 100
    )
    for n in range(8):
        await bus.publish(Ping(n=n))
    await bus.wait_idle()
    assert sorted(recorder.seen) == [0, 2, 4, 6]
    assert now() == 0
    row = sub.statistics()
    assert (row.failed, row.handled) == (4, 4)
    assert len(lines(caplog, "key_failed")) == 4


@pytest.mark.option("order_key")
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.KEEP_LATEST])
async def test_an_order_key_that_publishes_what_replaces_its_event(
    bus: EventBus, overflow: Overflow, raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The event counts as dropped, and as nothing else; the newer one is handled."""
    recorder = Recorder()

    def key(event: Ping) -> int:
        if event.n == 0:
            bus.publish_nowait(Ping(n=1))
            if raises:
                raise RuntimeError("no key")
        return event.n

    sub = bus.subscribe(Ping, recorder, concurrency=2, capacity=1, overflow=overflow, order_key=key)
    await bus.publish(Ping(n=0))
    await bus.wait_idle()
    row = sub.statistics()
    assert recorder.seen == [1]
    assert (row.offered, row.handled, row.dropped, row.failed) == (2, 1, 1, 0)
    assert len(lines(caplog, "key_failed")) == raises


@pytest.mark.option("order_key")
async def test_drop_oldest_with_lanes(bus: EventBus) -> None:
    """Parked events count as buffered, and the oldest of all is dropped first."""
    gate = asyncio.Event()
    seen: list[tuple[str, int]] = []

    async def handler(event: Ping) -> None:
        if event.n == 0:
            await gate.wait()
        seen.append((event.key, event.n))

    sub = bus.subscribe(
        Ping,
        handler,
        concurrency=2,
        capacity=3,
        overflow=Overflow.DROP_OLDEST,
        order_key=lambda event: event.key,
        timeout=None,
    )
    for n in range(7):
        await bus.publish(Ping(n=n, key="a"))
        await turns()
        assert sub.statistics().buffered <= 3
        assert sub.statistics().adds_up
    assert sub.statistics().dropped == 3
    gate.set()
    await bus.wait_idle()
    assert seen == [("a", 0), ("a", 4), ("a", 5), ("a", 6)]


@pytest.mark.option("latest_key")
async def test_keep_latest_with_lanes(bus: EventBus) -> None:
    """A parked event is replaced where it stands; per key the newest is handled, in order."""
    gate = asyncio.Event()
    seen: list[int] = []

    async def handler(event: Ping) -> None:
        if event.n == 0:
            await gate.wait()
        seen.append(event.n)

    sub = bus.subscribe(
        Ping,
        handler,
        concurrency=2,
        overflow=Overflow.KEEP_LATEST,
        latest_key=lambda event: event.key,
        order_key=lambda event: event.key,
        timeout=None,
    )
    for n in range(6):
        await bus.publish(Ping(n=n, key="a"))
        await turns()
        assert sub.statistics().adds_up
    await bus.publish(Ping(n=6, key="b"))
    await turns()
    assert seen == [6]
    gate.set()
    await bus.wait_idle()
    assert seen == [6, 0, 5]
    assert sub.statistics().dropped == 4


async def test_the_latest_has_a_key_of_its_own(bus: EventBus) -> None:
    """Where it takes the place of an event with another order key, it waits for its own key."""
    seen: list[int] = []
    running: set[str] = set()
    gates = {key: asyncio.Event() for key in "abc"}

    async def handler(event: Ping) -> None:
        assert event.key not in running
        running.add(event.key)
        seen.append(event.n)
        await gates[event.key].wait()
        running.remove(event.key)

    sub = bus.subscribe(
        Ping,
        handler,
        concurrency=3,
        overflow=Overflow.KEEP_LATEST,
        order_key=lambda event: event.key,
        timeout=None,
    )
    for n, key in enumerate("aabb"):
        await bus.publish(Ping(n=n, key=key))
        await turns()
        assert sub.statistics().adds_up
    assert seen == [0, 2]  # the 1 was parked behind the 0, and the 2 took its place
    assert sub.statistics().buffered == 1
    await bus.publish(Ping(n=4, key="a"))
    await bus.publish(Ping(n=5, key="c"))
    await turns()
    assert seen == [0, 2, 5]
    for n, key in enumerate("ab", 6):
        await bus.publish(Ping(n=n, key=key))
        await turns()
    gates["a"].set()
    await turns()
    assert seen == [0, 2, 5]  # the 7 waits for the 2, whatever it replaced
    gates["b"].set()
    await turns()
    assert seen == [0, 2, 5, 7]
    gates["c"].set()
    await bus.wait_idle()
    row = sub.statistics()
    assert (row.offered, row.handled, row.dropped) == (8, 4, 4)


async def test_a_stop_with_lanes_releases_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """Parked and buffered events are released and logged."""
    bus = EventBus(drain_timeout=0)
    async with bus:
        bus.subscribe(
            Ping,
            Recorder(gate=asyncio.Event()),
            name="r",
            concurrency=2,
            order_key=lambda event: event.key,
        )
        events = [Ping(n=n) for n in range(5)]
        for event in events:
            await bus.publish(event)
        await turns()
    row = bus.ledger["r"]
    assert (row.cancelled, row.released) == (1, 4)
    (line,) = lines(caplog, "events_released")
    positions = [line.index(event.id) for event in events[1:]]
    assert positions == sorted(positions)


@pytest.mark.parametrize("seed", range(20))
def test_lanes_against_a_simple_model(seed: int) -> None:
    """Every started event is the oldest of its key, nothing is lost, counts are exact."""
    rng = random.Random(seed)
    lanes = Lanes()
    parked: dict[str, list[int]] = {}
    busy: set[str] = set()
    order: list[int] = []
    free: list[str] = []
    numbers: dict[int, int] = {}
    for n in range(500):
        action = rng.random()
        if action < 0.5:
            key = rng.choice("abcd")
            number = lanes.start(key, n)
            assert (number is None) == (key not in busy)
            if number is None:
                busy.add(key)
            else:
                parked.setdefault(key, []).append(n)
                order.append(n)
                numbers[n] = number
        elif action < 0.8 and busy - set(free):
            key = rng.choice(sorted(busy - set(free)))
            more = lanes.release(key)
            assert more == bool(parked.get(key))
            if more:
                free.append(key)
            else:
                busy.discard(key)
        elif action < 0.9 and order:
            if action < 0.85:
                dropped = lanes.drop_oldest()
                assert dropped == order.pop(0)
            else:
                dropped = order.pop(rng.randrange(len(order)))
            (key,) = (key for key, queue in parked.items() if dropped in queue)
            if action >= 0.85:
                lanes.withdraw(numbers[dropped])
            parked[key].remove(dropped)
            if key in free and not parked[key]:
                free.remove(key)
                busy.discard(key)
        elif (found := lanes.next_ready()) is not None:
            key, entry = str(found[0]), found[1]
            assert entry == parked[key].pop(0)
            order.remove(entry)
            free.remove(key)
        assert len(lanes) == len(order)
        assert lanes.has_ready == bool(free)
    assert lanes.clear() == order
    assert len(lanes) == 0
