"""What can be subscribed, with which options, and what is refused with a remedy."""

from __future__ import annotations

import asyncio
import functools
import math
import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.bus import EventBus, Listeners, Overflow
from eventflow.errors import (
    BusNotEnteredError,
    ConfigurationError,
    DeadlockError,
    EventFlowError,
    InvalidHandlerError,
    InvalidOptionError,
    InvalidTopicError,
)
from eventflow.failure import CallOnFailure, DeadLetter, FailurePolicy, Retry
from tests.unit.bus.support import Ping, Pong, Recorder, now, outcome, publish_all, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    async with EventBus() as bus:
        yield bus
    assert bus.ledger.adds_up


# --------------------------------------------------------------------------- handlers


def generator(event: Ping) -> Iterator[Ping]:
    yield event


async def async_generator(event: Ping) -> AsyncIterator[Ping]:
    yield event


async def handler(event: Ping) -> None: ...


async def two(event: Ping, other: object) -> None: ...


async def keyword_only(*, event: Ping) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (generator, "generator"),
        (async_generator, "generator"),
        (functools.partial(generator), "generator"),
        (two, "can't be called"),
        (keyword_only, "can't be called"),
        (lambda: None, "can't be called"),
        (None, "callable"),
        ("handler", "callable"),
        (Ping(), "callable"),
    ],
)
def test_wrong_handlers_are_refused(wrong: Any, remedy: str) -> None:
    """When they are bound, with what to write instead."""
    for bind in (EventBus().subscribe, Listeners().subscribe):
        with pytest.raises(InvalidHandlerError, match=remedy):
            bind(Ping, wrong)
    with pytest.raises(InvalidHandlerError, match=remedy):
        EventBus().on(Ping)(wrong)


def test_a_coroutine_object_is_refused() -> None:
    """It was called too early; the error says to pass the function."""
    coroutine = handler(Ping())
    with pytest.raises(InvalidHandlerError, match="do not call it"):
        EventBus().subscribe(Ping, coroutine)  # type: ignore[call-overload]
    coroutine.close()


@pytest.mark.parametrize("selector", [int, 1, None, object(), Ping()])
def test_wrong_selectors_are_refused(selector: Any) -> None:
    """Neither an event class nor a text."""
    with pytest.raises(InvalidTopicError):
        EventBus().subscribe(selector, handler)


@pytest.mark.parametrize("topic", ["", ".", "a..b", "a b", "a.>.b", "a.*b", "ä", "a" * 300])
def test_wrong_topics_are_refused(topic: str) -> None:
    """By the grammar."""
    with pytest.raises(InvalidTopicError):
        EventBus().subscribe(topic, handler)
    with pytest.raises(InvalidTopicError):
        EventBus().stream(topic)


@pytest.mark.fault("BUS-07")
@pytest.mark.parametrize("kind", ["method", "partial", "lambda", "callable", "classmethod"])
async def test_a_handler_nobody_else_holds_is_called(bus: EventBus, kind: str) -> None:
    """Bound methods, partials and lambdas are held by their subscription."""
    import gc

    seen: list[int] = []

    class Shop:
        async def method(self, event: Ping) -> None:
            seen.append(event.n)

        @classmethod
        async def of_class(cls, event: Ping) -> None:
            seen.append(event.n)

        async def __call__(self, event: Ping) -> None:
            seen.append(event.n)

        @staticmethod
        async def two(log: list[int], event: Ping) -> None:
            log.append(event.n)

    makers: dict[str, Callable[[], Callable[[Ping], Any]]] = {
        "method": lambda: Shop().method,
        "partial": lambda: functools.partial(Shop.two, seen),
        "lambda": lambda: lambda event: Shop().method(event),
        "callable": Shop,
        "classmethod": lambda: Shop.of_class,
    }
    bus.subscribe(Ping, makers[kind]())
    gc.collect()
    await bus.publish(Ping(n=7))
    await bus.wait_idle()
    assert seen == [7]


