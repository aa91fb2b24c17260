"""Middlewares in a router: where they stand, what they see, what their errors mean."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from structlog.contextvars import bind_contextvars

from eventflow import CallOnFailure, FailurePolicy, Permanent, Retry, current
from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import InvalidOptionError, RouterError
from eventflow.messaging import BrokerEventPublisher, Message, Router
from eventflow.messaging.middleware import IgnoreErrors, Throttle
from tests.unit.messaging.middleware.support import Seen, lines, send
from tests.unit.messaging.support import QUICK, Placed, Shipped, now, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow import Event
    from eventflow.messaging import Delivery
    from eventflow.messaging.middleware import CallNext, HandlerControls, Middleware

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

ONCE = FailurePolicy()


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


class Noted:
    """A middleware that writes down what passes it, and fails where it is told to."""

    def __init__(self, name: str, into: list[str], *, fail: str = "") -> None:
        self._name = name
        self._into = into
        self._fail = fail

    async def __call__(self, delivery: Delivery, call_next: CallNext) -> Any:
        self._into.append(f"{self._name} in")
        if self._fail == "before":
            raise ValueError(self._name)
        try:
            given = await call_next(delivery)
        except BaseException as exc:
            self._into.append(f"{self._name} {type(exc).__name__}")
            raise
        self._into.append(f"{self._name} out")
        if self._fail == "after":
            raise ValueError(self._name)
        return given


# Order


@pytest.mark.fault("RTR-11")
async def test_the_first_is_outermost_and_the_routers_are_outside(broker: MemoryBroker) -> None:
    """Those of the router in the order they came, then the handler's own, then the handler."""
    told: list[str] = []

    async def handler(event: Placed) -> None:
        told.append("handler")

    router = Router(middlewares=[Noted("a", told)])
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=broker.subscriber(group="g"),
        middlewares=[Noted("c", told), Noted("d", told)],
    )
    router.add_middleware(Noted("b", told))
    async with router:
        await send(broker, 1)
    assert told == [
        *("a in", "b in", "c in", "d in"),
        "handler",
        *("d out", "c out", "b out", "a out"),
    ]


@pytest.mark.fault("RTR-11")
@pytest.mark.parametrize("position", ["a", "b", "c"])
@pytest.mark.parametrize("fail", ["before", "after"])
async def test_an_error_before_or_after_the_handler_is_no_ack(
    broker: MemoryBroker, fail: str, position: str
) -> None:
    """The attempt has failed, whichever of the three it was; the next one takes the same way."""
    told: list[str] = []
    subscriber, handler = broker.subscriber(group="g"), Seen()
    middlewares = [Noted(name, told, fail=fail if name == position else "") for name in "abc"]
    router = Router(
        on_failure=FailurePolicy(retry=Retry(attempts=50, initial=1, max_delay=1, jitter=0)),
        middlewares=middlewares,
        drain_timeout=0,
    )
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    async with router:
        await send(broker, 1)
        await asyncio.sleep(2.5)
        assert await subscriber.lag("orders") == 1
    row = router.ledger["h"]
    assert (row.handled, row.failed, row.retried) == (0, 0, 3)
    assert len(handler.numbers) == (3 if fail == "after" else 0)
    assert await subscriber.lag("orders") == 1
    reached = "abc" if fail == "after" else "abc"[: "abc".index(position) + 1]
    ways = [f"{name} in" for name in reached]
    for name in reversed(reached):
        if fail == "after" and name >= position:
            ways.append(f"{name} out")
        elif name < position:
            ways.append(f"{name} ValueError")
    assert told == ways * 3


