"""Publishers and subscribers around others: what they see, in which order, what passes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import InvalidMessageError, InvalidOptionError
from eventflow.messaging import (
    BrokerEventPublisher,
    Message,
    Publisher,
    PublisherDecorator,
    Router,
    Subscriber,
    SubscriberDecorator,
    transform_published,
    transform_received,
)
from tests.unit.messaging.support import Paid, Placed, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


def append(text: bytes) -> Callable[[Message], Message]:
    return lambda message: message.copy(payload=message.payload + text)


def reverse(message: Message) -> Message:
    return message.copy(payload=message.payload[::-1])


async def test_the_outermost_publisher_sees_a_message_first(broker: MemoryBroker) -> None:
    """And the one before the broker last."""
    inner = transform_published(broker.publisher(), append(b"-inner"))
    outer = transform_published(inner, append(b"-outer"))
    message = Message(b"m")
    await outer.publish("orders", message, Message(b"n"))
    payloads = [found.payload for found in await stored(broker, "orders")]
    assert payloads == [b"m-outer-inner", b"n-outer-inner"]
    assert message.payload == b"m"


async def test_the_innermost_subscriber_sees_a_message_first(broker: MemoryBroker) -> None:
    """The other way round than publishers, so that what was packed last is unpacked first."""
    inner = transform_received(broker.subscriber(group="g"), append(b"-inner"))
    outer = transform_received(inner, append(b"-outer"))
    await broker.publisher().publish("orders", Message(b"m"))
    async with outer.subscribe("orders") as deliveries:
        async for delivery in deliveries:
            assert delivery.message.payload == b"m-inner-outer"
            assert delivery.original.payload == b"m"
            break


async def test_acks_and_nacks_pass_through(broker: MemoryBroker) -> None:
    """To the backend's own delivery, which knows nothing of the transform."""
    subscriber = transform_received(broker.subscriber(group="g"), append(b"!"))
    await broker.publisher().publish("orders", Message(b"m"))
    async with subscriber.subscribe("orders", max_in_flight=1) as deliveries:
        (first,) = await deliveries.receive()
        assert first.nack(delay=3, failures=2)
        (again,) = await deliveries.receive()
        assert (again.message.payload, again.failures, again.deliveries) == (b"m!", 2, 2)
        assert again.ack()
        await again.settled()
        assert await subscriber.lag("orders") == 0
        deliveries.pause()
        await broker.publisher().publish("orders", Message(b"n"))
        receiving = asyncio.ensure_future(deliveries.receive())
        await asyncio.sleep(1)
        assert not receiving.done()
        deliveries.resume()
        assert [delivery.message.payload for delivery in await receiving] == [b"n!"]


async def test_everything_else_is_that_of_the_one_inside(broker: MemoryBroker) -> None:
    """They are a publisher and a subscriber like any other."""
    publisher = PublisherDecorator(broker.publisher())
    subscriber = SubscriberDecorator(broker.subscriber(group="g"))
    assert isinstance(publisher, Publisher)
    assert isinstance(subscriber, Subscriber)
    assert publisher.features is subscriber.features is broker.features
    assert subscriber.group == "g"
    assert repr(publisher) == f"PublisherDecorator({publisher.inner!r})"
    assert repr(subscriber) == "SubscriberDecorator(<MemorySubscriber of group 'g'>)"
    await publisher.prepare("orders")
    await subscriber.prepare("orders")
    await publisher.publish("orders", Message(b"m"))
    assert await subscriber.lag("orders") == 1
    assert subscriber.publisher() is subscriber.inner.publisher()
    async with subscriber.subscribe("orders") as deliveries:
        assert len(await deliveries.receive()) == 1


def test_when_they_are_equal() -> None:
    """Same class, same place, same attributes; so that two handlers can share one."""
    broker, other = MemoryBroker(), MemoryBroker()
    one = transform_received(broker.subscriber(group="g"), reverse)
    same = transform_received(broker.subscriber(group="g"), reverse)
    assert one == same
    assert hash(one) == hash(same)
    assert one != transform_received(broker.subscriber(group="g"), append(b"!"))
    assert one != transform_received(broker.subscriber(group="h"), reverse)
    assert one != transform_received(other.subscriber(group="g"), reverse)
    assert one != SubscriberDecorator(broker.subscriber(group="g"))
    assert one != broker.subscriber(group="g")
    assert broker.subscriber(group="g") != one


async def test_handlers_share_a_decorated_subscriber(broker: MemoryBroker) -> None:
    """Two classes of one topic through equal decorators: one subscription."""
    got: list[Any] = []
    router = Router()
    for event in (Placed, Paid):
        subscriber = transform_received(broker.subscriber(group="g"), reverse)
        router.add_handler(event.__name__, event, _keep(got), subscriber=subscriber)
    sent = BrokerEventPublisher(transform_published(broker.publisher(), reverse))
    async with router:
        await sent.publish(Placed(n=1))
        await sent.publish(Paid(n=2))
        await asyncio.sleep(1)
    assert got == [Placed(n=1), Paid(n=2)]
    assert router.ledger.total.handled == 2


