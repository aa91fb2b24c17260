"""`Deduplicate`: what is handled once, and what is handled all the same."""

from __future__ import annotations

import asyncio
import zlib
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from eventflow import FailurePolicy, Retry
from eventflow.errors import InvalidOptionError
from eventflow.messaging import BrokerEventPublisher, Message, Router
from eventflow.messaging.middleware import (
    Chaos,
    Deduplicate,
    MemoryDeduplicationStore,
    Reservation,
)
from eventflow.testing import VirtualClockLoop
from tests.unit.messaging.middleware.support import Seen, lines
from tests.unit.messaging.support import QUICK, Placed, Shipped, now, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from eventflow.brokers.memory import MemoryBroker
    from eventflow.messaging import Delivery

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

ONCE = FailurePolicy()


def message(message_id: str, n: int = 1) -> Message:
    return Message(b'{"n":%d}' % n, {"name": "Placed"}, id=message_id)


def once(**options: Any) -> Deduplicate:
    return Deduplicate(store=MemoryDeduplicationStore(), **options)


async def test_a_message_that_was_handled_is_not_handled_again(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is acked, logged and counted; other messages are handled."""
    caplog.set_level("INFO", "eventflow")
    handler, deduplicate = Seen(), once()
    subscriber = broker.subscriber(group="g")
    router = Router(middlewares=[deduplicate])
    router.add_handler("h", Placed, handler, subscriber=subscriber)
    async with router:
        await broker.publisher().publish("orders", message("a", 1), message("b", 2))
        await broker.publisher().publish("orders", message("a", 3))
    assert handler.numbers == [1, 2]
    assert deduplicate.skipped == 1
    assert router.ledger["h"].handled == 3
    assert await subscriber.lag("orders") == 0
    (line,) = lines(caplog, "duplicate_skipped")
    assert "event_id='a'" in line


async def test_the_deduplicator_does_not_drop_the_redelivery_of_a_failed_message(
    broker: MemoryBroker,
) -> None:
    """Watermill's records a message before it is handled: its redelivery is acked unhandled."""
    handler = Seen(ValueError("not yet"), None)

    async def give_back(delivery: Delivery, call_next: Any) -> Any:
        try:
            await call_next(delivery)
        except ValueError:
            assert delivery.nack()

    router = Router(middlewares=[give_back, once()])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", message("a"))
    assert handler.numbers == [1, 1]
    assert router.ledger["h"].redelivered == 1
    assert router.ledger["h"].handled == 1


@pytest.mark.parametrize(
    "how", ["raises", "times out", "times out and hides it", "is cut by a stop"]
)
async def test_after_a_failure_it_is_handled_again(broker: MemoryBroker, how: str) -> None:
    """By the next attempt, or by another router with the same store."""
    calls: list[int] = []
    subscriber, deduplicate = broker.subscriber(group="g"), once()

    async def handler(event: Placed) -> None:
        calls.append(event.n)
        if len(calls) > 1:
            return
        if how == "raises":
            raise ValueError
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            if how != "times out and hides it":
                raise

    async def run() -> None:
        router = Router(on_failure=QUICK, middlewares=[deduplicate], drain_timeout=10)
        timeout = 60 if "stop" in how else 5
        router.add_handler("h", Placed, handler, subscriber=subscriber, timeout=timeout)
        async with router:
            pass
        assert router.ledger.adds_up

    await broker.publisher().publish("orders", message("a"))
    await run()
    await run()
    assert calls == [1, 1]
    assert await subscriber.lag("orders") == 0
    assert deduplicate.skipped == 0


async def test_a_duplicate_waits_while_the_first_is_handled(broker: MemoryBroker) -> None:
    """And is passed over once that has succeeded; its wait does not count towards its timeout."""
    handler, deduplicate = Seen(takes=4), once()
    router = Router(on_failure=ONCE, middlewares=[deduplicate])
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), concurrency=3, timeout=4.5
    )
    async with router:
        await broker.publisher().publish("orders", message("a"))
        await asyncio.sleep(3)
        await broker.publisher().publish("orders", message("a"), message("a"))
        await asyncio.sleep(0.5)
        assert router.statistics()["h"].in_flight == 3
    assert handler.numbers == [1]
    assert deduplicate.skipped == 2
    assert router.ledger["h"].handled == 3