@pytest.mark.fault("RTR-11")
async def test_one_that_always_fails_ends_in_a_dead_letter(broker: MemoryBroker) -> None:
    """As a handler that always fails does: the policy is around them."""
    told: list[str] = []
    router = Router(on_failure=QUICK, middlewares=[Noted("a", told, fail="before")])
    router.add_handler("h", Placed, Seen(), subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
    assert told == ["a in"] * 3
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["reason_poisoned"] == "a"
    assert letter.metadata["eventflow_attempts"] == "3"


async def test_the_order_is_the_same_around_a_plain_function(broker: MemoryBroker) -> None:
    """Middlewares run on the loop, the handler in a thread."""
    told: list[str] = []
    main = threading.current_thread()

    def handler(event: Placed) -> None:
        told.append("in a thread" if threading.current_thread() is not main else "on the loop")
        if len(told) < 4:
            raise ValueError("once more")

    router = Router(on_failure=QUICK, middlewares=[Noted("a", told), Noted("b", told)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
    failed = ["a in", "b in", "in a thread", "b ValueError", "a ValueError"]
    assert told == [*failed, "a in", "b in", "in a thread", "b out", "a out"]
    assert router.ledger["h"].handled == 1


# What they see


async def test_they_see_the_event(broker: MemoryBroker) -> None:
    """Decoded, the one that the handler gets; and `current()` is that of the attempt."""
    seen: list[Any] = []

    async def looks(delivery: Delivery, call_next: CallNext) -> Any:
        context = current()
        seen.append((delivery.event, context.event_id, context.attempt, context.subscription))
        return await call_next(delivery)

    async def handler(event: Placed) -> None:
        seen.append(event)
        if len(seen) == 2:
            raise ValueError

    router = Router(on_failure=QUICK, middlewares=[looks])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    event = Placed(n=7)
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(event)
    assert seen[0] == (event, event.id, 1, "h")
    assert seen[2] == (event, event.id, 2, "h")
    assert seen[0][0] is seen[1]


async def test_where_the_handler_takes_messages_there_is_no_event(broker: MemoryBroker) -> None:
    seen: list[tuple[object, bytes]] = []

    async def looks(delivery: Delivery, call_next: CallNext) -> Any:
        seen.append((delivery.event, delivery.message.payload))
        return await call_next(delivery)

    async def handler(message: Message) -> None: ...

    router = Router(middlewares=[looks])
    router.add_handler("h", "orders", handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", Message(b"\xff"))
    assert seen == [(None, b"\xff")]


async def test_a_body_that_can_not_be_decoded_reaches_none(broker: MemoryBroker) -> None:
    """Decoding comes before the policy, and that before the middlewares."""
    told: list[str] = []
    router = Router(middlewares=[Noted("a", told), IgnoreErrors(on=Exception)])
    router.add_handler("h", Placed, Seen(), subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", Message(b"{", {"name": "Placed"}))
    assert told == []
    assert router.ledger["h"].undecodable == 1


async def test_they_see_outputs_and_may_change_them(broker: MemoryBroker) -> None:
    """What the outermost returns is published, and confirmed before the ack."""

    async def adds(delivery: Delivery, call_next: CallNext) -> Any:
        given = await call_next(delivery)
        return [*given, Message(b"added")]

    async def handler(event: Placed) -> list[Message]:
        return [Message(b"given")]

    router = Router(middlewares=[adds])
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=broker.subscriber(group="g"),
        publisher=broker.publisher(),
        publish_topic="out",
    )
    async with router:
        await send(broker, 1)
    assert [message.payload for message in await stored(broker, "out")] == [b"given", b"added"]


# What their end means


async def test_a_swallowed_error_is_a_success(broker: MemoryBroker) -> None:
    """Acked, without a retry; and so is not calling the handler at all."""
    subscriber = broker.subscriber(group="g")

    async def swallows(delivery: Delivery, call_next: CallNext) -> Any:
        if isinstance(delivery.event, Placed) and delivery.event.n == 2:
            return
        with suppress(ValueError):
            await call_next(delivery)

    handler = Seen(ValueError())
    router = Router(on_failure=QUICK, middlewares=[swallows])
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    async with router:
        await send(broker, 1, 2)
    assert handler.numbers == [1]
    row = router.ledger["h"]
    assert (row.handled, row.retried, row.failed) == (2, 0, 0)
    assert await subscriber.lag("orders") == 0


async def test_an_error_put_in_the_place_of_another_is_what_the_policy_gets(
    broker: MemoryBroker,
) -> None:
    """So a middleware may say that there is no sense in trying again."""

    async def gives_up(delivery: Delivery, call_next: CallNext) -> Any:
        try:
            return await call_next(delivery)
        except ValueError as exc:
            raise Permanent("never") from exc

    handler = Seen(ValueError())
    router = Router(on_failure=QUICK, middlewares=[gives_up])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
    assert handler.numbers == [1]
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["reason_poisoned"] == "never"


async def test_a_nack_by_a_middleware_stands(broker: MemoryBroker) -> None:
    """It comes again, and counts as released."""

    async def nacks(delivery: Delivery, call_next: CallNext) -> Any:
        if delivery.deliveries == 1:
            assert delivery.nack(delay=5)
        else:
            await call_next(delivery)

    handler = Seen()
    router = Router(middlewares=[nacks])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
    assert handler.times == [5]
    assert (router.ledger["h"].released, router.ledger["h"].handled) == (1, 1)


async def test_the_handlers_own_do_not_touch_others(broker: MemoryBroker) -> None:
    told: list[str] = []
    one, two = Seen(), Seen()
    router = Router()
    router.add_handler(
        "one",
        Placed,
        one,
        subscriber=broker.subscriber(group="one"),
        middlewares=[Noted("a", told)],
    )
    router.add_handler("two", Placed, two, subscriber=broker.subscriber(group="two"))
    async with router:
        await send(broker, 1)
    assert (one.numbers, two.numbers) == ([1], [1])
    assert told == ["a in", "a out"]


# Timeouts, and what Watermill's middlewares get wrong about them


async def test_the_timeout_includes_the_middlewares(broker: MemoryBroker) -> None:
    """One that hangs is cut as a handler is, before it and after it."""
    told: list[str] = []

    async def hangs(delivery: Delivery, call_next: CallNext) -> Any:
        assert isinstance(delivery.event, Placed)
        if delivery.event.n == 1:
            await asyncio.sleep(100)
        await call_next(delivery)
        await asyncio.sleep(100)

    handler = Seen()
    router = Router(on_failure=ONCE, middlewares=[Noted("a", told), hangs])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), timeout=2)
    async with router:
        await send(broker, 1, 2)
    assert handler.numbers == [2]
    assert now() == 4
    assert router.ledger["h"].timed_out == 2
    assert told == ["a in", "a CancelledError"] * 2


async def test_a_timeout_stops_the_handler(broker: MemoryBroker) -> None:
    """Watermill's only sets a deadline that a handler may ignore: it ran on, and succeeded."""
    ended: list[str] = []

    async def handler(event: Placed) -> None:
        try:
            await asyncio.sleep(0.2)
            ended.append("ran on")
        finally:
            ended.append(f"at {now():g}")

    router = Router(on_failure=ONCE)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), timeout=0.02)
    async with router:
        await send(broker, 1)
    assert ended == ["at 0.02"]
    assert router.ledger["h"].timed_out == 1
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["eventflow_exception"] == "eventflow.errors.HandlerTimeoutError"


async def test_a_retry_after_a_timeout_has_a_deadline_of_its_own(broker: MemoryBroker) -> None:
    """Watermill's retries with the context that is dead already."""
    left: list[float] = []

    async def handler(event: Placed) -> None:
        deadline = current().deadline
        assert deadline is not None
        left.append(round(deadline - now(), 6))
        await asyncio.sleep(10 if len(left) < 3 else 0.9)

    router = Router(on_failure=QUICK)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), timeout=1)
    async with router:
        await send(broker, 1)
    assert left == [1.0, 1.0, 1.0]
    assert router.ledger["h"].handled == 1


