"""`Router`: what is acked, when, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import (
    CallOnFailure,
    Event,
    FailurePolicy,
    Listeners,
    Overflow,
    Permanent,
    Retry,
    RetryAfter,
    current,
)
from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import (
    DeadlockError,
    InvalidHandlerError,
    InvalidOptionError,
    InvalidTopicError,
    NotInHandlerError,
    ResourceError,
    RouterError,
    UnsupportedFeatureError,
)
from eventflow.failure import DeadLetter, Log
from eventflow.messaging import BrokerEventPublisher, Message, Router, transform_received
from tests.unit.messaging.support import QUICK, Paid, Placed, Shipped, now, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


class Seen:
    """A handler that remembers what it got."""

    def __init__(self, fail: Callable[[Any], BaseException | None] = lambda _: None) -> None:
        self.events: list[Any] = []
        self.times: list[float] = []
        self._fail = fail

    async def __call__(self, event: Any) -> None:
        self.events.append(event)
        self.times.append(now())
        error = self._fail(event)
        if error is not None:
            raise error


# Success


@pytest.mark.promise("3")
async def test_a_message_is_acked_once_its_handler_returned(broker: MemoryBroker) -> None:
    """And not before: while it runs, the message is still the broker's to deliver again."""
    subscriber = broker.subscriber(group="g")
    gate, lags = asyncio.Event(), list[int]()

    async def handler(event: Placed) -> None:
        lags.append(await subscriber.lag("orders"))
        gate.set()

    router = Router()
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
        await gate.wait()
    assert lags == [1]
    assert await subscriber.lag("orders") == 0
    assert router.ledger["h"].handled == 1
    assert router.ledger.adds_up


async def test_the_event_is_the_one_that_was_published(broker: MemoryBroker) -> None:
    """Id, time, fields, correlation, causation and custom metadata."""
    seen: list[tuple[str, Any, str, str | None, dict[str, str]]] = []

    async def handler(event: Placed) -> None:
        context = current()
        seen.append(
            (
                event.id,
                event.occurred_at,
                context.correlation_id,
                context.causation_id,
                dict(context.metadata),
            )
        )
        assert context.event is event
        assert context.subscription == "h"
        if event.n == 1:
            await publisher.publish(Placed(n=2), metadata={"tenant": "acme"})

    router = Router()
    publisher = BrokerEventPublisher(broker.publisher())
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    first = Placed(n=1)
    async with router:
        await publisher.publish(first)
    assert seen[0] == (first.id, first.occurred_at, first.id, None, {})
    assert seen[1][2:] == (first.id, first.id, {"tenant": "acme"})


async def test_several_classes_on_one_topic_are_told_apart_by_name(broker: MemoryBroker) -> None:
    """One handler for both, or one each: they share the subscription of the group."""
    both, placed, paid = Seen(), Seen(), Seen()
    router = Router()
    shared = broker.subscriber(group="two")
    router.add_handler("both", (Placed, Paid), both, subscriber=broker.subscriber(group="one"))
    router.add_handler("placed", Placed, placed, subscriber=shared)
    router.add_handler("paid", Paid, paid, subscriber=broker.subscriber(group="two"))
    publisher = BrokerEventPublisher(broker.publisher())
    async with router:
        await publisher.publish(Placed(n=1))
        await publisher.publish(Paid(n=2))
    assert both.events == [Placed(n=1), Paid(n=2)]
    assert (placed.events, paid.events) == ([Placed(n=1)], [Paid(n=2)])
    assert all(row.failed == row.skipped == 0 for row in router.ledger.handlers)


async def test_a_message_without_a_name_is_of_the_only_class(broker: MemoryBroker) -> None:
    """With two classes bound nobody can tell: it is dead-lettered."""
    one, two = Seen(), Seen()
    router = Router()
    router.add_handler("one", Placed, one, subscriber=broker.subscriber(group="one"))
    router.add_handler("two", (Placed, Paid), two, subscriber=broker.subscriber(group="two"))
    async with router:
        await broker.publisher().publish("orders", Message(b'{"n":1}'))
    assert one.events == [Placed(n=1)]
    assert two.events == []
    assert router.ledger["two"].undecodable == 1


async def test_a_handler_of_a_topic_gets_the_messages(broker: MemoryBroker) -> None:
    """As they came; `current()` tells of the message, and has no event."""
    seen: list[tuple[Message, str, str]] = []

    async def handler(message: Message) -> None:
        context = current()
        seen.append((message, context.event_id, context.topic))
        with pytest.raises(NotInHandlerError, match="bound to a topic by name"):
            context.event  # noqa: B018

    router = Router()
    router.add_handler("raw", "orders", handler, subscriber=broker.subscriber(group="g"))
    sent = Message(b"\xff\x00", {"a": "b"}, id="m-1", headers=(("h", b"\xfe"),))
    async with router:
        await broker.publisher().publish("orders", sent)
    assert seen == [(sent, "m-1", "orders")]


async def test_a_plain_function_runs_in_a_thread(broker: MemoryBroker) -> None:
    threads: list[tuple[bool, str]] = []

    def handler(event: Placed) -> None:
        threads.append((threading.current_thread() is threading.main_thread(), current().event_id))

    router = Router()
    router.add_handler("sync", Placed, handler, subscriber=broker.subscriber(group="g"))
    event = Placed(n=1)
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(event)
    assert threads == [(False, event.id)]


async def test_the_resource_is_the_second_argument(broker: MemoryBroker) -> None:
    """Open before the first message, closed after the last."""
    seen: list[Any] = []

    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        seen.append("opened")
        yield "db"
        seen.append("closed")

    async def handler(event: Placed, db: str) -> None:
        await asyncio.sleep(1)
        seen.append((event.n, db))

    router = Router()
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), resources=database
    )
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert seen == ["opened", (1, "db"), "closed"]


