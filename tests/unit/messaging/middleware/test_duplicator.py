"""`Duplicator`: each message twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventflow import FailurePolicy
from eventflow.messaging import Message, Router
from eventflow.messaging.middleware import Duplicator
from tests.unit.messaging.middleware.support import Seen, send
from tests.unit.messaging.support import QUICK, Placed, Shipped, stored

if TYPE_CHECKING:
    from eventflow.brokers.memory import MemoryBroker

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


async def test_the_handler_runs_twice(broker: MemoryBroker) -> None:
    """The message is one all the same, in the counts and for the ack."""
    handler, subscriber = Seen(), broker.subscriber(group="g")
    router = Router(middlewares=[Duplicator()])
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    async with router:
        await send(broker, 1, 2)
    assert handler.numbers == [1, 1, 2, 2]
    assert router.ledger["h"].handled == 2
    assert await subscriber.lag("orders") == 0


async def test_an_error_of_either_run_fails_the_attempt(broker: MemoryBroker) -> None:
    """After the first there is no second."""
    handler = Seen(ValueError(), None, ValueError(), None, None)
    router = Router(on_failure=QUICK, middlewares=[Duplicator()])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
    assert len(handler.numbers) == 5
    assert router.ledger["h"].retried == 2
    assert router.ledger["h"].handled == 1


X, Y = Message(b"x"), Message(b"y")


@pytest.mark.parametrize(
    ("first", "second", "published"),
    [
        (X, Y, 2),
        ([X, Y], (X, Y), 4),
        (iter([X]), iter([X, Y]), 3),
        (Shipped(n=1), X, 2),
        (None, None, 0),
        (X, None, 1),
        (None, X, 1),
        ([], X, 1),
        ("text", X, None),
        (X, 3, None),
        ({"a": "b"}, X, None),
    ],
)
async def test_the_outputs_of_both_runs_are_published(
    broker: MemoryBroker, first: Any, second: Any, published: int | None
) -> None:
    """What can't be published is refused, as without it."""
    given = iter([first, second])

    async def handler(event: Placed) -> Any:
        return next(given)

    router = Router(on_failure=FailurePolicy(), middlewares=[Duplicator()])
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
    assert len(await stored(broker, "out")) == (published or 0)
    assert router.ledger["h"].failed == (published is None)