async def test_a_handler_is_never_wrapped(bus: EventBus) -> None:
    """Decorators give back the very function; it stays callable."""
    seen: list[int] = []

    async def plain(event: Ping) -> None:
        seen.append(event.n)

    assert bus.on(Ping)(plain) is plain
    assert Listeners().on(Ping)(plain) is plain
    await plain(Ping(n=3))
    assert seen == [3]


# ----------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"capacity": 0}, "capacity"),
        ({"capacity": 1.5}, "capacity"),
        ({"capacity": True}, "capacity"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": "2"}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"block_timeout": -1}, "block_timeout"),
        ({"block_timeout": 1, "overflow": Overflow.RAISE}, "block_timeout"),
        ({"overflow": "block"}, "overflow"),
        ({"overflow": None}, "overflow"),
        ({"latest_key": len}, "latest_key"),
        ({"latest_key": 1, "overflow": Overflow.KEEP_LATEST}, "latest_key"),
        ({"order_key": "customer_id", "concurrency": 2}, "order_key"),
        ({"resources": nullcontext(1)}, "resources"),
        ({"name": ""}, "name"),
        ({"name": 1}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"on_failure": Retry()}, "on_failure"),
        ({"on_failure": None}, "on_failure"),
        ({"on_failure": FailurePolicy(then=DeadLetter())}, "on_failure"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], option: str) -> None:
    """By name, when it is given, on the bus and in a collection."""
    for bind in (EventBus().subscribe, Listeners().subscribe):
        with pytest.raises(InvalidOptionError) as caught:
            bind(Ping, handler, **options)
        assert caught.value.option == option


@pytest.mark.parametrize(
    ("given", "meant"),
    [("capcity", "capacity"), ("time_out", "timeout"), ("orderkey", "order_key"), ("zzz", None)],
)
def test_an_unknown_option_is_refused_with_a_suggestion(given: str, meant: str | None) -> None:
    """It lists what there is, and says what was probably meant."""
    with pytest.raises(InvalidOptionError, match="capacity, concurrency") as caught:
        EventBus().subscribe(Ping, handler, **{given: 1})  # type: ignore[call-overload]
    assert caught.value.option == given
    assert (f"did you mean {meant!r}? Options are" in str(caught.value)) == (meant is not None)
    assert (f"unknown option {given!r}. Options are" in str(caught.value)) == (meant is None)


@pytest.mark.parametrize("given", ["retry", "retries"])
def test_retries_are_refused_with_where_they_belong(given: str) -> None:
    """They are a part of the failure policy, and `resources` is only spelled a bit like them."""
    said = f"unknown option {given!r}; write on_failure=FailurePolicy(retry=Retry(...)). Options"
    with pytest.raises(InvalidOptionError, match=re.escape(said)) as caught:
        EventBus().subscribe(Ping, handler, **{given: Retry()})  # type: ignore[call-overload]
    assert caught.value.option == given


def test_a_stream_has_no_failure_policy_to_point_to() -> None:
    """Nothing is advised that would be refused as well."""
    with pytest.raises(InvalidOptionError, match="unknown option 'retry'") as caught:
        EventBus().stream(Ping, retry=Retry())  # type: ignore[call-overload]
    assert "on_failure" not in str(caught.value)


