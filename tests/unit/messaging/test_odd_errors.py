"""Whatever the user's code raises, and wherever: each message ends, and the next comes."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import field_validator

from eventflow import CallOnFailure, Event, FailurePolicy, Retry
from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import BrokerConnectionError, MessageTooLargeError
from eventflow.events import event_name
from eventflow.failure import DeadLetter, Log
from eventflow.messaging import (
    Batch,
    BrokerEventPublisher,
    Delivery,
    Message,
    Router,
    transform_received,
)
from eventflow.messaging.dead_letter import LEFT_OUT
from eventflow.messaging.metadata import FAILURES
from eventflow.messaging.middleware import InstantAck
from eventflow.testing import run_virtual
from tests.unit.messaging.support import QUICK, Paid, Placed, now, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from eventflow.messaging.middleware import CallNext

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

ONCE = FailurePolicy(then=DeadLetter())


class Odd(BaseException):
    """Not an Exception, as some extension modules raise."""


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


async def publish(broker: MemoryBroker, *events: Event) -> None:
    publisher = BrokerEventPublisher(broker.publisher())
    for event in events:
        await publisher.publish(event)
    await asyncio.sleep(1)


@pytest.mark.fault("RTR-05")
@pytest.mark.parametrize("error", [Odd, asyncio.CancelledError, GeneratorExit])
@pytest.mark.promise("2")
async def test_a_validator_that_raises_anything(
    broker: MemoryBroker, error: type[BaseException]
) -> None:
    class Checked(Event, topic="checked"):
        n: int

        @field_validator("n")
        @classmethod
        def check(cls, value: int) -> int:
            if value == 1:
                raise error
            return value

    handled: list[int] = []

    async def handler(event: Checked) -> None:
        handled.append(event.n)

    router = Router()
    router.add_handler("h", Checked, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        for n in range(3):
            body = b'{"n":%d}' % n
            await broker.publisher().publish("checked", Message(body, {"name": "Checked"}))
        await asyncio.sleep(1)
    assert handled == [0, 2]
    assert len(await stored(broker, "checked.dead_letter")) == 1
    assert router.ledger.adds_up


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["handler", "batch", "order_key", "validator"])
def test_what_ends_the_process_gets_its_way(where: str, error: type[BaseException]) -> None:
    """Whoever of the user's raises it; and the message has not been acked: it comes again."""
    broker, router = MemoryBroker(), Router()
    left: list[int] = []

    def check(name: str) -> None:
        if name == where:
            raise error

    class Checked(Event, topic="checked"):
        n: int

        @field_validator("n")
        @classmethod
        def check(cls, value: int) -> int:
            check("validator")
            return value

    async def handler(given: Any) -> None:
        check("batch" if isinstance(given, Batch) else "handler")

    def key(event: Checked) -> int:
        check("order_key")
        return event.n

    async def main() -> None:
        options: dict[str, Any] = {"batch": 1} if where == "batch" else {"order_key": key}
        group = broker.subscriber(group="g")
        router.add_handler("h", Checked, handler, subscriber=group, on_failure=QUICK, **options)
        await broker.__aenter__()
        try:
            async with router:
                await broker.publisher().publish("checked", Message(b'{"n":1}'))
                await asyncio.sleep(5)
        finally:
            left.append(await group.lag("checked"))

    with pytest.raises(error):
        run_virtual(main)
    assert left == [1]
    row = router.ledger["h"]
    assert (row.offered, row.handled, row.failed, row.in_flight) == (1, 0, 0, 0)
    assert row.adds_up


@pytest.mark.parametrize("error", [Odd, asyncio.CancelledError, ValueError])
async def test_an_order_key_that_raises_anything(
    broker: MemoryBroker, error: type[BaseException]
) -> None:
    handled: list[int] = []

    def key(event: Placed) -> int:
        if event.n == 1:
            raise error
        return event.n

    async def handler(event: Placed) -> None:
        handled.append(event.n)

    router, group = Router(), broker.subscriber(group="g")
    router.add_handler("h", Placed, handler, subscriber=group, order_key=key)
    async with router:
        await publish(broker, *[Placed(n=n) for n in range(3)])
    assert handled == [0, 2]
    assert len(await stored(broker, "orders.dead_letter")) == 1
    assert router.ledger.adds_up