# Waits between attempts, and what Watermill's middlewares get wrong about them


@pytest.mark.parametrize("order", ["strict", "relaxed"])
async def test_the_wait_that_is_told_is_the_wait_that_is_waited(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture, order: Any
) -> None:
    """Watermill's hook is told others, and doubles them. With jitter, and through a broker."""
    caplog.set_level("INFO", "eventflow")
    handler = Seen(*[ValueError()] * 5, None)
    policy = FailurePolicy(retry=Retry(attempts=6, initial=0.3, multiplier=2, jitter=0.5))
    router = Router(on_failure=policy, drain_timeout=100)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), order=order)
    async with router:
        await send(broker, 1)
    told = [
        float(line.partition("delay_s=")[2].split()[0]) for line in lines(caplog, "handler_retried")
    ]
    waited = [later - earlier for earlier, later in pairwise(handler.times)]
    assert waited == pytest.approx(told, abs=0.001)
    if order == "strict":
        wanted = [0.3, 0.6, 1.2, 2.4, 4.8]
        # What is told is rounded to a millisecond.
        pairs = zip(wanted, told, strict=True)
        assert all(0.5 * w - 0.001 <= t <= 1.5 * w + 0.001 for w, t in pairs)


@pytest.mark.parametrize(
    ("order", "waits"),
    [("strict", [1.0, 1.5, 2.25, 3.375]), ("relaxed", [1.0, 2.0, 5.0, 5.0])],
)
async def test_a_fractional_multiplier_grows_the_wait(
    broker: MemoryBroker, order: Any, waits: list[float]
) -> None:
    """Watermill's DelayOnError cuts 1.5 to 1, so it waits 1 s for ever.

    Through a broker, waits are rounded up to the next of a few steps.
    """
    handler = Seen(*[ValueError()] * 4, None)
    policy = FailurePolicy(retry=Retry(attempts=5, initial=1, multiplier=1.5, jitter=0))
    router = Router(on_failure=policy, drain_timeout=100)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), order=order)
    async with router:
        await send(broker, 1)
    assert [later - earlier for earlier, later in pairwise(handler.times)] == waits
    assert router.ledger["h"].redelivered == (4 if order == "relaxed" else 0)