def test_a_dead_letter_on_a_bus_is_refused_with_the_remedy() -> None:
    """A bus has nowhere to keep one."""
    with pytest.raises(InvalidOptionError, match="CallOnFailure"):
        EventBus().subscribe(Ping, handler, on_failure=FailurePolicy(then=DeadLetter()))


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"drain_timeout": -1}, "drain_timeout"),
        ({"drain_timeout": math.inf}, "drain_timeout"),
        ({"drain_timeout": math.nan}, "drain_timeout"),
        ({"drain_timeout": "20"}, "drain_timeout"),
        ({"drain_timeout": None}, "drain_timeout"),
        ({"drain_timeout": 10**400}, "drain_timeout"),
        ({"cancel_grace": 10**400}, "cancel_grace"),
        ({"cancel_grace": 0}, "cancel_grace"),
        ({"cancel_grace": True}, "cancel_grace"),
        ({"max_threads": 0}, "max_threads"),
        ({"max_threads": 1.5}, "max_threads"),
    ],
)
def test_an_option_of_the_bus_out_of_range_is_refused(options: Any, option: str) -> None:
    """A typed error with the option's name, whatever was given."""
    with pytest.raises(InvalidOptionError) as caught:
        EventBus(**options)
    assert caught.value.option == option


def test_the_defaults() -> None:
    """What the documentation promises."""
    options = EventBus().subscribe(Ping, handler).binding.options
    assert (options.capacity, options.overflow, options.block_timeout) == (1024, Overflow.BLOCK, 5)
    assert (options.concurrency, options.timeout) == (1, 30)
    assert options.on_failure == FailurePolicy.log()


# ------------------------------------------------------------------------------- names


@pytest.mark.option("name")
async def test_names(bus: EventBus) -> None:
    """Default: the handler's; numbered where taken. A given one has to be free."""

    class Shop:
        async def charge(self, event: Ping) -> None: ...

    names = [
        bus.subscribe(Ping, handler).name,
        bus.subscribe(Ping, handler).name,
        bus.subscribe(Ping, handler).name,
        bus.subscribe(Ping, functools.partial(handler)).name,
        bus.subscribe(Ping, Shop().charge).name,
        bus.subscribe(Ping, handler, name="receipts").name,
    ]
    assert names == ["handler", "handler-2", "handler-3", "handler-4", "Shop.charge", "receipts"]
    with pytest.raises(InvalidOptionError, match="receipts"):
        bus.subscribe(Ping, handler, name="receipts")
    assert [row.name for row in bus.statistics().subscriptions] == names


@pytest.mark.option("name")
async def test_a_name_is_free_again_once_its_subscription_has_ended(bus: EventBus) -> None:
    """Also for one that was made before the bus was entered."""
    sub = bus.subscribe(Ping, handler, name="x")
    await sub.aclose()
    again = bus.subscribe(Ping, handler, name="x")
    assert again.name == "x"
    declared = EventBus()
    first = declared.subscribe(Ping, handler, name="x")
    with pytest.raises(InvalidOptionError):
        declared.subscribe(Ping, handler, name="x")
    first.cancel()
    declared.subscribe(Ping, handler, name="x")
    assert declared.subscribe(Ping, handler).name == "handler"


# --------------------------------------------------------------------------- listeners


async def test_listeners_are_included() -> None:
    """In several buses; before and after entering; nothing starts by itself."""
    listeners = Listeners()
    seen: list[int] = []

    @listeners.on(Ping, concurrency=2)
    async def first(event: Ping) -> None:
        seen.append(event.n)

    async def second(event: Pong) -> None:
        seen.append(event.n + 100)

    listeners.subscribe("test.pong", second, name="pongs")
    assert len(listeners) == 2
    before, after = EventBus(), EventBus()
    before.include(listeners)
    async with before, after:
        after.include(listeners)
        for bus in (before, after):
            await bus.publish(Ping(n=1))
            await bus.publish(Pong(n=2))
            await bus.wait_idle()
    assert sorted(seen) == [1, 1, 102, 102]
    assert [row.name for row in before.ledger.subscriptions] == ["first", "pongs"]


async def test_including_is_all_or_nothing(bus: EventBus) -> None:
    """A name that is taken undoes what came before it."""
    listeners = Listeners()
    seen = Recorder()
    listeners.subscribe(Ping, seen, name="free")
    listeners.subscribe(Ping, seen, name="taken")
    bus.subscribe(Ping, handler, name="taken")
    with pytest.raises(InvalidOptionError):
        bus.include(listeners)
    await bus.publish(Ping())
    await bus.wait_idle()
    assert seen.seen == []