async def test_a_handler_of_messages_gives_messages_to_the_rest(broker: MemoryBroker) -> None:
    """Its key function and its failure callback get what it gets."""
    keys: list[str] = []
    called: list[bytes] = []

    def key(message: Message) -> str:
        keys.append(message.metadata["tenant"])
        return keys[-1]

    async def handler(message: Message) -> None:
        raise ValueError

    async def callback(message: Any, error: BaseException, attempts: int) -> None:
        called.append(message.payload)

    router, group = Router(), broker.subscriber(group="g")
    router.add_handler(
        "h",
        "raw",
        handler,
        subscriber=group,
        order_key=key,
        on_failure=FailurePolicy(then=CallOnFailure(callback)),
    )
    async with router:
        await broker.publisher().publish("raw", Message(b"body", {"tenant": "a"}))
        await asyncio.sleep(1)
    assert (keys, called) == (["a"], [b"body"])
    assert await stored(broker, "raw.dead_letter") == []


@pytest.mark.parametrize("batch", [None, 5])
async def test_a_decorator_that_fails_lets_no_message_through(
    broker: MemoryBroker, batch: int | None
) -> None:
    """Not to a handler of messages either, which would not look at the payload first."""
    handled: list[object] = []

    def verify(message: Message) -> Message:
        if message.payload == b"forged":
            raise ValueError("bad signature")
        return message

    async def handler(given: Any) -> None:
        handled.extend(m.payload for m in given) if batch else handled.append(given.payload)

    router: Any = Router()
    checked = transform_received(broker.subscriber(group="g"), verify)
    router.add_handler("h", "raw", handler, subscriber=checked, batch=batch)
    async with router:
        await broker.publisher().publish("raw", Message(b"forged"), Message(b"signed"))
        await asyncio.sleep(1)
    assert handled == [b"signed"]
    (letter,) = await stored(broker, "raw.dead_letter")
    assert letter.payload == b"forged"
    assert letter.metadata["reason_poisoned"] == "bad signature"


async def test_a_handler_that_cancels_itself_is_tried_again(broker: MemoryBroker) -> None:
    """In its place: what comes after it with its key waits."""
    handled: list[int] = []
    cancels = iter([True, True])

    async def handler(event: Placed) -> None:
        task = asyncio.current_task()
        if event.n == 0 and next(cancels, False) and task is not None:
            task.cancel()
            await asyncio.sleep(1)
        handled.append(event.n)

    router, group = Router(), broker.subscriber(group="g")
    router.add_handler(
        "h", Placed, handler, subscriber=group, order_key=lambda e: e.key, on_failure=QUICK
    )
    async with router:
        await publish(broker, *[Placed(n=n, key="a") for n in range(3)])
    assert handled == [0, 1, 2]
    row = router.ledger["h"]
    assert (row.handled, row.retried, row.cancelled) == (3, 2, 0)


async def test_a_cancellation_that_a_task_group_left_is_no_stop(broker: MemoryBroker) -> None:
    """Before Python 3.13 a failing child leaves one behind; the timeout that follows is one."""
    attempts: list[int] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ConnectionError

    async def handler(event: Placed) -> None:
        attempts.append(event.n)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await asyncio.sleep(1)
        except* ConnectionError:
            pass
        if len(attempts) == 1:
            await asyncio.sleep(10)

    router, group = Router(), broker.subscriber(group="g")
    router.add_handler("h", Placed, handler, subscriber=group, timeout=2, on_failure=QUICK)
    async with router:
        await publish(broker, Placed(n=1))
        await asyncio.sleep(5)
    row = router.ledger["h"]
    assert attempts == [1, 1]
    assert (row.handled, row.retried, row.cancelled) == (1, 1, 0)


async def test_a_batch_that_cancels_itself_is_tried_again(broker: MemoryBroker) -> None:
    """Without what it had named as done; another worker takes the place of the one it ended."""
    batches: list[list[int]] = []

    async def handler(batch: Batch[Placed]) -> None:
        batches.append([event.n for event in batch])
        task = asyncio.current_task()
        if len(batches) == 1 and task is not None:
            batch.succeed(batch[0])
            task.cancel()
            await asyncio.sleep(1)

    router, group = Router(), broker.subscriber(group="g")
    router.add_handler("h", Placed, handler, subscriber=group, batch=3, on_failure=QUICK)
    async with router:
        await publish(broker, *[Placed(n=n) for n in range(3)])
    assert batches[0] == [0, 1, 2]
    assert sorted(n for batch in batches[1:] for n in batch) == [1, 2]
    row = router.ledger["h"]
    assert (row.handled, row.retried, row.cancelled, row.restarts) == (3, 2, 0, 1)


