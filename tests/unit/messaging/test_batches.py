"""Handlers of batches: how they fill, and an outcome for each item."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import FailurePolicy, Retry
from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import HandlerTimeoutError, InvalidOptionError, RouterError
from eventflow.messaging import Batch, BrokerEventPublisher, Message, Router
from tests.unit.messaging.support import QUICK, Placed, now, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


async def publish(broker: MemoryBroker, *numbers: int) -> None:
    publisher = BrokerEventPublisher(broker.publisher())
    for n in numbers:
        await publisher.publish(Placed(n=n))


async def test_a_batch_is_what_is_there_up_to_its_size(broker: MemoryBroker) -> None:
    """In order; the rest comes with the next one."""
    batches: list[list[int]] = []

    async def handler(batch: Batch[Placed]) -> None:
        batches.append([event.n for event in batch])
        assert len(batch.deliveries) == len(batch)
        assert repr(batch) == f"<Batch of {len(batch)}>"

    router = Router()
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), batch=4, max_wait=1
    )
    await publish(broker, *range(10))
    async with router:
        await asyncio.sleep(0.5)
        assert batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
        await asyncio.sleep(1)
        assert batches[2:] == [[8, 9]], "after max_wait, what is there"
    assert router.ledger["h"].handled == 10
    assert await broker.subscriber(group="g").lag("orders") == 0


async def test_a_batch_waits_for_more_no_longer_than_max_wait(broker: MemoryBroker) -> None:
    """From its first message on, whatever trickles in."""
    times: list[tuple[float, int]] = []

    async def handler(batch: Batch[Placed]) -> None:
        times.append((round(now() - began, 3), len(batch)))

    router = Router()
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), batch=100, max_wait=1
    )
    async with router:
        began = now()
        for n in range(3):
            await publish(broker, n)
            await asyncio.sleep(0.4)
        await asyncio.sleep(5)
    assert times == [(1.0, 3)]


async def test_items_fail_by_themselves(broker: MemoryBroker) -> None:
    """Those that were not named are handled; those that were go through the policy."""
    seen: list[list[int]] = []

    async def handler(batch: Batch[Placed]) -> None:
        seen.append([event.n for event in batch])
        for event in batch:
            if event.n == 1:
                batch.fail(event, ValueError("one"))

    router = Router(on_failure=QUICK)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), batch=10)
    await publish(broker, 0, 1, 2)
    async with router:
        pass
    assert seen == [[0, 1, 2], [1], [1]]
    row = router.ledger["h"]
    assert (row.handled, row.failed, row.dead_lettered) == (2, 1, 1)
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["reason_poisoned"] == "one"


async def test_an_error_fails_what_has_not_succeeded(broker: MemoryBroker) -> None:
    async def handler(batch: Batch[Message]) -> None:
        batch.succeed(batch[0])
        batch.fail(batch[1], ValueError("its own"))
        raise OSError("away")

    router = Router(on_failure=FailurePolicy())
    router.add_handler("h", "orders", handler, subscriber=broker.subscriber(group="g"), batch=3)
    await broker.publisher().publish("orders", *(Message(b"%d" % n) for n in range(3)))
    async with router:
        pass
    row = router.ledger["h"]
    assert (row.handled, row.failed) == (1, 2)
    letters = await stored(broker, "orders.dead_letter")
    assert [(m.payload, m.metadata["reason_poisoned"]) for m in letters] == [
        (b"1", "its own"),
        (b"2", "away"),
    ]


async def test_a_batch_over_its_timeout_is_cancelled(broker: MemoryBroker) -> None:
    async def handler(batch: Batch[Placed]) -> None:
        await asyncio.sleep(100)

    router = Router(on_failure=FailurePolicy())
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), batch=3, timeout=2
    )
    await publish(broker, 0, 1, 2)
    began = now()
    async with router:
        pass
    assert now() - began == pytest.approx(2, abs=0.1)
    row = router.ledger["h"]
    assert (row.failed, row.timed_out) == (3, 3)
    letters = await stored(broker, "orders.dead_letter")
    names = {letter.metadata["eventflow_exception"] for letter in letters}
    assert names == {f"eventflow.errors.{HandlerTimeoutError.__name__}"}


async def test_a_plain_function_gets_its_batch_in_a_thread(broker: MemoryBroker) -> None:
    seen: list[int] = []

    def handler(batch: Batch[Placed]) -> None:
        seen.extend(event.n for event in batch)

    router = Router()
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), batch=3)
    await publish(broker, 0, 1, 2)
    async with router:
        pass
    assert seen == [0, 1, 2]


async def test_a_stop_while_a_batch_fills_gives_it_back(broker: MemoryBroker) -> None:
    """Nothing was begun, so nothing is cut."""

    async def handler(batch: Batch[Placed]) -> None: ...

    router = Router(drain_timeout=0)
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), batch=3, max_wait=60
    )
    await publish(broker, 0, 1)
    async with router:
        await asyncio.sleep(1)
        assert router.statistics()["h"].in_flight == 2
    row = router.ledger["h"]
    assert (row.released, row.cancelled) == (2, 0)
    assert await broker.subscriber(group="g").lag("orders") == 2


async def test_a_stop_in_a_batch_cuts_what_has_not_succeeded(broker: MemoryBroker) -> None:
    started = asyncio.Event()

    async def handler(batch: Batch[Placed]) -> None:
        batch.succeed(batch[0])
        started.set()
        await asyncio.sleep(100)

    router = Router(drain_timeout=0)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), batch=3)
    await publish(broker, 0, 1, 2)
    async with router:
        await started.wait()
    row = router.ledger["h"]
    assert (row.handled, row.cancelled) == (1, 2)
    assert row.adds_up
    assert await broker.subscriber(group="g").lag("orders") == 2


def test_only_its_own_items_have_an_outcome() -> None:
    """The object itself: two events can be equal."""
    one, two = Placed(n=1), Placed(n=1)
    batch = Batch([one], [])
    with pytest.raises(ValueError, match="not one of this batch"):
        batch.fail(two, ValueError())
    with pytest.raises(ValueError, match="not one of this batch"):
        batch.succeed(two)
    assert list(batch[0:1]) == [one]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order_key": len}, "in the order of the broker"),
        ({"concurrency": 2}, "keep no order"),
        ({"middlewares": [print]}, "no middlewares"),
        ({"max_in_flight": 2}, "too few"),
        ({"batch": 0}, "1 or more"),
        ({"max_wait": -1}, "0 or more"),
    ],
)
async def test_options_without_meaning_for_batches_are_refused(
    broker: MemoryBroker, options: dict[str, Any], said: str
) -> None:
    async def handler(batch: Batch[Placed]) -> None: ...

    given: dict[str, Any] = {"batch": 3, **options}
    with pytest.raises(InvalidOptionError, match=said):
        Router().add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), **given)


async def test_middlewares_and_batches_do_not_mix(broker: MemoryBroker) -> None:
    async def handler(batch: Batch[Placed]) -> None: ...

    async def middleware(delivery: Any, call_next: Any) -> Any:
        return await call_next(delivery)

    group = broker.subscriber(group="g")
    with pytest.raises(InvalidOptionError, match="without middlewares"):
        Router(middlewares=[middleware]).add_handler(
            "h", Placed, handler, subscriber=group, batch=3
        )
    router = Router()
    router.add_handler("h", Placed, handler, subscriber=group, batch=3)
    with pytest.raises(RouterError, match="a batch has many"):
        router.add_middleware(middleware)


async def test_relaxed_batches_run_at_once(broker: MemoryBroker) -> None:
    """And a failed item does not hold up the others."""
    running: list[int] = []
    most: list[int] = []

    async def handler(batch: Batch[Placed]) -> None:
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(1)
        running.pop()
        for event in batch:
            if event.n == 0:
                batch.fail(event, ValueError())

    router = Router(on_failure=FailurePolicy(retry=Retry(attempts=2, initial=0.5)))
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=broker.subscriber(group="g"),
        batch=2,
        concurrency=3,
        order="relaxed",
    )
    await publish(broker, *range(6))
    async with router:
        pass
    assert max(most) == 3
    assert router.ledger["h"].handled == 5
