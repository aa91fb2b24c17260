"""Publishing: from where, what, and what travels beside the event."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import Event
from eventflow.bus import EventBus
from eventflow.context import current, publishing
from eventflow.errors import (
    BusClosedError,
    BusNotEnteredError,
    DeadlockError,
    EventDefinitionError,
    InvalidOptionError,
    NotInHandlerError,
    PublishTimeoutError,
    WrongLoopError,
)
from tests.unit.bus.support import (
    Base,
    Left,
    Ping,
    Pong,
    Recorder,
    Right,
    outcome,
    publish_all,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventflow.context import EventContext

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    async with EventBus() as bus:
        yield bus
    assert bus.ledger.adds_up


# ---------------------------------------------------------------------- what goes where


@pytest.mark.promise("4")
async def test_publish_returns_nothing_and_tells_nothing(bus: EventBus) -> None:
    """The same with no subscriber, with one, and with one that fails."""
    assert await bus.publish(Ping()) is None  # type: ignore[func-returns-value]

    async def fails(event: Ping) -> int:
        raise ValueError

    bus.subscribe(Ping, fails)  # type: ignore[arg-type]
    bus.subscribe(Ping, Recorder())
    assert await bus.publish(Ping()) is None  # type: ignore[func-returns-value]


@pytest.mark.promise("4")
async def test_publish_does_not_wait_for_handlers(bus: EventBus) -> None:
    """It returns before any handler has begun, where there is room."""
    recorder = Recorder()
    bus.subscribe(Ping, recorder)
    await bus.publish(Ping(n=0))  # the first of every 256 is a checkpoint
    await turns()
    await bus.publish(Ping(n=1))
    assert recorder.started == [0]


async def test_by_class_topic_and_pattern(bus: EventBus) -> None:
    """Each selector gets what it names: subclasses included, segments matched."""
    seen: dict[str, list[str]] = {}

    def listen(selector: Any, name: str) -> None:
        async def handler(event: Event) -> None:
            seen.setdefault(name, []).append(type(event).__name__)

        bus.subscribe(selector, handler, name=name)

    for selector in (Ping, Base, Left, Event):
        listen(selector, selector.__name__)
    for pattern in ("test.ping", "test.*", "test.>", "test.base.*", "*.*", ">", "*", "test.base"):
        listen(pattern, pattern)
    for event in (Ping(), Pong(), Left(), Right()):
        await bus.publish(event)
    await bus.wait_idle()
    everything = ["Ping", "Pong", "Left", "Right"]
    assert seen == {
        "Ping": ["Ping"],
        "Base": ["Left", "Right"],
        "Left": ["Left"],
        "Event": everything,
        "test.ping": ["Ping"],
        "test.*": ["Ping", "Pong"],
        "test.>": everything,
        "test.base.*": ["Left", "Right"],
        "*.*": ["Ping", "Pong"],
        ">": everything,
    }


async def test_two_subscriptions_of_one_handler_get_two_copies(bus: EventBus) -> None:
    """A class and its topic are two subscriptions."""
    recorder = Recorder()
    bus.subscribe(Ping, recorder)
    bus.subscribe("test.ping", recorder)
    await bus.publish(Ping(n=1))
    await bus.wait_idle()
    assert recorder.seen == [1, 1]
    assert [row.name for row in bus.statistics().subscriptions] == ["Recorder", "Recorder-2"]


async def test_a_new_subscriber_gets_only_later_events(bus: EventBus) -> None:
    """And one that ended gets none."""
    await bus.publish(Ping(n=0))
    recorder = Recorder()
    sub = bus.subscribe(Ping, recorder)
    await bus.publish(Ping(n=1))
    await sub.aclose()
    await bus.publish(Ping(n=2))
    await bus.wait_idle()
    assert recorder.seen == [1]


@pytest.mark.parametrize("wrong", [1, None, "test.ping", Ping, object()])
async def test_only_events_can_be_published(bus: EventBus, wrong: Any) -> None:
    """A class, a text or a number is a typed error that says so."""
    with pytest.raises(EventDefinitionError, match="subclass of Event"):
        await bus.publish(wrong)
    with pytest.raises(EventDefinitionError):
        bus.publish_nowait(wrong)


async def test_a_base_class_can_not_be_published(bus: EventBus) -> None:
    """It has no topic; the error says how to give it one."""
    bus.subscribe(Base, Recorder())  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(EventDefinitionError, match="has no topic"):
            await bus.publish(Base())


async def test_one_event_can_be_published_twice(bus: EventBus) -> None:
    """It is the same object, with the same id."""
    seen: list[Event] = []

    async def handler(event: Ping) -> None:
        seen.append(event)

    bus.subscribe(Ping, handler)
    event = Ping()
    await bus.publish(event)
    await bus.publish(event)
    await bus.wait_idle()
    assert seen[0] is seen[1] is event


# --------------------------------------------------------------------------- from where


async def test_before_entering() -> None:
    """A typed error, for every way to publish."""
    bus = EventBus()
    with pytest.raises(BusNotEnteredError):
        await bus.publish(Ping())
    with pytest.raises(BusNotEnteredError):
        bus.publish_nowait(Ping())
    with pytest.raises(BusNotEnteredError):
        bus.publish_from_thread(Ping())


async def test_from_the_wrong_thread(bus: EventBus) -> None:
    """Both publish and publish_nowait in another thread point to publish_from_thread."""
    bus.subscribe(Ping, Recorder(), name="r")

    def elsewhere() -> list[BaseException | None]:
        errors: list[BaseException | None] = [asyncio.run(outcome_of(bus))]
        try:
            bus.publish_nowait(Ping())
        except WrongLoopError as exc:
            errors.append(exc)
        try:
            bus.publish(Ping()).send(None)
        except WrongLoopError as exc:
            errors.append(exc)
        return errors

    errors = await asyncio.to_thread(elsewhere)
    assert [type(error) for error in errors] == [WrongLoopError] * 3
    assert all("publish_from_thread" in str(error) for error in errors)
    assert bus.statistics()["r"].offered == 0


async def outcome_of(bus: EventBus) -> BaseException | None:
    return await outcome(bus.publish(Ping()))


async def test_cancel_and_aclose_in_the_wrong_thread_change_nothing(bus: EventBus) -> None:
    """A subscription that was not touched goes on, now and after the next entry."""
    recorder = Recorder()
    other = EventBus()
    sub = other.subscribe(Ping, recorder)

    def elsewhere() -> None:
        with pytest.raises(WrongLoopError):
            sub.cancel()
        with pytest.raises(WrongLoopError):
            asyncio.run(sub.aclose())

    for _ in range(2):
        async with other:
            await asyncio.to_thread(elsewhere)
            await other.publish(Ping())
    assert recorder.seen == [0, 0]


async def test_publish_from_thread(bus: EventBus) -> None:
    """Blocks its thread until the event is offered; the loop goes on."""
    recorder = Recorder()
    bus.subscribe(Ping, recorder)
    for n in range(3):
        await asyncio.to_thread(bus.publish_from_thread, Ping(n=n))
    await bus.wait_idle()
    assert recorder.seen == [0, 1, 2]


async def test_publish_from_thread_on_the_loops_own_thread(bus: EventBus) -> None:
    """It would wait for itself."""
    with pytest.raises(DeadlockError, match=r"await bus\.publish"):
        bus.publish_from_thread(Ping())


async def test_publish_from_thread_after_the_bus_was_left() -> None:
    """BusClosedError, also once the loop is gone."""
    async with EventBus() as bus:
        pass
    with pytest.raises(BusClosedError):
        await asyncio.to_thread(bus.publish_from_thread, Ping())


def test_publish_from_thread_when_the_loop_is_closed() -> None:
    """A typed error, at once."""
    bus = EventBus()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(bus.__aenter__())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(turns())
    loop.close()
    with pytest.raises(BusClosedError):
        bus.publish_from_thread(Ping())


@pytest.mark.parametrize("closes", [False, True])
def test_publish_from_thread_times_out(closes: bool) -> None:
    """A loop that does not run, or is closed meanwhile, is a typed error in time."""
    bus = EventBus()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(bus.__aenter__())
    errors: list[BaseException] = []
    event = Ping()

    def publish() -> None:
        try:
            bus.publish_from_thread(event, timeout=30 if closes else 0.2)
        except Exception as exc:  # noqa: BLE001 - looked at below
            errors.append(exc)

    thread = threading.Thread(target=publish)
    thread.start()
    if closes:
        while not loop._ready:  # type: ignore[attr-defined]
            pass
        loop.close()
    thread.join(5)
    (error,) = errors
    if closes:
        assert isinstance(error, BusClosedError)  # long before its timeout
    else:
        assert isinstance(error, PublishTimeoutError)
        assert (error.topic, error.event_id, error.waited_s) == ("test.ping", event.id, 0.2)
        loop.run_until_complete(bus.__aexit__(None, None, None))
        loop.close()
        assert bus.ledger.total.offered == 0


@pytest.mark.parametrize("closes", [False, True])
def test_publish_from_thread_while_the_bus_is_left(closes: bool) -> None:
    """Between its look at the bus and its call into the loop: BusClosedError, at once."""
    bus = EventBus()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(bus.__aenter__())
    looked, left = threading.Event(), threading.Event()
    call_soon = loop.call_soon_threadsafe
    errors: list[BaseException] = []

    def call_later(*args: Any, **options: Any) -> Any:
        looked.set()
        assert left.wait(10)
        return call_soon(*args, **options)

    def publish() -> None:
        try:
            bus.publish_from_thread(Ping())
        except Exception as exc:  # noqa: BLE001 - looked at below
            errors.append(exc)

    loop.call_soon_threadsafe = call_later  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=publish)
    thread.start()
    assert looked.wait(10)
    loop.call_soon_threadsafe = call_soon  # type: ignore[method-assign]
    loop.run_until_complete(bus.__aexit__(None, None, None))
    if closes:
        loop.close()
    left.set()
    while thread.is_alive():
        thread.join(0.01)
        if not closes:
            loop.run_until_complete(turns())
    loop.close()
    assert [type(error) for error in errors] == [BusClosedError]
    assert bus.ledger.total.offered == 0


@pytest.mark.virtual_clock(hold_limit=5.0)
async def test_publish_from_thread_that_waits_for_room_times_out(bus: EventBus) -> None:
    """Its turn is given up then; who has a copy keeps it."""
    loop = asyncio.get_running_loop()
    recorder = Recorder(gate=asyncio.Event())
    sub = bus.subscribe(Ping, recorder, capacity=1, timeout=None)
    await bus.publish(Ping(n=0))
    await turns()
    await bus.publish(Ping(n=1))
    error = await loop.run_in_executor(None, from_thread, bus)
    await turns()
    assert isinstance(error, PublishTimeoutError)
    row = sub.statistics()
    assert (row.rejected, row.waiting) == (1, 0)
    assert recorder.gate is not None
    recorder.gate.set()
    await bus.wait_idle()
    assert recorder.seen == [0, 1]


def from_thread(bus: EventBus) -> BaseException | None:
    try:
        bus.publish_from_thread(Ping(n=9), timeout=0.1)
    except Exception as exc:  # noqa: BLE001 - looked at by the caller
        return exc
    return None


async def test_publish_from_a_handlers_thread(bus: EventBus) -> None:
    """Causation follows, and it is taken while the bus drains."""
    seen: list[tuple[str | None, str]] = []

    def sync(event: Ping) -> None:
        bus.publish_from_thread(Pong(n=event.n))

    async def pong(event: Pong) -> None:
        seen.append((current().causation_id, current().correlation_id))

    other = EventBus()
    async with other:
        other.subscribe(Ping, lambda event: other.publish_from_thread(Pong(n=event.n)))
        other.subscribe(Pong, pong)
        event = Ping()
        await other.publish(event)
    assert seen == [(event.id, event.id)]
    bus.subscribe(Ping, sync)
    bus.subscribe(Pong, pong)
    await bus.publish(event)
    await bus.wait_idle()
    assert len(seen) == 2


# --------------------------------------------------------------- what travels beside it


async def test_ids_follow_by_themselves(bus: EventBus) -> None:
    """Correlation is that of the first cause; causation is the event that was handled."""
    seen: list[EventContext] = []

    async def ping(event: Ping) -> None:
        seen.append(current())
        await bus.publish(Pong())

    async def pong(event: Pong) -> None:
        seen.append(current())
        await bus.publish(Left())

    async def left(event: Left) -> None:
        seen.append(current())

    bus.subscribe(Ping, ping)
    bus.subscribe(Pong, pong)
    bus.subscribe(Left, left)
    event = Ping()
    await bus.publish(event)
    await bus.wait_idle()
    first, second, third = seen
    assert first.event is event
    assert (first.event_id, first.topic, first.subscription) == (event.id, "test.ping", "ping")
    assert [c.correlation_id for c in seen] == [event.id] * 3
    assert [c.causation_id for c in seen] == [None, event.id, second.event_id]
    assert third.metadata == {}


async def test_publishing_names_a_correlation_id_and_metadata(bus: EventBus) -> None:
    """Outside and inside handlers; blocks nest; nothing stays behind after the block."""
    seen: list[EventContext] = []

    async def ping(event: Ping) -> None:
        seen.append(current())
        with publishing(metadata={"who": "ping"}):
            await bus.publish(Pong())

    async def pong(event: Pong) -> None:
        seen.append(current())

    bus.subscribe(Ping, ping)
    bus.subscribe(Pong, pong)
    given = {"a": "1"}
    with publishing(correlation_id="req-1", metadata=given), publishing(metadata={"b": "2"}):
        await bus.publish(Ping(n=1))
        bus.publish_nowait(Ping(n=2))
    given["a"] = "changed"
    await bus.publish(Ping(n=3))
    await bus.wait_idle()
    pings = [c for c in seen if c.topic == "test.ping"]
    pongs = [c for c in seen if c.topic == "test.pong"]
    assert [c.correlation_id for c in pings] == ["req-1", "req-1", pings[2].event_id]
    assert [dict(c.metadata) for c in pings] == [{"a": "1", "b": "2"}] * 2 + [{}]
    assert [c.correlation_id for c in pongs] == [c.correlation_id for c in pings]
    assert [c.causation_id for c in pongs] == [c.event_id for c in pings]
    assert [dict(c.metadata) for c in pongs] == [{"who": "ping"}] * 3
    with pytest.raises(TypeError):
        pings[0].metadata["a"] = "x"  # type: ignore[index]


@pytest.mark.parametrize(
    "wrong",
    [{"correlation_id": ""}, {"correlation_id": 1}, {"metadata": {"a": 1}}, {"metadata": {1: "a"}}],
)
async def test_publishing_refuses_what_is_no_text(wrong: dict[str, Any]) -> None:
    """Before anything is published."""
    with pytest.raises(InvalidOptionError), publishing(**wrong):
        pass


async def test_a_child_task_keeps_its_event_beyond_the_handler(bus: EventBus) -> None:
    """It never sees the next event's id, however long it lives."""
    seen: list[tuple[int, str]] = []
    children: list[asyncio.Task[None]] = []
    go = asyncio.Event()

    async def child(n: int) -> None:
        await go.wait()
        seen.append((n, current().event_id))

    async def handler(event: Ping) -> None:
        children.append(asyncio.ensure_future(child(event.n)))

    bus.subscribe(Ping, handler)
    events = [Ping(n=n) for n in range(5)]
    for event in events:
        await bus.publish(event)
    await bus.wait_idle()
    go.set()
    await asyncio.gather(*children)
    assert seen == [(n, event.id) for n, event in enumerate(events)]