async def test_a_resource_that_can_not_be_opened_fails_the_entry(broker: MemoryBroker) -> None:
    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        raise OSError("no such host")
        yield ""

    async def handler(event: Placed, db: str) -> None: ...

    router = Router()
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), resources=database
    )
    with pytest.raises(ResourceError, match="no such host"):
        async with router:
            pass
    assert router.ledger.state == "closed"


# Transforms


@pytest.mark.promise("3")
async def test_the_outputs_of_a_transform_are_stored_before_the_ack(broker: MemoryBroker) -> None:
    """Messages or events, one or many, each with what caused it."""
    subscriber = broker.subscriber(group="g")
    lag_when_published: list[int] = []
    original = broker.publisher()

    class Publisher:
        features = original.features

        async def publish(self, topic: str, *messages: Message) -> None:
            lag_when_published.append(await subscriber.lag("orders"))
            await original.publish(topic, *messages)

        async def prepare(self, topic: str) -> None: ...

    async def handler(event: Placed) -> list[Any]:
        return [Shipped(n=event.n), Message(b"raw", id="out")]

    router = Router()
    router.add_handler(
        "h", Placed, handler, subscriber=subscriber, publisher=Publisher(), publish_topic="out"
    )
    event = Placed(n=1)
    async with router:
        await BrokerEventPublisher(original).publish(event)
    shipped, raw = await stored(broker, "out")
    assert lag_when_published == [1]
    assert shipped.metadata["name"] == "Shipped"
    assert raw.id == "out"
    for message in (shipped, raw):
        assert message.metadata["correlation_id"] == event.id
        assert message.metadata["causation_id"] == event.id


async def test_a_failed_publish_of_an_output_is_a_failed_attempt(broker: MemoryBroker) -> None:
    """The message is not acked; the next attempt may succeed."""
    calls: list[int] = []

    class Publisher:
        features = broker.features

        async def publish(self, topic: str, *messages: Message) -> None:
            calls.append(len(messages))
            if len(calls) == 1:
                raise OSError("away")

        async def prepare(self, topic: str) -> None: ...

    async def handler(event: Placed) -> Shipped:
        return Shipped(n=event.n)

    router = Router(on_failure=QUICK)
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), publisher=Publisher()
    )
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert calls == [1, 1]
    assert router.ledger["h"].handled == 1
    assert router.ledger["h"].retried == 1


@pytest.mark.parametrize("given", [Message(b"x"), "text", {"a": 1}, [object()]])
async def test_outputs_that_nobody_takes_are_a_failure(broker: MemoryBroker, given: Any) -> None:
    """A handler of messages without a publisher, or something that can't be published."""

    async def handler(message: Message) -> Any:
        return given

    router = Router(on_failure=FailurePolicy())
    router.add_handler("h", "orders", handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", Message(b"x"))
    assert router.ledger["h"].dead_lettered == 1
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["eventflow_exception"] == "eventflow.errors.RouterError"


async def test_a_message_that_is_passed_on_stays_as_it_came(broker: MemoryBroker) -> None:
    """Its id and metadata: it was caused by what caused the original, and not by itself."""

    async def handler(message: Message) -> Message:
        return message

    router = Router()
    router.add_handler(
        "h",
        "raw",
        handler,
        subscriber=broker.subscriber(group="g"),
        publisher=broker.publisher(),
        publish_topic="copies",
    )
    sent = Message(b"x", {"tenant": "acme", "correlation_id": "c"}, id="m-1", key="k")
    async with router:
        await broker.publisher().publish("raw", sent)
    (copied,) = await stored(broker, "copies")
    assert copied == sent


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("text", "returned str; a transform returns"),
        (b"bytes", "returned bytes; a transform returns"),
        ({"a": 1}, "returned dict; a transform returns"),
        (7, "returned int; a transform returns"),
        ([Shipped(n=1), 7], "returned int among its outputs"),
        (Message(b"x"), "whose topic nobody names"),
    ],
)
async def test_outputs_that_are_none_say_so_in_the_dead_letter(
    broker: MemoryBroker, given: Any, said: str
) -> None:
    """Nothing of them is published, not even what stands before the one that is none."""

    async def handler(event: Placed) -> Any:
        return given

    publisher = broker.publisher()
    router = Router(on_failure=FailurePolicy())
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), publisher=publisher
    )
    async with router:
        await BrokerEventPublisher(publisher).publish(Placed(n=1))
    (letter,) = await stored(broker, "orders.dead_letter")
    assert said in letter.metadata["reason_poisoned"]
    assert await stored(broker, "shipments") == []


# Failure


async def test_an_attempt_that_fails_is_made_again(broker: MemoryBroker) -> None:
    """With the policy's waits; then the message is acked."""
    failures = iter([ValueError("1"), ValueError("2"), None])
    handler = Seen(lambda _: next(failures))
    router = Router(on_failure=QUICK)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    waits = [round(b - a, 6) for a, b in zip(handler.times, handler.times[1:], strict=False)]
    assert waits == [0.1, 0.2]
    assert router.ledger["h"].handled == 1
    assert await stored(broker, "orders.dead_letter") == []