@pytest.mark.parametrize("error", [None, ValueError], ids=["returns", "raises"])
async def test_a_batch_that_turns_a_stop_into_something_else(
    broker: MemoryBroker, error: type[Exception] | None
) -> None:
    """It swallowed the cancellation: what it returned is handled; what it raised has failed."""

    async def handler(batch: Batch[Placed]) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            if error is not None:
                raise error from None

    router, group = Router(drain_timeout=1), broker.subscriber(group="g")
    router.add_handler("h", Placed, handler, subscriber=group, batch=3, on_failure=ONCE)
    async with router:
        await publish(broker, *[Placed(n=n) for n in range(3)])
    row = router.ledger["h"]
    assert (row.handled, row.failed, row.cancelled) == ((3, 0, 0) if error is None else (0, 3, 0))
    assert router.ledger.adds_up
    assert await group.lag("orders") == 0


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("cancels", "CancelledError"),
        ("times out", "TimeoutError"),
        ("hangs", "took longer than 2 s"),
    ],
)
async def test_a_callback_that_ends_oddly_is_called_again(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture, outcome: str, said: str
) -> None:
    """A cancellation or timeout of its own is an error as others are; it has the handler's time."""
    calls: list[float] = []

    async def fails(event: Placed) -> None:
        raise ValueError

    async def callback(event: Any, error: BaseException, attempts: int) -> None:
        calls.append(now())
        if len(calls) == 1:
            match outcome:
                case "cancels":
                    raise asyncio.CancelledError
                case "times out":
                    raise TimeoutError
                case _:
                    await asyncio.sleep(100)

    router, group = Router(), broker.subscriber(group="g")
    policy = FailurePolicy(then=CallOnFailure(callback))
    router.add_handler("h", Placed, fails, subscriber=group, on_failure=policy, timeout=2)
    async with router:
        await publish(broker, Placed(n=1))
        await asyncio.sleep(5)
        assert router.is_ready
    assert len(calls) == 2
    assert calls[1] - calls[0] == pytest.approx(2.5 if outcome == "hangs" else 0.5, abs=0.11)
    assert caplog.text.count("eventflow.failure_callback_failed") == 1
    assert said in caplog.text
    assert router.ledger["h"].failed == 1


async def test_a_dead_letter_that_takes_longer_than_the_grace_comes_again(
    broker: MemoryBroker,
) -> None:
    """It is cancelled with the stop, and its message was not acked."""

    async def fails(event: Placed) -> None:
        raise ValueError

    graves = Slow(broker.publisher(), takes=100)
    router, group = Router(drain_timeout=1, cancel_grace=2), broker.subscriber(group="g")
    policy = FailurePolicy(then=DeadLetter(publisher=graves))
    router.add_handler("h", Placed, fails, subscriber=group, on_failure=policy)
    async with router:
        await publish(broker, Placed(n=1))
        began = now()
    assert 3 <= now() - began < 4
    row = router.ledger["h"]
    assert (row.released, row.failed, row.dead_lettered) == (1, 0, 0)
    assert await group.lag("orders") == 1
    assert await stored(broker, "orders.dead_letter") == []


class UnshowableError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


async def test_a_callback_whose_error_can_not_be_shown_is_called_again(
    broker: MemoryBroker,
) -> None:
    calls: list[int] = []

    async def handler(event: Placed) -> None:
        raise ValueError

    async def callback(event: Any, error: BaseException, attempts: int) -> None:
        calls.append(event.n)
        if len(calls) < 3:
            raise UnshowableError

    router, group = Router(), broker.subscriber(group="g")
    policy = FailurePolicy(then=CallOnFailure(callback))
    router.add_handler("h", Placed, handler, subscriber=group, on_failure=policy)
    async with router:
        await publish(broker, Placed(n=1))
        await asyncio.sleep(5)
    assert calls == [1, 1, 1]
    assert router.ledger["h"].failed == 1


async def test_dead_letters_go_where_each_handler_says(broker: MemoryBroker) -> None:
    """Also where two share the subscription of a topic."""

    async def handler(event: Any) -> None:
        raise ValueError

    async with MemoryBroker("other") as other:
        router, group = Router(), broker.subscriber(group="g")
        router.add_handler("placed", Placed, handler, subscriber=group, on_failure=ONCE)
        router.add_handler(
            "paid",
            Paid,
            handler,
            subscriber=group,
            on_failure=FailurePolicy(then=DeadLetter("graves", publisher=other.publisher())),
        )
        async with router:
            await publish(broker, Placed(n=1), Paid(n=2))
        (here,) = await stored(broker, "orders.dead_letter")
        (there,) = await stored(other, "graves")
    assert (here.metadata["name"], there.metadata["name"]) == ("Placed", "Paid")