async def test_a_deadline_is_told(bus: EventBus) -> None:
    """Start + timeout of this attempt on the loop's clock; None without a timeout."""
    seen: list[float | None] = []

    async def handler(event: Event) -> None:
        seen.append(current().deadline)
        await asyncio.sleep(1)

    bus.subscribe(Ping, handler, timeout=5)
    await publish_all(bus, range(2))
    await bus.wait_idle()
    bus.subscribe(Pong, handler, timeout=None)
    await bus.publish(Pong())
    await bus.wait_idle()
    assert seen == [5, 6, None]


async def test_outside_a_handler_there_is_no_current_event(bus: EventBus) -> None:
    """Also in a stream's reader, and inside `publishing`."""
    with pytest.raises(NotInHandlerError):
        current()
    with publishing(correlation_id="x"), pytest.raises(NotInHandlerError):
        current()
    async with bus.stream(Ping) as events:
        await bus.publish(Ping())
        await anext(events)
        with pytest.raises(NotInHandlerError):
            current()


# ------------------------------------------------------------------------------ contexts

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_a_handlers_context_is_the_one_at_entry() -> None:
    """Not that of whoever subscribes or publishes."""
    seen: list[str] = []

    async def handler(event: Ping) -> None:
        seen.append(variable.get())

    def plain(event: Ping) -> None:
        seen.append(variable.get())

    bus = EventBus()
    variable.set("made")
    bus.subscribe(Ping, handler)
    variable.set("entry")
    async with bus:
        variable.set("subscribe")
        bus.subscribe(Ping, handler)
        bus.subscribe(Ping, plain)
        variable.set("publish")
        await bus.publish(Ping())
    assert seen == ["entry"] * 3