@pytest.mark.fault("RTR-03")
async def test_what_still_fails_is_dead_lettered_and_then_acked(broker: MemoryBroker) -> None:
    """Bytes, key, headers and metadata as they came; Watermill's four keys and ours."""
    handler = Seen(lambda _: ValueError("no stock"))
    router = Router(on_failure=QUICK)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    sent = Message(
        b'{"n": 1, "unknown":  true}',
        {"name": "Placed", "tenant": "acme"},
        id="m-1",
        key="k",
        headers=(("trace", b"\xff\x00"), ("trace", b"2")),
    )
    async with router:
        await broker.publisher().publish("orders", sent)
    assert len(handler.events) == 3
    row = router.ledger["h"]
    assert (row.failed, row.dead_lettered, row.handled, row.retried) == (1, 1, 0, 2)
    assert await broker.subscriber(group="g").lag("orders") == 0
    (letter,) = await stored(broker, "orders.dead_letter")
    assert (letter.id, letter.payload, letter.key) == (sent.id, sent.payload, sent.key)
    assert letter.headers == sent.headers
    assert letter.metadata.items() >= sent.metadata.items()
    assert {name: letter.metadata[name] for name in letter.metadata if "poisoned" in name} == {
        "reason_poisoned": "no stock",
        "topic_poisoned": "orders",
        "handler_poisoned": "h",
        "subscriber_poisoned": "g",
    }
    assert letter.metadata["eventflow_exception"] == "builtins.ValueError"
    assert letter.metadata["eventflow_attempts"] == "3"
    assert letter.metadata["eventflow_deliveries"] == "1"
    assert letter.metadata["eventflow_origin"] == "offset=0"
    assert (
        letter.metadata["eventflow_first_failed_at"]
        <= letter.metadata["eventflow_dead_lettered_at"]
    )


async def test_permanent_failures_are_not_retried(broker: MemoryBroker) -> None:
    handler = Seen(lambda _: Permanent("never"))
    router = Router()
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert len(handler.events) == 1
    assert router.ledger["h"].dead_lettered == 1


async def test_a_handler_names_its_own_wait(broker: MemoryBroker) -> None:
    failures = iter([RetryAfter(7.5), None])
    handler = Seen(lambda _: next(failures))
    router = Router()
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert handler.times[1] - handler.times[0] == pytest.approx(7.5)


async def test_log_ends_a_failure_with_an_ack(broker: MemoryBroker) -> None:
    """An end that the user chose by name."""
    handler = Seen(lambda _: ValueError("no"))
    router = Router(on_failure=FailurePolicy.log())
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
        await broker.publisher().publish("orders", Message(b"nonsense", {"name": "Placed"}))
    row = router.ledger["h"]
    assert (row.failed, row.dead_lettered, row.undecodable) == (2, 0, 1)
    assert await stored(broker, "orders.dead_letter") == []
    assert await broker.subscriber(group="g").lag("orders") == 0


async def test_call_on_failure_ends_it_too(broker: MemoryBroker) -> None:
    """Called with the event, the error and the attempts, and acked when it returned."""
    calls: list[tuple[Event, str, int]] = []

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        calls.append((event, str(error), attempts))

    handler = Seen(lambda _: ValueError("no"))
    router = Router(on_failure=FailurePolicy(retry=Retry(attempts=2), then=CallOnFailure(tell)))
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert calls == [(Placed(n=1), "no", 2)]
    assert router.ledger["h"].failed == 1
    assert router.ledger["h"].dead_lettered == 0


async def test_a_failure_callback_that_raises_is_called_until_it_does_not(
    broker: MemoryBroker,
) -> None:
    """As a dead letter that can't be stored: not acked, the handler pauses, health is red."""
    errors = iter([OSError("away"), OSError("away"), None])
    states: list[str] = []
    subscriber = broker.subscriber(group="g")

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        states.append(router.health().handlers[0].state)
        assert await subscriber.lag("orders") >= 1
        failure = next(errors)
        if failure is not None:
            raise failure

    handler = Seen(lambda event: ValueError("no") if event.n == 1 else None)
    router = Router(on_failure=FailurePolicy(then=CallOnFailure(tell)))
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    async with router:
        publisher = BrokerEventPublisher(broker.publisher())
        await publisher.publish(Placed(n=1))
        await asyncio.sleep(0.1)
        assert not router.is_ready
        await publisher.publish(Placed(n=2))
    assert states == ["running", "stalled", "stalled"]
    assert [event.n for event in handler.events] == [1, 2]


@pytest.mark.promise("3")
async def test_a_dead_letter_that_can_not_be_stored_holds_everything(broker: MemoryBroker) -> None:
    """Nothing is acked, the topic is not read on, health is red; until it can be stored."""
    original = broker.publisher()
    attempts: list[float] = []

    class Away:
        features = original.features

        async def publish(self, topic: str, *messages: Message) -> None:
            attempts.append(now())
            if len(attempts) <= 3:
                raise OSError("away")
            await original.publish(topic, *messages)

        async def prepare(self, topic: str) -> None: ...

    handler = Seen(lambda event: Permanent("no") if event.n == 1 else None)
    subscriber = broker.subscriber(group="g")
    router = Router(on_failure=FailurePolicy(then=DeadLetter("graves", publisher=Away())))
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    publisher = BrokerEventPublisher(original)
    async with router:
        await publisher.publish(Placed(n=1))
        await asyncio.sleep(0.1)
        health = router.health()
        assert not health.is_ready
        assert health.handlers[0].state == "stalled"
        assert "away" in health.handlers[0].reason
        await publisher.publish(Placed(n=2))
        await asyncio.sleep(1)
        assert [event.n for event in handler.events] == [1]
        assert await subscriber.lag("orders") == 2
        await asyncio.sleep(10)
        assert router.is_ready
        assert [event.n for event in handler.events] == [1, 2]
        assert await subscriber.lag("orders") == 0
    assert len(attempts) == 4
    assert len(await stored(broker, "graves")) == 1


