"""`BrokerEventPublisher`: what of a publication is its own, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from eventflow import Event, publishing
from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import (
    EventDefinitionError,
    InvalidMessageError,
    InvalidOptionError,
    UnknownEventError,
)
from eventflow.messaging import BrokerEventPublisher, Router
from tests.unit.messaging.support import Paid, Placed, now, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

E = TypeVar("E", bound=Event)


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


async def test_the_key_is_the_publisher_s_or_the_publication_s(broker: MemoryBroker) -> None:
    keyed = BrokerEventPublisher(broker.publisher(), key=lambda event: event.key or None)
    await keyed.publish(Placed(n=1, key="a"))
    await keyed.publish(Placed(n=2))
    await keyed.publish(Placed(n=3, key="a"), key="b")
    assert [message.key for message in await stored(broker, "orders")] == ["a", None, "b"]


async def test_a_delayed_one_comes_later(broker: MemoryBroker) -> None:
    came: list[float] = []

    async def handler(event: Placed) -> None:
        came.append(now())

    router = Router()
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        began = now()
        await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1), delay=2.5)
        await asyncio.sleep(10)
    assert 2.5 <= came[0] - began <= 3.6


async def test_texts_of_one_publication(broker: MemoryBroker) -> None:
    """They come on top of those of the block it is in."""
    publisher = BrokerEventPublisher(broker.publisher())
    with publishing(metadata={"tenant": "a", "trace": "t"}):
        await publisher.publish(Placed(n=1), metadata={"tenant": "b"})
    (message,) = await stored(broker, "orders")
    assert (message.metadata["tenant"], message.metadata["trace"]) == ("b", "t")
    assert message.metadata["name"] == "Placed"


@pytest.mark.parametrize(
    "name",
    ["name", "correlation_id", "causation_id", "eventflow_failures", "_watermill_delayed_for", ""],
)
async def test_names_that_mean_something_can_not_be_given(broker: MemoryBroker, name: str) -> None:
    publisher = BrokerEventPublisher(broker.publisher())
    with pytest.raises(InvalidOptionError, match="can't be given"):
        await publisher.publish(Placed(n=1), metadata={name: "x"})
    refused = pytest.raises(InvalidOptionError, match="can't be given")
    with refused, publishing(metadata={name: "x"}):
        pass
    assert await stored(broker, "orders") == []


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"delay": "5"}, InvalidOptionError),
        ({"delay": 1e300}, InvalidOptionError),
        ({"delay": 1e12}, InvalidOptionError),
        ({"delay": -1}, InvalidOptionError),
        ({"key": 5}, InvalidMessageError),
        ({"key": "\ud800"}, InvalidMessageError),
        ({"metadata": {"a": 1}}, InvalidOptionError),
        ({"metadata": {"a": "\ud800"}}, InvalidOptionError),
        ({"metadata": "a"}, InvalidOptionError),
    ],
    ids=str,
)
async def test_arguments_that_can_not_be(
    broker: MemoryBroker, given: dict[str, Any], error: type[Exception]
) -> None:
    publisher: Any = BrokerEventPublisher(broker.publisher())
    with pytest.raises(error):
        await publisher.publish(Placed(n=1), **given)
    assert await stored(broker, "orders") == []


async def test_what_it_declares_is_all_it_publishes(broker: MemoryBroker) -> None:
    class Special(Placed, topic="special"):
        pass

    publisher = BrokerEventPublisher(broker.publisher(), events=[Placed])
    assert publisher.events == (Placed,)
    await publisher.publish(Special(n=1))
    with pytest.raises(UnknownEventError, match="Paid is not among"):
        await publisher.publish(Paid(n=1))
    assert await stored(broker, "orders") == []


async def test_what_it_can_not_be_made_of(broker: MemoryBroker) -> None:
    class Base(Event):
        n: int

    make: Any = BrokerEventPublisher
    with pytest.raises(InvalidOptionError, match="what broker"):
        make(broker)
    for option in ("codec", "key"):
        with pytest.raises(InvalidOptionError):
            make(broker.publisher(), **{option: 5})
    with pytest.raises(EventDefinitionError):
        make(broker.publisher(), events=[Base])
    with pytest.raises(EventDefinitionError, match="no topic"):
        await make(broker.publisher()).publish(Base(n=1))


class Reversed:
    """A codec that nobody else reads."""

    def encode(self, event: Event) -> bytes:
        return event.to_json()[::-1]

    def decode(
        self, event_class: type[E], body: bytes, *, event_id: str, occurred_at: str | None
    ) -> E:
        return event_class.from_json(body[::-1], event_id=event_id, occurred_at=occurred_at)


async def test_a_codec_of_one_s_own_goes_both_ways(broker: MemoryBroker) -> None:
    """Publisher, router, and what a transform gives back."""
    handled: list[Any] = []

    async def enrich(event: Placed) -> Paid:
        handled.append(event)
        return Paid(n=event.n + 1)

    router = Router(codec=Reversed())
    router.add_handler(
        "h",
        Placed,
        enrich,
        subscriber=broker.subscriber(group="g"),
        publisher=broker.publisher(),
        publish_topic="paid",
    )
    event = Placed(n=1, key="a")
    async with router:
        await BrokerEventPublisher(broker.publisher(), codec=Reversed()).publish(event)
        await asyncio.sleep(1)
    assert handled == [event]
    assert handled[0].id == event.id
    (given,) = await stored(broker, "paid")
    assert json.loads(given.payload[::-1]) == {"n": 2}
    nothing: Any = 5
    with pytest.raises(InvalidOptionError, match="encode and decode"):
        Router(codec=nothing)


@pytest.mark.parametrize("wrong", [int, "orders", Placed(n=1)])
async def test_what_it_publishes_are_classes_of_events(broker: MemoryBroker, wrong: Any) -> None:
    """Refused where it is said, and not by the first publish."""
    with pytest.raises(EventDefinitionError, match="only events are published"):
        BrokerEventPublisher(broker.publisher(), events=[Placed, wrong])