@pytest.mark.parametrize("how", ["set", "incomparable", "reset", "thread", "failing", "retry"])
async def test_what_a_handler_binds_never_reaches_the_next_event(bus: EventBus, how: str) -> None:
    """Whatever the value, and however the attempt ends."""
    from eventflow.failure import FailurePolicy, Retry

    seen: list[str] = []

    class Incomparable(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("can't be compared")

    async def handler(event: Ping) -> None:
        seen.append(str.__str__(variable.get()))
        token = variable.set(Incomparable("bound") if how == "incomparable" else "bound")
        if how == "reset":
            variable.reset(token)
        if how == "failing" or (how == "retry" and current().attempt < 3):
            raise ValueError

    def in_thread(event: Ping) -> None:
        seen.append(variable.get())
        variable.set("bound")

    variable.set("unset")
    retry = Retry(attempts=3, initial=1) if how == "retry" else None
    sub = bus.subscribe(
        Ping,
        in_thread if how == "thread" else handler,
        on_failure=FailurePolicy(retry=retry),
    )
    await publish_all(bus, range(10))
    await bus.wait_idle()
    assert seen == ["unset"] * (30 if how == "retry" else 10)
    assert sub.statistics().restarts == 0


async def test_a_fresh_context_costs_no_order_and_no_event(bus: EventBus) -> None:
    """A worker whose context is used up hands over to a fresh one in one step."""
    recorder = Recorder()
    running: list[int] = []

    async def handler(event: Ping) -> None:
        running.append(event.n)
        assert len(running) == 1
        variable.set(str(event.n))
        await asyncio.sleep(0.1)
        await recorder(event)
        running.remove(event.n)

    sub = bus.subscribe(Ping, handler)
    await publish_all(bus, range(100))
    while sub.statistics().handled < 100:
        assert sub.statistics().adds_up
        await asyncio.sleep(0.05)
    assert recorder.seen == list(range(100))