async def test_the_topics_of_a_router_can_be_made(broker: MemoryBroker) -> None:
    """What it reads, its outputs and its dead letters, but for those of another broker."""
    subscriber, publisher = broker.subscriber(group="g"), broker.publisher()
    graves = FailurePolicy(then=DeadLetter("graves"))
    elsewhere = FailurePolicy(then=DeadLetter("elsewhere", publisher=publisher))
    router = Router(on_failure=graves)
    assert not router.topics
    router.add_handler("a", (Placed, Shipped), Seen(), subscriber=subscriber)
    router.add_handler(
        "b",
        "raw",
        Seen(),
        subscriber=subscriber,
        publisher=publisher,
        publish_topic="made",
        on_failure=FailurePolicy(),
    )
    router.add_handler("c", "others", Seen(), subscriber=subscriber, on_failure=elsewhere)
    wanted = ("graves", "made", "orders", "others", "raw", "raw.dead_letter", "shipments")
    assert router.topics == wanted
    for _ in range(2):
        await broker.ensure_topics(*router.topics)
    with pytest.raises(InvalidTopicError):
        await broker.ensure_topics("orders", "no topic")
    async with router:
        assert router.topics == wanted


@pytest.mark.parametrize(
    ("options", "option"), [({"order_key": repr}, "order_key"), ({"batch": 10}, "order")]
)
async def test_the_order_of_a_partition_and_what_it_does_not_go_with(
    broker: MemoryBroker, options: dict[str, Any], option: str
) -> None:
    """Refused where there are no partitions, and beside another order."""

    def add(**more: Any) -> None:
        subscriber = broker.subscriber(group="g")
        Router().add_handler("h", Placed, Seen(), subscriber=subscriber, order="partition", **more)

    with pytest.raises(UnsupportedFeatureError) as unsupported:
        add()
    assert unsupported.value.feature == "partitions"
    with pytest.raises(InvalidOptionError) as invalid:
        add(**options)
    assert invalid.value.option == option


async def test_health_tells_of_the_backend_below(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many messages wait, and a problem that may pass: not ready meanwhile, and says why."""
    gate = asyncio.Event()

    async def handle(event: Placed) -> None:
        await gate.wait()

    router = Router()
    subscriber = transform_received(broker.subscriber(group="g"), lambda message: message)
    router.add_handler("h", Placed, handle, subscriber=subscriber, max_in_flight=2)
    publisher = BrokerEventPublisher(broker.publisher())
    async with router:
        for n in range(5):
            await publisher.publish(Placed(n=n))
        await asyncio.sleep(0.1)
        (health,) = router.health().handlers
        assert (health.state, health.lag) == ("running", 5)
        with monkeypatch.context() as patch:
            why = property(lambda _: "it waits for its group")
            patch.setattr("eventflow.brokers.memory.subscriber._MemoryDeliveries.problem", why)
            (health,) = router.health().handlers
            assert (health.state, health.reason) == ("reconnecting", "it waits for its group")
            assert not router.is_ready
        assert router.is_ready
        gate.set()
        await asyncio.sleep(0.1)
        (health,) = router.health().handlers
        assert health.lag == 0


@pytest.mark.fault("RTR-05", "INP-08")
@pytest.mark.parametrize(
    ("payload", "name", "exception"),
    [
        (b"{", "Placed", "EventDecodeError"),
        (b"\xff", "Placed", "EventDecodeError"),
        (b'{"n":"1"}', "Placed", "EventDecodeError"),
        (b"", "Placed", "EventDecodeError"),
        (b' {"n": "1" }\r\n', "Placed", "EventDecodeError"),
        (b"\xef\xbb\xbf{}", "Placed", "EventDecodeError"),
        (b'{"n":1}x', "Placed", "EventDecodeError"),
        (b'{"n":1,"key":"\\ud800"}', "Placed", "EventDecodeError"),
        (b'{"n":' + b"9" * 5_000 + b"}", "Placed", "EventDecodeError"),
        (b'{"n":1,"more":' + b"[" * 10_000, "Placed", "EventDecodeError"),
        (b'{"n":1}', "os.system", "UnknownEventError"),
        (b'{"n":1}', "", "UnknownEventError"),
    ],
)
async def test_what_no_handler_can_get_is_dead_lettered_at_once(
    broker: MemoryBroker, payload: bytes, name: str, exception: str
) -> None:
    """No retry, its bytes as they came, and the next one flows."""
    handler = Seen()
    router = Router()
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", Message(payload, {"name": name}))
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=2))
        await asyncio.sleep(0.01)
        assert handler.events == [Placed(n=2)]
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.payload == payload
    assert letter.metadata["eventflow_exception"].endswith(exception)
    row = router.ledger["h"]
    assert (row.failed, row.undecodable, row.retried, row.handled) == (1, 1, 0, 1)


bound: contextvars.ContextVar[int | None] = contextvars.ContextVar("bound", default=None)


@pytest.mark.parametrize("options", [{}, {"batch": 1}], ids=["single", "batch"])
async def test_what_a_handler_binds_does_not_reach_the_next_message(
    broker: MemoryBroker, options: dict[str, Any]
) -> None:
    found: list[int | None] = []

    async def binds(given: Any) -> None:
        found.append(bound.get())
        bound.set(1)

    router = Router()
    router.add_handler("h", Placed, binds, subscriber=broker.subscriber(group="g"), **options)
    publisher = BrokerEventPublisher(broker.publisher())
    async with router:
        for n in range(3):
            await publisher.publish(Placed(n=n))
        await asyncio.sleep(1)
    assert found == [None, None, None]
    assert bound.get() is None


def keyed(broker: MemoryBroker, handler: Seen) -> Router:
    """Two workers, in order by key; what fails is tried again after 10 s."""
    router = Router(on_failure=FailurePolicy(retry=Retry(attempts=2, initial=10, jitter=0)))
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=broker.subscriber(group="g"),
        concurrency=2,
        order_key=lambda event: event.key,
    )
    return router


async def test_a_retry_keeps_its_lane(broker: MemoryBroker) -> None:
    """What waits for a retry goes before the next one of its key, where another worker is free."""
    errors = [ValueError("no")]
    handler = Seen(lambda event: errors.pop() if errors else None)
    router = keyed(broker, handler)
    publisher = BrokerEventPublisher(broker.publisher())
    async with router:
        for n, key in enumerate(("first", "first", "other")):
            await publisher.publish(Placed(n=n, key=key))
        await asyncio.sleep(20)
        assert [event.n for event in handler.events] == [0, 2, 0, 1]


async def test_unknown_names_can_be_skipped(broker: MemoryBroker) -> None:
    """Where a reader binds only some of a topic's classes; acked, and counted."""
    handler = Seen()
    router = Router()
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), unknown="skip"
    )
    publisher = BrokerEventPublisher(broker.publisher())
    async with router:
        await publisher.publish(Paid(n=1))
        await publisher.publish(Placed(n=2))
    assert handler.events == [Placed(n=2)]
    assert router.ledger["h"].skipped == 1
    assert await broker.subscriber(group="g").lag("orders") == 0


