"""`InstantAck`: at most once, and what that costs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import CallOnFailure, FailurePolicy, Retry
from eventflow.errors import InvalidOptionError, SettleError
from eventflow.failure import DeadLetter
from eventflow.messaging import Delivery, Router
from eventflow.messaging.middleware import InstantAck
from tests.unit.messaging.middleware.support import Seen, lines, send
from tests.unit.messaging.support import Placed, stored

if TYPE_CHECKING:
    from eventflow import Event
    from eventflow.brokers.memory import MemoryBroker

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

LOG = FailurePolicy.log()


async def test_the_broker_has_the_ack_before_the_handler_runs(broker: MemoryBroker) -> None:
    subscriber, lags = broker.subscriber(group="g"), list[int]()

    async def handler(event: Placed) -> None:
        lags.append(await subscriber.lag("orders"))

    router = Router(on_failure=LOG, middlewares=[InstantAck()])
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    async with router:
        await send(broker, 1)
    assert lags == [0]
    assert router.ledger["h"].handled == 1


@pytest.mark.parametrize("then", ["log", "dead letter", "call"])
async def test_a_failure_ends_as_the_policy_says(broker: MemoryBroker, then: str) -> None:
    """Once, without another attempt; a timeout too."""
    called: list[int] = []

    async def tell(event: Event, error: BaseException, attempts: int) -> None:
        called.append(attempts)

    policy = {
        "log": LOG,
        "dead letter": FailurePolicy(then=DeadLetter()),
        "call": FailurePolicy(then=CallOnFailure(tell)),
    }[then]
    handler, subscriber = Seen(ValueError(), None), broker.subscriber(group="g")
    router = Router(on_failure=policy, middlewares=[InstantAck()])
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    slow = Seen(takes=10)
    router.add_handler("slow", Placed, slow, subscriber=broker.subscriber(group="s"), timeout=1)
    async with router:
        await send(broker, 1)
    assert (handler.numbers, slow.numbers) == ([1], [1])
    assert [row.failed for row in router.ledger.handlers] == [1, 1]
    assert router.ledger["slow"].timed_out == 1
    assert router.ledger.adds_up
    assert len(await stored(broker, "orders.dead_letter")) == (2 if then == "dead letter" else 0)
    assert called == ([1, 1] if then == "call" else [])


async def test_what_a_stop_cuts_is_lost_and_named(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """What had not begun comes again; what hid the cancellation was handled."""
    subscriber = broker.subscriber(group="g")

    async def handler(event: Placed) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            if event.n == 1:
                raise

    router = Router(on_failure=LOG, drain_timeout=1, middlewares=[InstantAck()])
    router.add_handler("h", Placed, handler, subscriber=subscriber, concurrency=2, timeout=None)
    async with router:
        await send(broker, 1, 2, 3)
    row = router.ledger["h"]
    assert (row.cancelled, row.handled, row.released) == (1, 1, 1)
    assert len(lines(caplog, "message_lost")) == 1
    assert await subscriber.lag("orders") == 1


@pytest.mark.parametrize("confirmed", [True, False])
async def test_an_ack_that_the_broker_did_not_get(
    broker: MemoryBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    confirmed: bool,
) -> None:
    """The message comes again, so it is not handled now; unless nobody asked."""

    async def settled(self: Delivery) -> None:
        raise SettleError("the link was lost")

    monkeypatch.setattr(Delivery, "settled", settled)
    handler = Seen()
    router = Router(on_failure=LOG, middlewares=[InstantAck(confirmed=confirmed)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
    assert handler.numbers == ([] if confirmed else [1])
    assert len(lines(caplog, "ack_failed")) == confirmed


async def test_what_was_given_back_meanwhile_is_left_alone(broker: MemoryBroker) -> None:
    """A middleware further out nacked it: it comes again, and is handled then."""
    calls: list[int | None] = []

    async def nacks(delivery: Delivery, call_next: Any) -> Any:
        calls.append(delivery.deliveries)
        if delivery.deliveries == 1:
            delivery.nack()
        return await call_next(delivery)

    handler = Seen()
    router = Router(on_failure=LOG, middlewares=[nacks, InstantAck()])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, 1)
    assert calls == [1, 2]
    assert handler.numbers == [1]
    assert (router.ledger["h"].released, router.ledger["h"].handled) == (1, 1)


async def test_retries_are_refused(broker: MemoryBroker) -> None:
    """At most once is said twice: by the middleware, and by a policy without retries."""
    router = Router(on_failure=FailurePolicy(retry=Retry()), middlewares=[InstantAck()])
    router.add_handler("h", Placed, Seen(), subscriber=broker.subscriber(group="g"))
    with pytest.raises(InvalidOptionError, match="at most once") as caught:
        async with router:
            pytest.fail("it was entered")
    assert caught.value.option == "on_failure"
    assert router.ledger.state == "closed"