async def test_a_duplicate_takes_over_when_the_first_fails(broker: MemoryBroker) -> None:
    """It is not lost: had it been acked meanwhile, nobody would have handled it."""
    handler = Seen(ValueError(), None, takes=4)
    router = Router(on_failure=ONCE, middlewares=[once()])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), concurrency=2)
    async with router:
        await broker.publisher().publish("orders", message("a", 1), message("a", 2))
    assert handler.numbers == [1, 2]
    assert (router.ledger["h"].failed, router.ledger["h"].handled) == (1, 1)


async def test_a_stop_cuts_the_wait_of_a_duplicate(broker: MemoryBroker) -> None:
    """Both come again; nothing is recorded."""
    subscriber, handler = broker.subscriber(group="g"), Seen(takes=100)
    router = Router(drain_timeout=1, middlewares=[once(lease=500)])
    router.add_handler("h", Placed, handler, subscriber=subscriber, concurrency=2, timeout=None)
    async with router:
        await broker.publisher().publish("orders", message("a"), message("a"))
    assert now() == 1
    assert router.ledger["h"].cancelled == 2
    assert await subscriber.lag("orders") == 2


async def test_a_lease_that_is_over_lets_the_next_take_over(broker: MemoryBroker) -> None:
    """Whoever had it may have died with its process."""
    store, handler = MemoryDeduplicationStore(), Seen()
    assert await store.reserve("1:h:a", "dead", lease=20) is Reservation.GRANTED
    router = Router(middlewares=[Deduplicate(store=store)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), timeout=5)
    async with router:
        await broker.publisher().publish("orders", message("a"))
        await asyncio.sleep(30)
    assert len(handler.times) == 1
    assert 20 <= handler.times[0] <= 21
    assert await store.reserve("1:h:a", "late", lease=1) is Reservation.RECORDED