async def test_a_message_that_comes_too_often_is_dead_lettered_unhandled(
    broker: MemoryBroker,
) -> None:
    """A crash guard: it may be what ends its readers each time."""
    subscriber = broker.subscriber(group="g")
    await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    async with subscriber.subscribe("orders") as deliveries:
        for _ in range(3):
            (delivery,) = await deliveries.receive()
            delivery.nack()
    handler = Seen()
    router = Router()
    router.add_handler("h", Placed, handler, subscriber=subscriber, max_deliveries=3)
    async with router:
        pass
    assert handler.events == []
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["eventflow_exception"].endswith("TooManyDeliveriesError")
    assert letter.metadata["eventflow_deliveries"] == "4"


async def test_deliveries_that_ended_as_failures_are_the_retry_policys_to_count(
    broker: MemoryBroker,
) -> None:
    """Retries through the broker are as many as the policy says, beyond ``max_deliveries``."""
    attempts: list[int] = []

    async def handler(event: Placed) -> None:
        attempts.append(current().attempt)
        raise ValueError("again")

    policy = FailurePolicy(retry=Retry(attempts=6, initial=1.0, multiplier=1, jitter=0.0))
    router = Router(on_failure=policy)
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=broker.subscriber(group="g"),
        order="relaxed",
        max_deliveries=3,
    )
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
        await asyncio.sleep(10)
    assert attempts == [1, 2, 3, 4, 5, 6]
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["eventflow_exception"].endswith("ValueError")


@pytest.mark.fault("RTR-06")
async def test_a_handler_over_its_timeout_is_cancelled(broker: MemoryBroker) -> None:
    """Each attempt has a deadline of its own; the last one's reason is counted."""
    times: list[float] = []
    cancelled: list[float] = []

    async def handler(event: Placed) -> None:
        times.append(now())
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.append(now())
            raise

    router = Router(on_failure=QUICK)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), timeout=2.0)
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert [round(b - a, 6) for a, b in zip(times, cancelled, strict=True)] == [2.0, 2.0, 2.0]
    row = router.ledger["h"]
    assert (row.failed, row.timed_out, row.dead_lettered) == (1, 1, 1)
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["eventflow_exception"] == "eventflow.errors.HandlerTimeoutError"


# Order and concurrency


async def test_one_after_another_with_concurrency_1(broker: MemoryBroker) -> None:
    """A retry holds up what comes after it."""
    failures = iter([ValueError("1")])
    handler = Seen(lambda event: next(failures, None) if event.n == 0 else None)
    router = Router(on_failure=QUICK)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        for n in range(4):
            await BrokerEventPublisher(broker.publisher()).publish(Placed(n=n))
    assert [event.n for event in handler.events] == [0, 0, 1, 2, 3]


async def test_a_retry_holds_up_only_its_key(broker: MemoryBroker) -> None:
    """More keys wait for a retry than there is concurrency, and the others go on."""
    handler = Seen(lambda event: ValueError("no") if event.key.startswith("bad") else None)
    router = keyed(broker, handler)
    publisher = BrokerEventPublisher(broker.publisher())
    async with router:
        for n in range(5):
            await publisher.publish(Placed(n=n, key=f"bad{n}"))
        for n in range(5):
            await publisher.publish(Placed(n=n, key="good"))
        await asyncio.sleep(1)
        good = [event.n for event in handler.events if event.key == "good"]
        assert good == [0, 1, 2, 3, 4]


async def test_relaxed_order_sends_long_waits_through_the_broker(broker: MemoryBroker) -> None:
    """The failures are recorded there, so that the budget is one budget."""
    attempts: list[int] = []

    async def handler(event: Placed) -> None:
        attempts.append(current().attempt)
        raise ValueError("no")

    router = Router(
        on_failure=FailurePolicy(retry=Retry(attempts=3, initial=10, multiplier=1, jitter=0))
    )
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), order="relaxed"
    )
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
        await asyncio.sleep(1)
        assert router.statistics()["h"].in_flight == 0, "it waits at the broker"
        assert router.statistics()["h"].released == 1
        await asyncio.sleep(60)
    assert attempts == [1, 2, 3]
    row = router.ledger["h"]
    assert (row.offered, row.released, row.failed, row.redelivered) == (3, 2, 1, 2)
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["eventflow_attempts"] == "3"


# Stopping, adding, pausing


async def test_leaving_what_was_not_entered_is_an_error_at_once() -> None:
    """Watermill's waits for its whole timeout. Leaving twice does no harm."""
    router, began = Router("mine"), now()
    with pytest.raises(RouterError, match="was not entered"):
        await router.__aexit__(None, None, None)
    async with router:
        pass
    await router.__aexit__(None, None, None)
    assert now() == began


