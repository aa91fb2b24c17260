"""`EventCapture`: what it records and what its assertions say."""

from __future__ import annotations

import pytest

from eventflow.errors import EventDefinitionError
from eventflow.events import Event, EventPublisher
from eventflow.testing import EventCapture


class Order(Event):
    """A base: it has no topic."""

    order_id: str


class OrderPlaced(Order, topic="orders.placed"):
    amount_cents: int = 0


class OrderShipped(Order, topic="orders.shipped"):
    note: str = ""


async def captured(*events: Event) -> EventCapture:
    capture = EventCapture()
    for event in events:
        await capture.publish(event)
    return capture


PLACED_1 = OrderPlaced(order_id="o-1", amount_cents=100)
PLACED_2 = OrderPlaced(order_id="o-2", amount_cents=200)
SHIPPED_1 = OrderShipped(order_id="o-1")


async def test_it_is_a_publisher_that_records_in_order() -> None:
    """Everything published, oldest first, by class with subclasses."""
    publisher: EventPublisher = (capture := await captured(PLACED_1, SHIPPED_1, PLACED_2))
    assert isinstance(publisher, EventPublisher)
    assert capture.events == (PLACED_1, SHIPPED_1, PLACED_2)
    assert capture.published(OrderPlaced) == (PLACED_1, PLACED_2)
    assert capture.published(Order) == capture.events
    assert capture.published(OrderPlaced, where=lambda e: e.amount_cents > 100) == (PLACED_2,)
    assert repr(capture) == "<EventCapture of 3 event(s)>"
    capture.clear()
    assert not capture.events


async def test_it_refuses_what_every_publisher_refuses() -> None:
    """Not an event, or one of a class without a topic: a test must not pass with those."""
    capture = EventCapture()
    with pytest.raises(EventDefinitionError, match="Order has no topic"):
        await capture.publish(Order(order_id="o-1"))
    with pytest.raises(EventDefinitionError, match="str is not an Event"):
        await capture.publish("orders.placed")  # type: ignore[arg-type]
    assert capture.events == ()


async def test_it_hands_events_on() -> None:
    """To what it wraps; an error from there reaches the publisher."""
    behind = EventCapture()
    capture = EventCapture(behind)
    await capture.publish(PLACED_1)
    assert behind.events == capture.events == (PLACED_1,)

    class Refusing:
        async def publish(self, event: Event) -> None:
            raise LookupError(event)

    refused = EventCapture(Refusing())
    with pytest.raises(LookupError):
        await refused.publish(PLACED_1)
    assert refused.events == (PLACED_1,)


async def test_assert_published_returns_what_it_found() -> None:
    """Once or more, or exactly so often."""
    capture = await captured(PLACED_1, SHIPPED_1, PLACED_2)
    assert capture.assert_published(OrderPlaced) == (PLACED_1, PLACED_2)
    assert capture.assert_published(OrderPlaced, times=2) == (PLACED_1, PLACED_2)
    found = capture.assert_published(Order, where=lambda e: e.order_id == "o-1", times=2)
    assert found == (PLACED_1, SHIPPED_1)
    assert capture.assert_published(OrderShipped, where=lambda e: bool(e.note), times=0) == ()


async def test_assert_published_says_what_was_published_instead() -> None:
    """The message tells what was wanted, what was found, and lists everything."""
    capture = await captured(PLACED_1, SHIPPED_1)
    with pytest.raises(AssertionError) as caught:
        capture.assert_published(OrderPlaced, where=lambda e: e.amount_cents > 100)
    assert str(caught.value).splitlines() == [
        "expected OrderPlaced to be published at least once, found none that fit(s) `where`, of 1",
        "published, oldest first (2):",
        "  1. OrderPlaced (orders.placed) order_id='o-1', amount_cents=100",
        "  2. OrderShipped (orders.shipped) order_id='o-1', note=''",
    ]
    with pytest.raises(AssertionError, match=r"OrderPlaced to be published 2 time\(s\), found 1"):
        capture.assert_published(OrderPlaced, times=2)
    with pytest.raises(AssertionError, match="found none\nnothing was published"):
        EventCapture().assert_published(OrderPlaced)


async def test_assert_not_published() -> None:
    """Of a class, of any class, or of those that fit."""
    capture = await captured(PLACED_1)
    capture.assert_not_published(OrderShipped)
    capture.assert_not_published(OrderPlaced, where=lambda e: e.amount_cents > 100)
    capture.assert_not_published(where=lambda e: e.topic == "orders.shipped")
    EventCapture().assert_not_published()
    with pytest.raises(AssertionError, match="expected no OrderPlaced to be published, found 1\n"):
        capture.assert_not_published(OrderPlaced)
    with pytest.raises(AssertionError, match="expected nothing to be published, found 1\n"):
        capture.assert_not_published()


async def test_assert_published_in_order() -> None:
    """Classes and events, with others between them."""
    capture = await captured(PLACED_1, SHIPPED_1, PLACED_2)
    capture.assert_published_in_order(OrderPlaced, OrderShipped)
    capture.assert_published_in_order(
        PLACED_1, Order, OrderPlaced(order_id="o-2", amount_cents=200)
    )
    capture.assert_published_in_order()
    with pytest.raises(AssertionError) as caught:
        capture.assert_published_in_order(OrderShipped, OrderPlaced, OrderPlaced)
    assert str(caught.value).splitlines()[0] == (
        "expected OrderShipped, OrderPlaced, OrderPlaced in this order; "
        "number 3, OrderPlaced, did not come after OrderPlaced"
    )
    with pytest.raises(AssertionError, match=r"number 1, OrderPlaced .* did not come\n"):
        (await captured(SHIPPED_1)).assert_published_in_order(PLACED_1)


async def test_messages_are_bounded() -> None:
    """Long fields are cut, long lists too, however much was published."""
    long = OrderShipped(order_id="o-1", note="x" * 10_000)
    capture = await captured(*[long] * 1000)
    with pytest.raises(AssertionError) as caught:
        capture.assert_not_published()
    text = str(caught.value)
    assert len(text) < 20_000
    assert text.endswith("  … and 950 more")
    assert "note='xxxx" in text