async def test_the_keys_of_two_handlers_can_not_run_together(broker: MemoryBroker) -> None:
    """Ids come from the wire: "orders" + "eu/7" has to be another key than "orders/eu" + "7"."""
    store, first, second = MemoryDeduplicationStore(), Seen(), Seen()
    router = Router(middlewares=[Deduplicate(store=store)])
    router.add_handler("orders", Placed, first, subscriber=broker.subscriber(group="g"))
    router.add_handler("orders/eu", Shipped, second, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", message("eu/7", 1))
        await asyncio.sleep(1)
        shipped = Message(b'{"n":2}', {"name": "Shipped"}, id="7")
        await broker.publisher().publish("shipments", shipped)
    assert (first.numbers, second.numbers) == ([1], [2])


async def test_each_handler_has_its_own_keys(broker: MemoryBroker) -> None:
    """Around a router, with one store: what one handler has done, the other has still to do."""
    one, two, deduplicate = Seen(), Seen(), once()
    router = Router(middlewares=[deduplicate])
    router.add_handler("one", Placed, one, subscriber=broker.subscriber(group="one"))
    router.add_handler("two", Placed, two, subscriber=broker.subscriber(group="two"))
    async with router:
        await broker.publisher().publish("orders", message("a"))
    assert (one.numbers, two.numbers) == ([1], [1])


async def test_the_key_is_yours_to_choose(broker: MemoryBroker) -> None:
    """Of the event, of the message, or of both; it may be any text."""

    def number(delivery: Delivery) -> str:
        assert isinstance(delivery.event, Placed)
        return f"№{delivery.event.n}"

    handler = Seen()
    router = Router(middlewares=[once(key=number)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        publisher = BrokerEventPublisher(broker.publisher())
        for n in (1, 2, 1):
            await publisher.publish(Placed(n=n))
    assert handler.numbers == [1, 2]


@pytest.mark.parametrize(
    "key",
    [
        attrgetter("message.metadata.tenant"),  # raises
        attrgetter("event"),
        attrgetter("event.key"),  # empty
    ],
)
async def test_a_key_that_is_none_is_a_failed_attempt(
    broker: MemoryBroker, key: Callable[[Delivery], Any]
) -> None:
    """It raises, is no text, or empty: else all such messages would be taken for one."""
    handler = Seen()
    router = Router(on_failure=ONCE, middlewares=[once(key=key)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", message("a"), message("b"))
    assert handler.numbers == []
    assert router.ledger["h"].dead_lettered == 2


async def test_payloads_that_a_checksum_confuses_are_both_handled(broker: MemoryBroker) -> None:
    """Watermill's default key is the Adler-32 of the payload. These two have the same."""
    first, second = b'{"n":1,"key":"0020"}', b'{"n":1,"key":"0101"}'
    assert zlib.adler32(first) == zlib.adler32(second)
    handler = Seen()
    router = Router(middlewares=[once()])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        for body in (first, second):
            await broker.publisher().publish("orders", Message(body, {"name": "Placed"}))
    assert handler.numbers == [1, 1]


# Outputs


async def test_outputs_are_stored_before_the_record(broker: MemoryBroker) -> None:
    """A message whose outputs could not be stored is handled again, and then has them."""
    attempts: list[int] = []
    original = broker.publisher()

    class Flaky:
        features = original.features

        async def publish(self, topic: str, *messages: Message) -> None:
            attempts.append(len(messages))
            if len(attempts) == 1:
                raise OSError("away")
            await original.publish(topic, *messages)

        async def prepare(self, topic: str) -> None: ...

    async def handler(event: Placed) -> list[Shipped]:
        return [Shipped(n=event.n)]

    deduplicate = once()
    router = Router(on_failure=QUICK, middlewares=[deduplicate])
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), publisher=Flaky()
    )
    async with router:
        await original.publish("orders", message("a", 7), message("a", 7))
    (shipped,) = await stored(broker, "shipments")
    assert shipped.payload == b'{"n":7}'
    assert shipped.metadata["causation_id"] == "a"
    assert attempts == [1, 1]
    assert deduplicate.skipped == 1


async def test_what_fails_after_the_record_is_not_handled_again(broker: MemoryBroker) -> None:
    """As when a process dies between the handler and the ack, and the message comes again."""
    handler, deduplicate = Seen(), once()
    chaos = Chaos(seed=1, fail_after=0.5)
    always = FailurePolicy(retry=Retry(attempts=50, initial=0, jitter=0))
    router = Router(on_failure=always, middlewares=[chaos, deduplicate])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", *(message(str(n), n) for n in range(30)))
    assert handler.numbers == [*range(30)]
    assert deduplicate.skipped == router.ledger["h"].retried > 5


# The store fails


class Failing(MemoryDeduplicationStore):
    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method

    async def reserve(self, key: str, owner: str, *, lease: float) -> Reservation:
        self._fail("reserve")
        return await super().reserve(key, owner, lease=lease)

    async def record(self, key: str, owner: str) -> None:
        self._fail("record")
        await super().record(key, owner)

    async def release(self, key: str, owner: str) -> None:
        self._fail("release")
        await super().release(key, owner)

    def _fail(self, method: str) -> None:
        if method == self._method:
            raise ConnectionError("store away")


async def test_without_the_store_nothing_is_handled(broker: MemoryBroker) -> None:
    """The attempt has failed; its policy goes on from there."""
    handler = Seen()
    router = Router(on_failure=QUICK, middlewares=[Deduplicate(store=Failing("reserve"))])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", message("a"))
    assert handler.numbers == []
    assert router.ledger["h"].retried == 2
    assert router.ledger["h"].dead_lettered == 1


async def test_what_can_not_be_recorded_is_handled_all_the_same(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is acked, and an error is logged: it may be handled twice."""
    handler = Seen()
    router = Router(middlewares=[Deduplicate(store=Failing("record"))])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", message("a"))
    assert router.ledger["h"].handled == 1
    assert router.ledger["h"].retried == 0
    (line,) = lines(caplog, "deduplication_failed")
    assert "event_id='a'" in line


async def test_what_can_not_be_released_waits_for_the_end_of_its_lease(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler's own error is what the policy gets; the retry is handled, later."""
    handler = Seen(ValueError("mine"), None)
    router = Router(on_failure=QUICK, middlewares=[Deduplicate(store=Failing("release"), lease=10)])
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await broker.publisher().publish("orders", message("a"))
    assert handler.numbers == [1, 1]
    assert 10 <= handler.times[1] <= 11
    assert len(lines(caplog, "deduplication_failed")) == 1
    assert router.ledger["h"].handled == 1


# Options


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"store": object()}, "store"),
        ({"store": MemoryDeduplicationStore(), "key": "id"}, "key"),
        ({"store": MemoryDeduplicationStore(), "lease": 0}, "lease"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Deduplicate(**options)
    assert caught.value.option == option


async def test_a_handler_without_a_timeout_needs_a_lease(broker: MemoryBroker) -> None:
    """Said when it starts, before anything of it does."""
    router = Router(middlewares=[once()])
    handler = Seen()
    async with router:
        with pytest.raises(InvalidOptionError, match="lease="):
            router.add_handler(
                "h", Placed, handler, subscriber=broker.subscriber(group="g"), timeout=None
            )
        assert router.statistics().handlers == ()
        router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
        await router.wait_running()
        await broker.publisher().publish("orders", message("a"))
    assert handler.numbers == [1]


# The store in memory


@pytest.mark.parametrize(
    ("options", "option"), [({"max_keys": 0}, "max_keys"), ({"ttl": 0}, "ttl")]
)
def test_options_of_the_store_out_of_range_are_refused(
    options: dict[str, Any], option: str
) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        MemoryDeduplicationStore(**options)
    assert caught.value.option == option


MAX_KEYS, TTL, LEASE = 3, 100.0, 10.0


class StoreMachine(RuleBasedStateMachine):
    """A store of three keys against the rules, on a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualClockLoop()
        self.store = MemoryDeduplicationStore(max_keys=MAX_KEYS, ttl=TTL)
        self.held: dict[str, tuple[str, float]] = {}
        self.recorded: list[tuple[str, float]] = []
        self.owners = 0

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(what)

    def known(self) -> set[str]:
        now = self.loop.time()
        return {key for key, until in self.recorded[-MAX_KEYS:] if until > now}

    keys = st.sampled_from("abcde")

    @rule(key=keys)
    def reserve(self, key: str) -> None:
        self.owners += 1
        owner, now = f"o{self.owners}", self.loop.time()
        found = self.run(self.store.reserve(key, owner, lease=LEASE))
        if key in self.known():
            assert found is Reservation.RECORDED
        elif key in self.held and self.held[key][1] > now:
            assert found is Reservation.RUNNING
        else:
            assert found is Reservation.GRANTED
            self.held[key] = (owner, now + LEASE)

    @rule(key=keys, mine=st.booleans())
    def release(self, key: str, mine: bool) -> None:
        owner = self.held.get(key, ("nobody", 0.0))[0] if mine else "somebody"
        self.run(self.store.release(key, owner))
        if mine:
            self.held.pop(key, None)

    @rule(key=keys)
    def record(self, key: str) -> None:
        self.run(self.store.record(key, self.held.get(key, ("late", 0.0))[0]))
        self.held.pop(key, None)
        self.recorded = [pair for pair in self.recorded if pair[0] != key]
        self.recorded.append((key, self.loop.time() + TTL))

    @rule(seconds=st.sampled_from([1.0, LEASE, TTL / 2]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @invariant()
    def bounded(self) -> None:
        assert len(self.store) <= MAX_KEYS + len(self.held)
        assert all(a[1] <= b[1] for a, b in pairwise(self.recorded))

    def teardown(self) -> None:
        self.loop.close()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def test_a_handler_that_swallowed_its_timeout_has_not_handled_it(
    broker: MemoryBroker,
) -> None:
    """Its attempt has failed, whatever it returned: the next one is no duplicate."""
    times: list[float] = []

    async def handler(event: Placed) -> None:
        times.append(now())
        if len(times) == 1:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                return

    router = Router(middlewares=[once()], on_failure=QUICK)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), timeout=2)
    async with router:
        await broker.publisher().publish("orders", message("a"))
        await asyncio.sleep(10)
    assert len(times) == 2
    row = router.ledger["h"]
    assert (row.handled, row.retried, row.failed) == (1, 1, 0)