@pytest.mark.promise("6")
async def test_leaving_waits_for_what_has_begun(broker: MemoryBroker) -> None:
    done: list[int] = []

    async def handler(event: Placed) -> None:
        await asyncio.sleep(5)
        done.append(event.n)

    router = Router()
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
        await asyncio.sleep(1)
    assert done == [1]
    assert await broker.subscriber(group="g").lag("orders") == 0


async def test_leaving_waits_for_no_more_than_can_come(broker: MemoryBroker) -> None:
    """What is due within the time is handled; what is not, is held elsewhere or paused is left."""
    seen, paused = Seen(), Seen()
    publisher = BrokerEventPublisher(broker.publisher())
    router = Router(drain_timeout=100)
    router.add_handler("h", Placed, seen, subscriber=broker.subscriber(group="g"))
    handler = router.add_handler("p", Placed, paused, subscriber=broker.subscriber(group="p"))
    async with router, broker.subscriber(group="g").subscribe("orders", max_in_flight=1) as other:
        handler.pause()
        await publisher.publish(Placed(n=1), delay=50)
        await publisher.publish(Placed(n=2), delay=5_000)
        await broker.publisher().publish("orders", Message(b'{"n":3}', {"name": "Placed"}))
        held = [delivery.message.payload for delivery in await other.receive()]
        began = now()
        await router.__aexit__(None, None, None)
        assert 49 <= now() - began <= 52
    assert held == [b'{"n":3}']
    assert [event.n for event in seen.events] == [1]
    assert paused.events == []


async def test_a_handler_that_is_cut_comes_again(broker: MemoryBroker) -> None:
    """Not acked, not dead-lettered, not counted as a failure or as a delivery."""
    started = asyncio.Event()

    async def endless(event: Placed) -> None:
        started.set()
        await asyncio.sleep(1_000)

    router = Router(drain_timeout=1.0)
    router.add_handler("h", Placed, endless, subscriber=broker.subscriber(group="g"), timeout=None)
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
        await started.wait()
    assert router.ledger["h"].cancelled == 1
    assert router.ledger.adds_up
    assert await stored(broker, "orders.dead_letter") == []
    async with broker.subscriber(group="g").subscribe("orders") as deliveries:
        (delivery,) = await deliveries.receive()
        assert (delivery.deliveries, delivery.failures) == (1, 0)


async def test_leaving_by_an_error_does_not_drain(broker: MemoryBroker) -> None:
    began = now()
    router = Router()
    started = asyncio.Event()

    async def endless(event: Placed) -> None:
        started.set()
        await asyncio.sleep(1_000)

    router.add_handler("h", Placed, endless, subscriber=broker.subscriber(group="g"))
    await router.__aenter__()
    await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    await started.wait()
    await router.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert now() - began < 1
    assert router.ledger["h"].cancelled == 1


async def test_handlers_are_added_while_the_router_runs(broker: MemoryBroker) -> None:
    handler = Seen()
    router = Router()
    async with router:
        added = router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
        await added.wait_running()
        await router.wait_running()
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert handler.events == [Placed(n=1)]


async def test_stopping_a_handler_stops_nothing_else(broker: MemoryBroker) -> None:
    """Its publisher and the others go on; what it had not begun goes to the others of its group."""
    publisher = broker.publisher()
    out: list[Placed] = []

    async def transform(event: Placed) -> Shipped:
        out.append(event)
        return Shipped(n=event.n)

    router = Router()
    first = router.add_handler(
        "first", Placed, transform, subscriber=broker.subscriber(group="a"), publisher=publisher
    )
    router.add_handler(
        "second", Placed, transform, subscriber=broker.subscriber(group="b"), publisher=publisher
    )
    events = BrokerEventPublisher(publisher)
    async with router:
        await events.publish(Placed(n=1))
        await asyncio.sleep(1)
        await first.aclose()
        await first.aclose()
        assert first.health().state == "stopped"
        await events.publish(Placed(n=2))
        await asyncio.sleep(1)
        router.add_handler("first", Placed, transform, subscriber=broker.subscriber(group="a"))
    assert [event.n for event in out] == [1, 1, 2, 2]
    assert len(await stored(broker, "shipments")) == 3


async def test_a_handler_can_not_wait_for_its_own_end(broker: MemoryBroker) -> None:
    errors: list[BaseException] = []

    async def handler(event: Placed) -> None:
        for call in (added.aclose, lambda: router.__aexit__(None, None, None)):
            try:
                await call()
            except DeadlockError as exc:
                errors.append(exc)

    router = Router()
    added = router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert len(errors) == 2


async def test_a_paused_handler_starts_nothing(broker: MemoryBroker) -> None:
    handler = Seen()
    router = Router()
    added = router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        added.pause()
        added.pause()
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
        await asyncio.sleep(10)
        assert handler.events == []
        assert added.health().state == "paused"
        added.resume()
        added.resume()
        await asyncio.sleep(0.1)
        assert handler.events == [Placed(n=1)]
        assert router.is_ready


async def test_a_router_can_be_entered_again(broker: MemoryBroker) -> None:
    handler = Seen()
    router = Router()
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    for n in range(3):
        async with router:
            await BrokerEventPublisher(broker.publisher()).publish(Placed(n=n))
            with pytest.raises(RouterError, match="open already"):
                await router.__aenter__()
        assert router.ledger["h"].handled == 1
    assert [event.n for event in handler.events] == [0, 1, 2]


