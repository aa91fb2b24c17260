"""`Chaos`: what goes wrong, and that it goes wrong the same way again."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import FailurePolicy, Retry
from eventflow.errors import ChaosError, InvalidOptionError
from eventflow.messaging import Router
from eventflow.messaging.middleware import Chaos
from tests.unit.messaging.middleware.support import Seen, send
from tests.unit.messaging.support import Placed, Shipped, now, stored

if TYPE_CHECKING:
    from eventflow.brokers.memory import MemoryBroker
    from eventflow.messaging import HandlerStatistics

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

ONCE = FailurePolicy()
COUNT = 60


class Handler:
    """As much of a handler as chaos needs."""

    def __init__(self, name: str) -> None:
        self.name = name


async def fates(chaos: Chaos, name: str = "h") -> list[tuple[int, float, str]]:
    """What becomes of sixty attempts: calls of the handler, time, and the error."""
    handler: Any = Handler(name)
    delivery: Any = object()
    middleware, found = chaos.for_handler(handler), list[tuple[int, float, str]]()
    for _ in range(COUNT):
        calls, start, error = list[object](), now(), ""

        async def call_next(delivery: object, calls: list[object] = calls) -> None:
            calls.append(delivery)

        try:
            await middleware(delivery, call_next)
        except ChaosError as exc:
            error = str(exc)
        found.append((len(calls), round(now() - start, 6), error))
    return found


async def run(
    broker: MemoryBroker, chaos: Chaos, *, group: str = "g", **options: Any
) -> tuple[Seen, HandlerStatistics]:
    """What a handler sees of sixty messages, which the first group publishes."""
    handler = Seen()
    router = Router(on_failure=ONCE, middlewares=[chaos])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group=group), **options)
    async with router:
        if group == "g":
            await send(broker, *range(COUNT))
    assert router.ledger.adds_up
    return handler, router.ledger["h"]


@pytest.mark.parametrize(
    "shares",
    [
        {"fail": 0.3},
        {"fail_after": 0.3},
        {"duplicate": 0.3},
        {"delay": 0.3, "max_delay": 0.2},
        {"fail": 0.2, "fail_after": 0.2, "duplicate": 0.2, "delay": 0.2, "max_delay": 0.1},
    ],
)
async def test_a_seed_repeats_it(shares: dict[str, Any]) -> None:
    """Attempt by attempt; another seed is another fate, and so is another handler."""
    first = await fates(Chaos(seed=7, **shares))
    assert await fates(Chaos(seed=7, **shares)) == first
    assert await fates(Chaos(seed=8, **shares)) != first
    assert await fates(Chaos(seed=7, **shares), "another") != first
    met = sum(fate != (1, 0.0, "") for fate in first)
    assert COUNT * 0.1 < met < COUNT * 0.9


async def test_shares_of_nothing_and_of_everything(broker: MemoryBroker) -> None:
    """0 never happens, 1 always."""
    untouched, _ = await run(broker, Chaos(seed=1))
    assert untouched.numbers == [*range(COUNT)]
    twice, row = await run(broker, Chaos(seed=1, duplicate=1), group="twice")
    assert twice.numbers == [n for n in range(COUNT) for _ in range(2)]
    assert row.handled == COUNT
    never, row = await run(broker, Chaos(seed=1, fail=1), group="never")
    assert never.numbers == []
    assert row.failed == COUNT
    after, row = await run(broker, Chaos(seed=1, fail_after=1), group="after")
    assert after.numbers == [*range(COUNT)]
    assert row.failed == COUNT
    late, _ = await run(broker, Chaos(seed=1, delay=1, max_delay=0.1), group="late")
    waits = [after - before for before, after in pairwise(late.times)]
    assert all(0 <= wait <= 0.1 for wait in waits)
    assert len(set(waits)) > COUNT / 2


async def test_a_delay_beyond_the_timeout_is_a_timeout(broker: MemoryBroker) -> None:
    """It stands for a handler that is slow."""
    handler, row = await run(broker, Chaos(seed=1, delay=1, max_delay=20), timeout=10)
    assert len(handler.numbers) == row.handled
    assert row.timed_out == row.failed == COUNT - row.handled - row.cancelled - row.released
    assert row.timed_out


async def test_the_error_says_how_to_get_it_again(broker: MemoryBroker) -> None:
    """Seed and number, in the dead letter too; the class is yours to choose."""
    for error in (ChaosError, MemoryError):
        name = f"{error.__module__}.{error.__name__}"
        await run(broker, Chaos(seed=41, fail=1, error=error))
        letter = (await stored(broker, "orders.dead_letter", group=name))[-1]
        assert letter.metadata["eventflow_exception"] == name
        assert "attempt 60 at 'h' with seed 41 fails, before" in letter.metadata["reason_poisoned"]


async def test_handlers_do_not_disturb_each_other(broker: MemoryBroker) -> None:
    """One handler's fate is the same with and without another beside it."""
    alone, _ = await run(broker, Chaos(seed=3, fail=0.5))
    handler, beside = Seen(), Seen()
    router = Router(on_failure=ONCE, middlewares=[Chaos(seed=3, fail=0.5)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="x"))
    router.add_handler("beside", Placed, beside, subscriber=broker.subscriber(group="y"))
    async with router:
        pass
    assert handler.numbers == alone.numbers != beside.numbers


async def test_with_retries_every_message_is_handled(broker: MemoryBroker) -> None:
    """Which is what it is for."""
    handler = Seen()
    chaos = Chaos(seed=5, fail=0.3, fail_after=0.3, duplicate=0.3, delay=0.3)
    policy = FailurePolicy(retry=Retry(attempts=100, initial=0.01))
    router = Router(on_failure=policy, middlewares=[chaos], drain_timeout=600)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    router.add_handler("other", Shipped, Seen(), subscriber=broker.subscriber(group="g"))
    async with router:
        await send(broker, *range(COUNT))
    assert set(handler.numbers) == {*range(COUNT)}
    assert router.ledger["h"].handled == COUNT
    assert len(handler.numbers) > COUNT


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"seed": "x"}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": 1, "fail": 1.1}, "fail"),
        ({"seed": 1, "fail_after": -0.1}, "fail_after"),
        ({"seed": 1, "delay": float("nan")}, "delay"),
        ({"seed": 1, "max_delay": -1}, "max_delay"),
        ({"seed": 1, "duplicate": "half"}, "duplicate"),
        ({"seed": 1, "error": SystemExit}, "error"),
        ({"seed": 1, "error": ValueError("x")}, "error"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Chaos(**options)
    assert caught.value.option == option