# --------------------------------------------------------------- ending a subscription


async def test_aclose_drains(bus: EventBus) -> None:
    """What it has is handled, what comes later is not for it; the others go on."""
    recorder, other = Recorder(), Recorder()

    async def slow(event: Ping) -> None:
        await asyncio.sleep(1)
        await recorder(event)

    sub = bus.subscribe(Ping, slow)
    bus.subscribe(Ping, other)
    await publish_all(bus, range(3))
    closing = asyncio.ensure_future(sub.aclose())
    await turns()
    await bus.publish(Ping(n=9))
    await closing
    assert recorder.seen == [0, 1, 2]
    assert now() == 3
    assert sub.closed
    await bus.wait_idle()
    assert other.seen == [0, 1, 2, 9]
    await sub.aclose()
    sub.cancel()


async def test_before_its_bus_is_entered() -> None:
    """There is nothing to wait for; what is closed then does not start."""
    bus = EventBus()
    recorder = Recorder()
    sub = bus.subscribe(Ping, recorder, name="r")
    with pytest.raises(BusNotEnteredError, match="starts when its bus is entered"):
        await sub.wait_ready()
    await sub.aclose()
    async with bus:
        await bus.publish(Ping())
        await bus.wait_idle()
    assert recorder.seen == []
    assert bus.ledger.subscriptions == ()


async def test_a_subscription_without_a_resource_is_ready_at_once(bus: EventBus) -> None:
    """There is nothing to wait for."""
    recorder = Recorder()
    sub = bus.subscribe(Ping, recorder)
    await bus.publish(Ping(n=1))
    await sub.wait_ready()
    assert now() == 0
    await bus.wait_idle()
    assert recorder.seen == [1]


async def test_aclose_without_drain_and_cancel(bus: EventBus) -> None:
    """Its handler is cancelled, what is buffered is released; nothing else is touched."""
    other = Recorder()
    bus.subscribe(Ping, other)
    for how in ("aclose", "cancel"):
        sub = bus.subscribe(Ping, Recorder(gate=asyncio.Event()), name=how)
        await publish_all(bus, range(3))
        await turns()
        if how == "aclose":
            await sub.aclose(drain=False)
        else:
            sub.cancel()
            await turns()
        row = bus.statistics()[how]
        assert (row.cancelled, row.released, row.in_flight) == (1, 2, 0)
    await bus.wait_idle()
    assert len(other.seen) == 6
    assert now() == 0


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_one_that_ends_while_a_publish_lets_it_run_is_offered_nothing_more(
    bus: EventBus, overflow: Overflow
) -> None:
    """It handles what made it full, and is gone when the publish goes on: nothing is dropped."""
    other = Recorder()
    bus.subscribe(Ping, other)
    await bus.publish(Pong())  # the first publish is a checkpoint
    sub = bus.subscribe(Ping, Recorder(), capacity=1, overflow=overflow, name="short")
    bus.publish_nowait(Ping(n=1))
    asyncio.get_running_loop().call_soon(sub.cancel)
    await bus.publish(Ping(n=2))
    await bus.wait_idle()
    await turns()
    row = sub.statistics()
    assert (row.offered, row.handled, row.dropped) == (1, 1, 0)
    assert other.seen == [1, 2]


async def test_a_cancelled_aclose_ends_the_drain(bus: EventBus) -> None:
    """The handlers are cancelled then; the cancellation is raised when that is done."""
    sub = bus.subscribe(Ping, Recorder(gate=asyncio.Event()))
    await bus.publish(Ping())
    closing = asyncio.ensure_future(sub.aclose())
    await asyncio.sleep(3)
    closing.cancel()
    assert isinstance(await outcome(closing), asyncio.CancelledError)
    assert sub.statistics().cancelled == 1
    assert now() == 3