class Slow:
    """A publisher that takes its time, and has room for small messages alone."""

    def __init__(self, inner: Any, *, limit: int = 10_000, takes: float = 0.0) -> None:
        self._inner = inner
        self._limit = limit
        self._takes = takes
        self.features = inner.features
        self.away = False

    async def publish(self, topic: str, *messages: Message) -> None:
        await asyncio.sleep(self._takes)
        if self.away:
            raise BrokerConnectionError("away")
        for message in messages:
            size = len(message.payload) + sum(map(len, message.metadata.values()))
            if size > self._limit:
                raise MessageTooLargeError("too large")
        await self._inner.publish(topic, *messages)

    async def prepare(self, topic: str) -> None:
        await self._inner.prepare(topic)


async def test_a_dead_letter_that_is_too_large_is_cut_further(broker: MemoryBroker) -> None:
    """The original stays whole; it is what we say about it that can be shorter."""

    async def handler(event: Placed) -> None:
        raise ValueError("long " * 1_000)

    graves = Slow(broker.publisher(), limit=800)
    router, group = Router(), broker.subscriber(group="g")
    policy = FailurePolicy(then=DeadLetter(publisher=graves))
    router.add_handler("h", Placed, handler, subscriber=group, on_failure=policy)
    async with router:
        await publish(broker, Placed(n=1))
        assert router.is_ready
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.payload == b'{"n":1,"key":""}'
    assert len(letter.metadata["reason_poisoned"]) == 50


async def test_a_dead_letter_goes_without_its_metadata_where_there_is_no_room(
    broker: MemoryBroker,
) -> None:
    """One that can't be stored at all would hold up all behind it."""

    async def handler(event: Placed) -> None:
        raise ValueError("no")

    graves = Slow(broker.publisher(), limit=800)
    router, group = Router(), broker.subscriber(group="g")
    policy = FailurePolicy(then=DeadLetter(publisher=graves))
    router.add_handler("h", Placed, handler, subscriber=group, on_failure=policy)
    async with router:
        metadata = {"name": event_name(Placed), "big": "x" * 2_000}
        message = Message(Placed(n=1).to_json(), metadata)
        await broker.publisher().publish("orders", message)
        await publish(broker, Placed(n=2))
        assert router.is_ready
    letters = await stored(broker, "orders.dead_letter")
    bare, whole = sorted(letters, key=lambda letter: letter.id != message.id)
    assert (bare.id, bare.payload) == (message.id, message.payload)
    assert bare.metadata["name"] == event_name(Placed)
    assert bare.metadata[LEFT_OUT] == "1"
    assert LEFT_OUT not in whole.metadata


@pytest.mark.parametrize("by_error", [True, False])
async def test_a_dead_letter_on_its_way_is_not_cut_by_a_stop(
    broker: MemoryBroker, by_error: bool
) -> None:
    """It has the grace that handlers have: else it could be there twice."""

    async def handler(event: Placed) -> None:
        raise ValueError

    graves = Slow(broker.publisher(), takes=3)
    router, group = Router(drain_timeout=1, cancel_grace=5), broker.subscriber(group="g")
    policy = FailurePolicy(then=DeadLetter(publisher=graves))
    router.add_handler("h", Placed, handler, subscriber=group, on_failure=policy)
    await router.__aenter__()
    await publish(broker, Placed(n=1))
    error = ValueError() if by_error else None
    await router.__aexit__(None if error is None else ValueError, error, None)
    assert len(await stored(broker, "orders.dead_letter")) == 1
    assert await group.lag("orders") == 0
    assert router.ledger["h"].dead_lettered == 1


async def test_what_was_acked_first_and_could_not_be_dead_lettered_is_said_to_be_lost(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """`InstantAck` gives up what comes after the ack; the ledger does not call it given back."""

    async def handler(event: Placed) -> None:
        raise ValueError

    graves = Slow(broker.publisher())
    router, group = Router(drain_timeout=1, cancel_grace=1), broker.subscriber(group="g")
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=group,
        middlewares=[InstantAck()],
        on_failure=FailurePolicy(then=DeadLetter(publisher=graves)),
    )
    async with router:
        graves.away = True
        await publish(broker, Placed(n=1))
    assert (router.ledger["h"].failed, router.ledger["h"].released) == (1, 0)
    assert "eventflow.message_lost" in caplog.text