async def test_a_delayed_message_lets_others_pass(broker: MemoryBroker) -> None:
    """With ``order="relaxed"`` a long wait happens at the broker, and holds up nobody."""
    handler = Seen(fail=lambda event: ValueError() if event.n == 1 and now() < 5 else None)
    policy = FailurePolicy(retry=Retry(attempts=3, initial=10, jitter=0))
    router = Router(on_failure=policy)
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), order="relaxed"
    )
    async with router:
        await send(broker, 1, 2, 3)
    assert list(zip(handler.numbers, handler.times, strict=True)) == [
        *((1, 0), (2, 0), (3, 0)),
        (1, 10),
    ]


# The rest of what others have middlewares for


async def test_an_exception_is_an_error_with_its_traceback(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was raised: no message is acked for it, and the next one is handled."""
    errors = [
        ZeroDivisionError(),
        RecursionError(),
        MemoryError(),
        ExceptionGroup("x", [OSError()]),
    ]
    handler = Seen(*errors, None)
    router = Router(on_failure=ONCE)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, *range(5))
    assert handler.numbers == [*range(5)]
    assert (router.ledger["h"].failed, router.ledger["h"].handled) == (4, 1)
    assert len(lines(caplog, "handler_failed")) == 4
    assert "ZeroDivisionError" in caplog.text
    assert "support.py" in caplog.text


async def test_errors_that_are_not_worth_a_retry_are_dead_lettered_at_once(
    broker: MemoryBroker,
) -> None:
    """By class: ``Retry(never=…)``; where it happens: ``raise Permanent``. Others are retried."""
    handler = Seen(
        fail=lambda event: {1: KeyError("1"), 2: Permanent("2"), 3: ValueError("3")}.get(event.n)
    )
    policy = FailurePolicy(retry=Retry(attempts=3, initial=1, jitter=0, never=(KeyError,)))
    router = Router(on_failure=policy)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1, 2, 3)
    assert handler.numbers == [1, 2, 3, 3, 3]
    letters = await stored(broker, "orders.dead_letter")
    assert [letter.metadata["reason_poisoned"] for letter in letters] == ["'1'", "2", "3"]


async def test_whoever_is_called_decides_by_the_error_where_it_goes(broker: MemoryBroker) -> None:
    """`CallOnFailure` in the place of a dead letter: another queue, a table, nothing at all."""
    publisher = broker.publisher()

    async def sort(event: Event, error: BaseException, attempts: int) -> None:
        if isinstance(error, ValueError):
            await publisher.publish("for.people", Message(event.to_json(), id=event.id))

    handler = Seen(fail=lambda event: ValueError() if event.n == 1 else KeyError())
    router = Router(on_failure=FailurePolicy(then=CallOnFailure(sort)))
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1, 2)
    (kept,) = await stored(broker, "for.people")
    assert Placed.from_json(kept.payload).n == 1
    assert router.ledger["h"].failed == 2


async def test_correlation_follows_outputs_and_what_is_published_by_hand(
    broker: MemoryBroker,
) -> None:
    """Without a middleware; Watermill's only sees what the handler returns."""
    events = BrokerEventPublisher(broker.publisher())

    async def handler(event: Placed) -> Shipped:
        await events.publish(Shipped(n=1))
        return Shipped(n=2)

    router = Router()
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=broker.subscriber(group="g"),
        publisher=broker.publisher(),
    )
    first = Message(b'{"n":1}', {"name": "Placed", "correlation_id": "request-9"}, id="m-1")
    async with router:
        await broker.publisher().publish("orders", first)
    shipped = await stored(broker, "shipments")
    assert len(shipped) == 2
    for message in shipped:
        assert message.metadata["correlation_id"] == "request-9"
        assert message.metadata["causation_id"] == "m-1"