def _keep(got: list[Any]) -> Callable[[Any], Any]:
    async def keep(event: Any) -> None:
        got.append(event)

    return keep


async def test_handlers_that_share_messages_share_decorators(broker: MemoryBroker) -> None:
    """Else each would take messages from the other, or get what was transformed otherwise."""
    plain = broker.subscriber(group="g")
    router = Router()
    router.add_handler("placed", Placed, _keep([]), subscriber=plain)
    with pytest.raises(InvalidOptionError, match=r"'placed' and 'paid'.*different decorators"):
        router.add_handler("paid", Paid, _keep([]), subscriber=transform_received(plain, reverse))


@pytest.mark.parametrize("takes", ["event", "message"])
@pytest.mark.parametrize("wrong", ["raises", "returns nothing"])
async def test_what_can_t_be_transformed_is_dead_lettered_as_it_came(
    broker: MemoryBroker, takes: str, wrong: str
) -> None:
    """At once for events, by the handler's policy for messages; and the next one flows."""

    def transform(message: Message) -> Message:
        if message.payload.startswith(b"!"):
            if wrong == "raises":
                raise ValueError("no such key")
            return None  # type: ignore[return-value]
        return message

    got: list[Any] = []

    async def handle(thing: Any) -> None:
        got.append(thing.payload if isinstance(thing, Message) else thing.to_json())

    subscriber = transform_received(broker.subscriber(group="g"), transform)
    router = Router()
    router.add_handler(
        "reads", Placed if takes == "event" else "orders", handle, subscriber=subscriber
    )
    broken = Message(b"!\xff", {"name": "Placed"}, headers=(("native", b"\x00"),))
    async with router:
        await broker.publisher().publish("orders", broken)
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
        await asyncio.sleep(60)
    (letter,) = await stored(broker, "orders.dead_letter")
    assert (letter.id, letter.payload, letter.headers) == (
        broken.id,
        broken.payload,
        broken.headers,
    )
    said = "no such key" if wrong == "raises" else "has to return one, not NoneType"
    assert said in letter.metadata["reason_poisoned"]
    assert got == [Placed(n=1).to_json()]
    assert router.ledger.adds_up


async def test_dead_letters_keep_what_was_received(broker: MemoryBroker) -> None:
    """Not what the transform made of it: that may be decrypted."""

    async def fails(event: Placed) -> None:
        raise ValueError(event.n)

    router = Router()
    subscriber = transform_received(broker.subscriber(group="g"), reverse)
    router.add_handler("fails", Placed, fails, subscriber=subscriber)
    async with router:
        event = Placed(n=1)
        sent = BrokerEventPublisher(transform_published(broker.publisher(), reverse))
        await sent.publish(event)
        await asyncio.sleep(60)
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.payload == event.to_json()[::-1]


async def test_what_a_publisher_s_transform_raises_comes_out(broker: MemoryBroker) -> None:
    """And nothing was sent, not even what came before."""

    def picky(message: Message) -> Message:
        if message.payload == b"bad":
            raise LookupError("no key")
        return message

    with pytest.raises(LookupError, match="no key"):
        await transform_published(broker.publisher(), picky).publish(
            "orders", Message(b"good"), Message(b"bad")
        )
    nothing: Any = transform_published(broker.publisher(), lambda _: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(InvalidMessageError, match="return one, not NoneType"):
        await nothing.publish("orders", Message(b"good"))
    assert await stored(broker, "orders") == []


async def test_a_message_that_can_t_be_read_can_be_shown(broker: MemoryBroker) -> None:
    """In a log line of whoever has it."""

    def fails(message: Message) -> Message:
        raise ValueError("no key")

    await broker.publisher().publish("orders", Message(b"m", id="m-1"))
    async with transform_received(broker.subscriber(group="g"), fails).subscribe("orders") as each:
        (delivery,) = await each.receive()
    assert "'m-1', which could not be read" in repr(delivery.message)
    with pytest.raises(ValueError, match="no key"):
        delivery.message.payload  # noqa: B018 - the access is the test


@pytest.mark.parametrize("transform", [5, None, "verify"], ids=str)
def test_what_can_not_be_a_transform_is_refused(transform: Any) -> None:
    """At once, and not message by message; one that has to be awaited too."""
    made = MemoryBroker()

    async def waits(message: Message) -> Message:
        return message

    refused: tuple[Any, ...] = (transform, waits)
    for given in refused:
        with pytest.raises(InvalidOptionError, match="plain function"):
            transform_received(made.subscriber(group="g"), given)
        with pytest.raises(InvalidOptionError, match="plain function"):
            transform_published(made.publisher(), given)


def test_what_can_not_be_decorated_is_refused() -> None:
    nothing: Any = "orders"
    with pytest.raises(InvalidOptionError, match="what broker"):
        transform_received(nothing, lambda message: message)
    with pytest.raises(InvalidOptionError, match="what broker"):
        transform_published(nothing, lambda message: message)