async def test_a_handler_is_taken_away_from_a_router_that_does_not_run(
    broker: MemoryBroker,
) -> None:
    """Its name and its class are free again; what needs it running says that it does not."""
    first, second = Seen(), Seen()
    router = Router()
    group = broker.subscriber(group="g")
    added = router.add_handler("h", Placed, first, subscriber=group)
    assert added.health().state == "stopped"
    for call in (added.pause, added.resume):
        with pytest.raises(RouterError, match="its router is not entered"):
            call()
    with pytest.raises(RouterError, match="is not open"):
        await router.wait_running()
    await added.aclose()
    router.add_handler("h", Placed, second, subscriber=group)
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert (first.events, second.events) == ([], [Placed(n=1)])
    with pytest.raises(RouterError, match="is not open"):
        await router.wait_running()


# What is refused


async def test_a_router_that_is_stopping_takes_no_more_handlers(broker: MemoryBroker) -> None:
    """And the class that was refused is not taken: the next stay has a place for it."""
    refused: list[BaseException] = []

    async def handler(event: Placed) -> None:
        await asyncio.sleep(1)
        with pytest.raises(RouterError, match="is stopping: it takes no more handlers") as caught:
            router.add_handler("late", Paid, Seen(), subscriber=broker.subscriber(group="g"))
        refused.append(caught.value)

    router = Router()
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert len(refused) == 1
    router.add_handler("late", Paid, Seen(), subscriber=broker.subscriber(group="g"))
    async with router:
        assert [row.name for row in router.statistics().handlers] == ["h", "late"]


async def test_a_router_belongs_to_the_loop_it_was_entered_in(broker: MemoryBroker) -> None:
    """From another one, in a thread, it can neither be left nor given a handler; it runs on."""
    handler = Seen()
    router = Router()
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))

    async def elsewhere() -> list[str]:
        said: list[str] = []
        with pytest.raises(RouterError) as caught:
            router.add_handler("i", Paid, Seen(), subscriber=broker.subscriber(group="g"))
        said.append(str(caught.value))
        with pytest.raises(RouterError) as caught:
            await router.__aexit__(None, None, None)
        said.append(str(caught.value))
        return said

    async with router:
        said = await asyncio.to_thread(asyncio.run, elsewhere())
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
    assert said == [
        "router 'router' belongs to the event loop it was entered in",
        "router 'router' must be left in the loop it was entered in",
    ]
    assert handler.events == [Placed(n=1)]


async def test_wrong_use_is_refused_where_it_is_said(broker: MemoryBroker) -> None:
    router = Router()
    group = broker.subscriber(group="g")

    async def handler(event: Any) -> None: ...

    class Base(Event):
        n: int

    add: Any = router.add_handler
    include: Any = router.include
    not_a_policy: Any = FailurePolicy
    router.add_handler("h", Placed, handler, subscriber=group)
    other = broker.subscriber(group="other")
    refused: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (
            InvalidOptionError,
            "named 'h' already",
            lambda: add("h", Paid, handler, subscriber=group),
        ),
        (
            InvalidOptionError,
            "would both get Placed",
            lambda: add("i", Placed, handler, subscriber=group),
        ),
        (
            InvalidOptionError,
            "would both get every message",
            lambda: add("i", "orders", handler, subscriber=group),
        ),
        (
            InvalidTopicError,
            "base without a topic",
            lambda: add("i", Base, handler, subscriber=other),
        ),
        (
            InvalidTopicError,
            "belong in patterns",
            lambda: add("i", "orders.*", handler, subscriber=other),
        ),
        (
            InvalidTopicError,
            "one event class or more",
            lambda: add("i", (), handler, subscriber=other),
        ),
        (
            InvalidHandlerError,
            "can't be called",
            lambda: add("i", Placed, lambda: None, subscriber=other),
        ),
        (
            InvalidOptionError,
            "broker.subscriber",
            lambda: add("i", Placed, handler, subscriber="g"),
        ),
        (
            InvalidOptionError,
            "publisher takes what",
            lambda: add("i", Placed, handler, subscriber=other, publisher="p"),
        ),
        (
            InvalidHandlerError,
            "a batch handler has no outputs",
            lambda: add(
                "i", Placed, handler, subscriber=other, batch=3, publisher=broker.publisher()
            ),
        ),
        (
            InvalidTopicError,
            "a subclass of Event",
            lambda: add("i", int, handler, subscriber=other),
        ),
        (
            InvalidOptionError,
            "order_key must be a function",
            lambda: add("i", Placed, handler, subscriber=other, order_key="key"),
        ),
        (
            InvalidOptionError,
            "order must be 'strict' or 'partition'",
            lambda: add("i", Placed, handler, subscriber=other, order="none"),
        ),
        (
            InvalidOptionError,
            "on_failure takes a FailurePolicy",
            lambda: add("i", Placed, handler, subscriber=other, on_failure=Retry()),
        ),
        (
            InvalidOptionError,
            "a collection of Listeners",
            lambda: include([handler], subscriber=other),
        ),
        (
            InvalidOptionError,
            "only with publisher=",
            lambda: add("i", Placed, handler, subscriber=other, publish_topic="x"),
        ),
        (
            InvalidOptionError,
            "unknown option 'retries'",
            lambda: add("i", Placed, handler, subscriber=other, retries=3),
        ),
        (
            InvalidOptionError,
            "Bridge",
            lambda: add("i", Placed, handler, subscriber=other, capacity=3),
        ),
        (
            InvalidOptionError,
            "max_in_flight=3 is too few",
            lambda: add("i", Placed, handler, subscriber=other, concurrency=4, max_in_flight=3),
        ),
        (
            InvalidOptionError,
            "say one of them",
            lambda: add("i", Placed, handler, subscriber=other, order="relaxed", order_key=str),
        ),
        (
            InvalidOptionError,
            "takes a Retry",
            lambda: not_a_policy(retry=3),
        ),
        (
            InvalidOptionError,
            "takes Log",
            lambda: not_a_policy(then=Log),
        ),
        (
            InvalidOptionError,
            "broker.publisher",
            lambda: DeadLetter(publisher="x"),
        ),
        (
            InvalidOptionError,
            "and come back",
            lambda: add(
                "i",
                Placed,
                handler,
                subscriber=other,
                on_failure=FailurePolicy(then=DeadLetter("orders")),
            ),
        ),
    ]
    for error, said, call in refused:
        with pytest.raises(error, match=said):
            call()
    async with router:
        assert [row.name for row in router.statistics().handlers] == ["h"]
        with pytest.raises(RouterError, match="before the router is entered"):
            router.add_middleware(lambda delivery, call_next: call_next(delivery))