async def test_a_middleware_that_can_not_be_closed_stops_no_stop(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn:
        async def __call__(self, delivery: Delivery, call_next: CallNext) -> Any:
            return await call_next(delivery)

        def close(self) -> None:
            raise OSError("not now")

    async def handler(event: Placed) -> None: ...

    router = Router(middlewares=[Stubborn()])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await publish(broker, Placed(n=1))
    assert router.ledger["h"].handled == 1
    assert "not now" in caplog.text


async def test_an_error_that_time_does_not_mend_is_not_tried_again(broker: MemoryBroker) -> None:
    """Eventflow's own say so by ``retriable``; a policy that names the type overrules it."""
    attempts: list[int] = []

    async def handler(event: Placed) -> None:
        attempts.append(event.n)
        raise MessageTooLargeError("too large for ever")

    router, group = Router(), broker.subscriber(group="g")
    router.add_handler("h", Placed, handler, subscriber=group)
    named = FailurePolicy(
        retry=Retry(attempts=3, initial=0, on=(MessageTooLargeError,)), then=Log()
    )
    router.add_handler(
        "i", Placed, handler, subscriber=broker.subscriber(group="i"), on_failure=named
    )
    async with router:
        await publish(broker, Placed(n=1))
    assert len(attempts) == 1 + 3
    assert (router.ledger["h"].dead_lettered, router.ledger["h"].retried) == (1, 0)


async def test_failures_that_anybody_could_write_do_not_count(broker: MemoryBroker) -> None:
    """The retry budget is what the broker recorded, not what a message says of itself."""
    attempts: list[int] = []

    async def handler(event: Placed) -> None:
        attempts.append(event.n)
        raise ValueError

    router, group = Router(), broker.subscriber(group="g")
    router.add_handler("h", Placed, handler, subscriber=group, on_failure=QUICK)
    async with router:
        foreign = {"name": "Placed", FAILURES: "900000", "eventflow_first_failed_at": "1970-01-01"}
        await broker.publisher().publish("orders", Message(b'{"n":1}', foreign))
        await asyncio.sleep(5)
    assert len(attempts) == 3
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["eventflow_attempts"] == "3"
    assert FAILURES not in letter.metadata, "who reads the dead letter begins anew"
    assert letter.metadata["eventflow_first_failed_at"].startswith("20")


async def test_each_place_of_a_message_that_is_there_twice_fails(broker: MemoryBroker) -> None:
    """One object, published twice, is one object in a batch from this broker."""

    async def handler(batch: Batch[Message]) -> None:
        for message in batch:
            batch.fail(message, ValueError())
        nothing: Any = None
        with pytest.raises(TypeError, match="fails with an error"):
            batch.fail(batch[0], nothing)

    router, group = Router(), broker.subscriber(group="g")
    router.add_handler("h", "raw", handler, subscriber=group, batch=10, on_failure=ONCE)
    message = Message(b"x")
    async with router:
        await broker.publisher().publish("raw", message, message)
        await asyncio.sleep(1)
    assert (router.ledger["h"].failed, router.ledger["h"].handled) == (2, 0)
    assert len(await stored(broker, "raw.dead_letter")) == 2


@pytest.mark.parametrize("failures", [-1, "3", 1.5])
async def test_a_nack_records_whole_numbers(broker: MemoryBroker, failures: Any) -> None:
    async with broker.subscriber(group="g").subscribe("t") as deliveries:
        await broker.publisher().publish("t", Message())
        (delivery,) = await deliveries.receive()
        with pytest.raises(ValueError, match="whole number"):
            delivery.nack(failures=failures)
        assert delivery.nack(failures=1)


async def test_a_subscription_that_comes_and_goes_waits_longer_each_time(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """One that held for longer than it took to come back begins anew."""
    times: list[float] = []
    inner = broker.subscriber(group="g")

    class Flapping:
        features = inner.features
        group = "g"
        holds = 0.0

        def subscribe(self, topic: str, **options: Any) -> Any:
            times.append(now())
            return inner.subscribe(topic, **options)

        async def prepare(self, topic: str) -> None: ...

        def required_topics(self, topic: str) -> tuple[str, ...]:
            return (topic,)

        def publisher(self) -> Any:
            return broker.publisher()

        async def lag(self, topic: str) -> int:
            return 0

    class Breaking(Flapping):
        def subscribe(self, topic: str, **options: Any) -> Any:
            context = super().subscribe(topic, **options)

            class Broken:
                async def __aenter__(self) -> Any:
                    deliveries = await context.__aenter__()

                    async def receive(limit: int = 1) -> Any:
                        await asyncio.sleep(0.1)
                        raise BrokerConnectionError("cut")

                    deliveries.receive = receive
                    return deliveries

                async def __aexit__(self, *error: object) -> None:
                    await context.__aexit__(*error)

            return Broken()

    async def handler(event: Placed) -> None: ...

    router = Router(drain_timeout=0)
    router.add_handler("h", Placed, handler, subscriber=Breaking())
    async with router:
        await asyncio.sleep(200)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits[0] < 1
    assert waits[4] > 5
    assert max(waits) < 40