# One for each handler


class Counting:
    """Makes a middleware for each handler, and is told when that stops."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def for_handler(self, handler: HandlerControls) -> Middleware:
        return Counted(handler.name, self.told)


class Counted:
    def __init__(self, name: str, told: list[str]) -> None:
        self._name, self._told, self._count = name, told, 0

    async def __call__(self, delivery: Delivery, call_next: CallNext) -> Any:
        self._count += 1
        return await call_next(delivery)

    def close(self) -> None:
        self._told.append(f"{self._name}: {self._count}")


async def test_a_factory_makes_one_for_each_handler_and_stay(broker: MemoryBroker) -> None:
    """Not one for each worker; each is closed when its handler stops."""
    counting = Counting()

    async def binds(event: Placed) -> None:
        bind_contextvars(n=event.n)  # so that another worker takes over

    router = Router(middlewares=[counting])
    one = router.add_handler(
        "one", Placed, binds, subscriber=broker.subscriber(group="one"), concurrency=3
    )
    router.add_handler("two", Placed, Seen(), subscriber=broker.subscriber(group="two"))
    async with router:
        await send(broker, 1, 2, 3)
        await asyncio.sleep(1)
        await one.aclose()
        assert counting.told == ["one: 3"]
    assert counting.told == ["one: 3", "two: 3"]
    async with router:
        await send(broker, 4)
    assert counting.told == ["one: 3", "two: 3", "two: 1"]


async def test_a_middleware_may_refuse_a_handler(broker: MemoryBroker) -> None:
    """Nothing of it starts, nor of those that are added with it."""

    class Refuses:
        def for_handler(self, handler: HandlerControls) -> Middleware:
            raise InvalidOptionError(f"not around {handler.name}", option="timeout")

    router = Router()
    router.add_handler("one", Placed, Seen(), subscriber=broker.subscriber(group="one"))
    router.add_handler(
        "two",
        Placed,
        Seen(),
        subscriber=broker.subscriber(group="two"),
        middlewares=[Refuses()],
    )
    with pytest.raises(InvalidOptionError, match="not around two"):
        async with router:
            pytest.fail("it was entered")
    assert router.ledger.handlers == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([Throttle], r"Throttle is a class: make a middleware of it, as in .*Throttle\(…\)"),
        ([object()], "has for_handler"),
        (["throttle"], "has for_handler"),
        (3, "takes a sequence"),
    ],
)
async def test_what_is_no_middleware_is_refused(
    broker: MemoryBroker, given: Any, said: str
) -> None:
    """At the router, at the handler, and one at a time."""
    with pytest.raises(InvalidOptionError, match=said) as caught:
        Router(middlewares=given)
    assert caught.value.option == "middlewares"
    router = Router()
    with pytest.raises(InvalidOptionError, match=said):
        router.add_handler(
            "h",
            Placed,
            Seen(),
            subscriber=broker.subscriber(group="g"),
            middlewares=given,
        )
    for middleware in given if given != 3 else ():
        with pytest.raises(InvalidOptionError, match=said):
            router.add_middleware(middleware)


async def test_an_open_router_takes_no_more(broker: MemoryBroker) -> None:
    """Handlers that run would not have it."""
    router = Router()
    async with router:
        with pytest.raises(RouterError, match="before the router is entered"):
            router.add_middleware(Throttle(rate=1))


# What HandlerControls offers


async def test_a_probe_of_who_has_paused_nothing_starts_nothing(broker: MemoryBroker) -> None:
    """Others' pauses hold; and its own, which comes later, is not weakened by it."""
    seen = Seen()
    controls: list[HandlerControls] = []

    class Knows:
        def for_handler(self, handler: HandlerControls) -> Middleware:
            controls.append(handler)
            return lambda delivery, call_next: call_next(delivery)

    me, other = object(), object()
    router = Router(middlewares=[Knows()])
    router.add_handler("h", Placed, seen, subscriber=broker.subscriber(group="g"))
    async with router:
        (handler,) = controls
        handler.pause(other, "by another")
        handler.probe(me, 5)
        await send(broker, 1)
        await asyncio.sleep(1)
        assert seen.numbers == []
        handler.pause(me, "by me")
        handler.resume(other)
        await asyncio.sleep(1)
        assert seen.numbers == []
        handler.probe(me)
        await asyncio.sleep(1)
        assert seen.numbers == [1]
        handler.resume(me)