@pytest.mark.parametrize("option", ["overflow", "capacity", "latest_key", "block_timeout"])
def test_options_of_a_buffer_are_refused_with_the_way_to_one(option: str) -> None:
    """A router reads from a broker, where messages wait; a bus has buffers, and a bridge to it."""
    add: Any = Router().add_handler

    async def handler(event: Placed) -> None: ...

    subscriber = MemoryBroker().subscriber(group="g")
    with pytest.raises(InvalidOptionError, match=r"Bridge\(subscriber, bus\)") as caught:
        add("h", Placed, handler, subscriber=subscriber, **{option: 1})
    assert caught.value.option == option


async def test_stopping_a_handler_leaves_its_publisher_alone(broker: MemoryBroker) -> None:
    """Watermill closes it, even where another handler shares it."""

    class Recording:
        def __init__(self) -> None:
            self.inner = broker.publisher()
            self.features = self.inner.features
            self.closed = 0

        async def publish(self, topic: str, *messages: Message) -> None:
            await self.inner.publish(topic, *messages)

        async def prepare(self, topic: str) -> None:
            await self.inner.prepare(topic)

        async def aclose(self) -> None:
            self.closed += 1

        close = __aexit__ = aclose

    async def handler(event: Any) -> Shipped:
        return Shipped(n=event.n)

    shared, router = Recording(), Router()
    first = router.add_handler(
        "a", Placed, handler, subscriber=broker.subscriber(group="a"), publisher=shared
    )
    router.add_handler(
        "b", Placed, handler, subscriber=broker.subscriber(group="b"), publisher=shared
    )
    async with router:
        await first.aclose()
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
        await asyncio.sleep(1)
    assert len(await stored(broker, "shipments")) == 1
    assert shared.closed == 0


async def test_listeners_of_a_bus_are_included(broker: MemoryBroker) -> None:
    """A group for each, a base class and a pattern by the classes that there are."""
    seen: list[tuple[str, Event]] = []
    listeners = Listeners()

    class Base(Event):
        n: int

    class Left(Base, topic="side.left"): ...

    class Right(Base, topic="side.right"): ...

    @listeners.on(Base)
    async def base(event: Base) -> None:
        seen.append(("base", event))

    @listeners.on("side.*", name="pattern", concurrency=2)
    async def by_pattern(event: Event) -> None:
        seen.append(("pattern", event))

    @listeners.on(Left)
    async def left(event: Left) -> None:
        seen.append(("left", event))

    router = Router()
    handlers = router.include(
        listeners,
        subscriber=lambda name: broker.subscriber(group=f"app.{name}"),
        events=[Left, Right],
    )
    assert [handler.name for handler in handlers] == [
        "test_listeners_of_a_bus_are_included.<locals>.base".rpartition(".")[2],
        "pattern",
        "left",
    ]
    publisher = BrokerEventPublisher(broker.publisher())
    async with router:
        await publisher.publish(Left(n=1))
        await publisher.publish(Right(n=2))
    assert sorted((name, event.n) for name, event in seen) == [  # type: ignore[attr-defined]
        ("base", 1),
        ("base", 2),
        ("left", 1),
        ("pattern", 1),
        ("pattern", 2),
    ]


async def test_a_base_among_the_classes_is_for_nobody(broker: MemoryBroker) -> None:
    """Nothing is published by it: a pattern stands for the others that fit."""
    seen = Seen()

    class Base(Event):
        n: int

    class Left(Base, topic="side.left"): ...

    listeners = Listeners()
    listeners.subscribe("side.*", seen, name="sides")
    router = Router()
    router.include(listeners, subscriber=broker.subscriber(group="g"), events=[Base, Left])
    async with router:
        await BrokerEventPublisher(broker.publisher()).publish(Left(n=1))
    assert seen.events == [Left(n=1)]


async def test_listeners_that_a_router_can_not_run_are_refused(broker: MemoryBroker) -> None:
    """All or nothing, with the remedy."""

    async def handler(event: Event) -> None: ...

    cases: list[tuple[Any, dict[str, Any], str]] = [
        (Placed, {"overflow": Overflow.DROP_OLDEST}, "Bridge"),
        (Placed, {"capacity": 5}, "Bridge"),
        ("nothing.*", {}, r"events=\["),
    ]
    for selector, options, said in cases:
        listeners = Listeners()
        listeners.subscribe(Shipped, handler)
        listeners.subscribe(selector, handler, **options)
        router = Router()
        with pytest.raises((InvalidOptionError, InvalidTopicError), match=said):
            router.include(listeners, subscriber=broker.subscriber(group="g"))
        assert router.statistics().handlers == ()
        async with router:
            assert router.statistics().handlers == ()
    listeners = Listeners()
    listeners.subscribe(Placed, handler)
    listeners.subscribe(Placed, handler)
    with pytest.raises(InvalidOptionError, match="group of its own"):
        Router().include(listeners, subscriber=broker.subscriber(group="g"))