async def test_a_cancelled_aclose_whose_stop_is_cancelled_too() -> None:
    """A loop that is shut down cancels both: it ends as cancelled, and the bus ends the rest."""
    cleaned: list[float] = []

    async def cleans_up(event: Ping) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(3)
            cleaned.append(now())

    async with EventBus(name="shut") as bus:
        sub = bus.subscribe(Ping, cleans_up, name="s", timeout=None)
        await bus.publish(Ping())
        await turns()
        closing = asyncio.ensure_future(sub.aclose())
        await asyncio.sleep(1)
        closing.cancel()
        await turns()
        assert not closing.done(), "the clean-up has its time"
        (stop,) = [t for t in asyncio.all_tasks() if t.get_name() == "eventflow:shut:s:stop"]
        stop.cancel()
        assert isinstance(await outcome(closing), asyncio.CancelledError)
        assert now() == 1
    assert cleaned == [4]
    assert bus.ledger["s"].cancelled == 1
    assert bus.ledger.adds_up


async def test_a_handler_can_cancel_its_own_subscription_but_not_wait_for_it(
    bus: EventBus,
) -> None:
    """aclose() from inside could only wait for itself."""
    seen: list[BaseException | None] = []

    async def once(event: Ping) -> None:
        seen.append(await outcome(sub.aclose()))
        sub.cancel()

    await bus.publish(Pong())  # the first publish is a checkpoint
    sub = bus.subscribe(Ping, once)
    await publish_all(bus, range(3))
    await turns(30)
    assert [type(error) for error in seen] == [DeadlockError]
    row = sub.statistics()
    assert (row.handled, row.cancelled, row.released) == (1, 0, 2)
    assert sub.closed


@pytest.mark.fault("BUS-16")
async def test_subscribing_and_leaving_inside_dispatch(bus: EventBus) -> None:
    """A thousand times, from handlers; a new subscriber gets only later events."""
    started: dict[str, int] = {}
    early: list[tuple[int, int]] = []

    async def handler(event: Ping) -> None:
        born = event.n

        async def child(later: Ping) -> None:
            if later.n <= born:
                early.append((born, later.n))

        sub = bus.subscribe(Ping, child)
        started[sub.name] = born
        if event.n % 3:
            sub.cancel()
        elif event.n % 2:
            await sub.aclose()
        elif event.n > 30:
            bus.subscribe(Ping, child).cancel()
            sub.cancel()

    bus.subscribe(Ping, handler)
    for n in range(1000):
        await bus.publish(Ping(n=n))
    await bus.wait_idle()
    await turns(50)
    assert early == []
    assert bus.statistics()["handler"].handled == 1000
    assert bus.statistics()["handler"].failed == 0


def test_configuration_errors_are_one_family() -> None:
    """A program can catch what was declared wrongly, before anything runs."""
    for error in (InvalidHandlerError, InvalidOptionError, InvalidTopicError):
        assert issubclass(error, ConfigurationError)
        assert issubclass(error, ValueError)
        assert issubclass(error, EventFlowError)
    with pytest.raises(InvalidHandlerError):
        CallOnFailure("nobody")  # type: ignore[arg-type]


async def test_listeners_can_be_parted() -> None:
    """By the names they go by, so that some run here and others elsewhere."""
    listeners = Listeners()
    for name in ("a", "b", "c"):
        listeners.subscribe(Ping, Recorder(), name=name)
    listeners.subscribe(Ping, Recorder())

    bus = EventBus()
    bus.include(listeners.only("b", "Recorder"))
    rest = EventBus()
    rest.include(listeners.without("b", "Recorder"))
    async with bus, rest:
        assert bus.explain(Ping).receivers == ("b", "Recorder")
        assert rest.explain(Ping).receivers == ("a", "c")
    assert len(listeners) == 4
    for part in (listeners.only, listeners.without):
        with pytest.raises(InvalidOptionError, match=r"'d'\. .* Recorder, a, b"):
            part("a", "d")