@pytest.mark.parametrize(("allowed", "takes"), [(4, 4), (2, 3)], ids=["after it", "within it"])
async def test_untimed_that_outlives_its_attempt_lets_the_next_one_time_out(
    broker: MemoryBroker, allowed: float, takes: float
) -> None:
    """A task that a middleware leaves behind holds it: at its end the next deadline is as it was.

    Within the block no time runs out; what should have, has when the block ends.
    """
    tasks: list[asyncio.Task[None]] = []
    times: list[tuple[float, float]] = []

    class Leaves:
        def for_handler(self, handler: HandlerControls) -> Middleware:
            async def holds() -> None:
                with handler.untimed():
                    await asyncio.sleep(3)

            async def middleware(delivery: Delivery, call_next: CallNext) -> Any:
                if not tasks:
                    tasks.append(asyncio.create_task(holds()))
                    await asyncio.sleep(0)
                return await call_next(delivery)

            return middleware

    async def handler(event: Placed) -> None:
        began = now()
        try:
            await asyncio.sleep(0 if event.n == 1 else 100)
        finally:
            times.append((began, now()))

    router = Router(middlewares=[Leaves()], on_failure=ONCE)
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), timeout=allowed
    )
    async with router:
        await send(broker, 1, 2)
        await asyncio.sleep(10)
    assert times[1][1] - times[1][0] == pytest.approx(takes, abs=0.01)
    assert (router.ledger["h"].handled, router.ledger["h"].timed_out) == (1, 1)


async def test_untimed_and_publish_outputs_do_nothing_where_there_is_nothing_to_do(
    broker: MemoryBroker,
) -> None:
    """Without a timeout, in a task beside the attempt, for a handler without outputs."""
    done: list[bool] = []

    class Careless:
        def for_handler(self, handler: HandlerControls) -> Middleware:
            async def middleware(delivery: Delivery, call_next: CallNext) -> Any:
                with handler.untimed():
                    await asyncio.sleep(50)
                given = await call_next(delivery)
                await handler.publish_outputs(given, delivery)
                done.append(handler.has_timed_out)

            return middleware

    async def handler(event: Placed) -> str:
        return "ignored, as on the bus"

    router = Router(middlewares=[Careless()], drain_timeout=100)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), timeout=None)
    async with router:
        await send(broker, 1)
        assert router.scope is not None
        runner: Any = router.scope.runners["h"]
        assert not runner.has_timed_out
        with runner.untimed():
            pass
    assert done == [False]
    assert router.ledger["h"].handled == 1
