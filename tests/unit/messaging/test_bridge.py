"""`Bridge` and `forward`: between a broker and a bus, without loss and without circles."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventflow import (
    Event,
    EventBus,
    FailurePolicy,
    Overflow,
    Permanent,
    Retry,
    Service,
    current,
    publishing,
)
from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import (
    BusNotEnteredError,
    InvalidOptionError,
    InvalidTopicError,
    PublishError,
    RouterError,
)
from eventflow.failure import DeadLetter
from eventflow.messaging import (
    Bridge,
    BrokerEventPublisher,
    Features,
    Message,
    PublisherDecorator,
    Router,
    SettlementState,
    SubscriberDecorator,
    forward,
)
from eventflow.messaging.metadata import format_time
from eventflow.testing import VirtualClockLoop
from tests.unit.messaging.support import Paid, Placed, Shipped, now, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from eventflow.context import EventContext
    from eventflow.messaging import Delivery, Publisher

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


class Seen:
    """A listener that remembers what it got, and how."""

    def __init__(self, do: Callable[[int], Any] = lambda _: None) -> None:
        self.events: list[Any] = []
        self.contexts: list[EventContext] = []
        self.times: list[float] = []
        self._do = do

    async def __call__(self, event: Any) -> None:
        self.events.append(event)
        self.contexts.append(current())
        self.times.append(now())
        waiting = self._do(len(self.events))
        if waiting is not None:
            await waiting

    @property
    def numbers(self) -> list[int]:
        return [event.n for event in self.events]


class Watched(SubscriberDecorator):
    """Keeps every delivery that it saw; and can hide what its backend can do."""

    def __init__(self, broker: MemoryBroker, group: str = "shop", **features: bool) -> None:
        super().__init__(broker.subscriber(group=group))
        self.deliveries: list[Delivery] = []
        self.changed = features

    @property
    def features(self) -> Features:
        return dataclasses.replace(self.inner.features, **self.changed)  # type: ignore[arg-type]

    def subscribe(
        self, topic: str, *, max_in_flight: int | None = None, concurrency: int = 1
    ) -> Any:
        return _watch(self, topic, max_in_flight)

    def states(self) -> list[SettlementState]:
        return [delivery.state for delivery in self.deliveries]


def _watch(watched: Watched, topic: str, max_in_flight: int | None) -> Any:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def subscribe() -> AsyncGenerator[Any]:
        async with watched.inner.subscribe(topic, max_in_flight=max_in_flight) as deliveries:
            receive = deliveries.receive

            async def remember(limit: int = 1) -> Sequence[Delivery]:
                received = await receive(limit)
                watched.deliveries += received
                return received

            deliveries.receive = remember  # type: ignore[method-assign]
            yield deliveries

    return subscribe()


async def publish(broker: MemoryBroker, *events: Event) -> None:
    for event in events:
        await BrokerEventPublisher(broker.publisher()).publish(event)


ACKED, PENDING, NACKED = SettlementState.ACKED, SettlementState.PENDING, SettlementState.NACKED


# From broker to bus


@pytest.mark.promise("3")
async def test_acked_when_every_subscription_is_done(broker: MemoryBroker) -> None:
    """Not before the slowest has handled it, and the unlucky one has given up."""
    gate = asyncio.Event()
    watched, slow = Watched(broker), Seen(lambda _: gate.wait())
    quick = Seen()

    async def fails(event: Placed) -> None:
        raise ValueError(event.n)

    async with EventBus() as bus:
        bus.subscribe(Placed, quick)
        bus.subscribe(Placed, slow, timeout=None)
        bus.subscribe(Placed, fails, on_failure=FailurePolicy(retry=Retry(attempts=3)))
        async with Bridge(watched, bus, events=[Placed]) as bridge:
            await publish(broker, Placed(n=1))
            await asyncio.sleep(60)
            assert (quick.numbers, slow.numbers) == ([1], [1])
            assert watched.states() == [PENDING]
            gate.set()
            await asyncio.sleep(0.1)
            assert watched.states() == [ACKED]
        assert bridge.ledger.total.handled == 1
        assert bridge.ledger.adds_up


async def test_what_came_along_is_there(broker: MemoryBroker) -> None:
    """Id, time, correlation, causation and metadata are those of the publication."""
    seen, cause = Seen(), Paid(n=7)
    event = Placed(n=1, key="a")
    async with EventBus() as bus, EventBus() as elsewhere:
        bus.subscribe(Placed, seen)
        published = BrokerEventPublisher(broker.publisher())

        async def on_paid(paid: Paid) -> None:
            with publishing(metadata={"tenant": "acme"}):
                await published.publish(event)

        elsewhere.subscribe(Paid, on_paid)
        async with Bridge(broker.subscriber(group="shop"), bus, events=[Placed, Paid]):
            with publishing(correlation_id="request-1"):
                await elsewhere.publish(cause)
            await asyncio.sleep(1)
    assert seen.events == [event]
    got, context = seen.events[0], seen.contexts[0]
    assert (got.id, got.occurred_at) == (event.id, event.occurred_at)
    assert context.correlation_id == "request-1"
    assert context.causation_id == cause.id
    assert dict(context.metadata) == {"tenant": "acme"}
    with pytest.raises(TypeError):
        context.metadata["tenant"] = "other"  # type: ignore[index]


async def test_order_is_kept_for_each_subscription(broker: MemoryBroker) -> None:
    """Also by one that is slow, and with one that has no room at times; all are in flight."""
    slow, quick = Seen(lambda _: asyncio.sleep(0.1)), Seen()
    async with EventBus() as bus:
        bus.subscribe(Placed, slow, capacity=3, block_timeout=100)
        bus.subscribe(Placed, quick)
        async with Bridge(broker.subscriber(group="shop"), bus, events=[Placed], max_in_flight=20):
            await publish(broker, *(Placed(n=n, key=str(n % 3)) for n in range(100)))
            await asyncio.sleep(1)
            assert len(quick.events) >= 20
    assert slow.numbers == quick.numbers == [*range(100)]


async def test_no_more_than_max_in_flight(broker: MemoryBroker) -> None:
    """The rest waits at the broker."""
    gate = asyncio.Event()
    seen = Seen(lambda _: gate.wait())
    async with EventBus() as bus:
        bus.subscribe(Placed, seen, timeout=None)
        bridge = Bridge(broker.subscriber(group="shop"), bus, events=[Placed], max_in_flight=3)
        async with bridge:
            await publish(broker, *(Placed(n=n) for n in range(10)))
            await asyncio.sleep(1)
            assert bus.statistics().total.offered == 3
            gate.set()
    assert seen.numbers == [*range(10)]


@pytest.mark.promise("3")
async def test_what_a_subscription_drops_comes_again_later(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it has room it has everything; in between it waits, longer each time."""
    caplog.set_level("INFO", "eventflow")
    watched, slow, other = Watched(broker), Seen(lambda _: asyncio.sleep(3)), Seen()
    async with EventBus() as bus:
        bus.subscribe(Placed, slow, overflow=Overflow.DROP_NEWEST, capacity=1)
        bus.subscribe(Placed, other)
        async with Bridge(watched, bus, events=[Placed]):
            await publish(broker, *(Placed(n=n) for n in range(5)))
            await asyncio.sleep(60)
            assert sorted(slow.numbers) == [*range(5)]
            assert len(watched.deliveries) < 5 * 4
    assert sorted({*other.numbers}) == [*range(5)]
    assert watched.states().count(ACKED) == 5
    given_back = [r.getMessage() for r in caplog.records if "event_given_back" in r.getMessage()]
    assert len(given_back) == watched.states().count(NACKED) > 0
    assert {line.rpartition("delay_s=")[2].split()[0] for line in given_back} <= {
        "1",
        "2",
        "5",
        "10",
    }


async def test_without_nack_delay_the_bridge_waits_itself(broker: MemoryBroker) -> None:
    """No hot loop where the backend would deliver at once."""
    watched = Watched(broker, nack_delay=False)
    attempts: list[float] = []

    async def slow(event: Placed) -> None:
        attempts.append(now())
        await asyncio.sleep(10)

    async with EventBus() as bus:
        bus.subscribe(Placed, slow, overflow=Overflow.DROP_NEWEST, capacity=1)
        async with Bridge(watched, bus, events=[Placed]):
            await publish(broker, *(Placed(n=n) for n in range(3)))
            await asyncio.sleep(60)
            assert len(attempts) == 3
    assert len(watched.deliveries) < 10


async def test_what_never_finds_room_is_dead_lettered(broker: MemoryBroker) -> None:
    """After ``max_deliveries``, as everything that comes too often."""
    async with EventBus(drain_timeout=0) as bus:
        hang = Seen(lambda _: asyncio.sleep(100_000))
        bus.subscribe(Placed, hang, overflow=Overflow.RAISE, capacity=1, timeout=None)
        bridge = Bridge(
            broker.subscriber(group="shop"),
            bus,
            events=[Placed],
            max_deliveries=3,
            dead_letter=DeadLetter(topic="lost"),
            drain_timeout=1,
        )
        async with bridge:
            await publish(broker, *(Placed(n=n) for n in range(3)))
            await asyncio.sleep(1_000)
            assert [message.payload for message in await stored(broker, "lost")] == [
                b'{"n":2,"key":""}'
            ]
            assert bridge.statistics().total.dead_lettered == 1


@pytest.mark.promise("3")
async def test_a_bus_that_stops_first_gives_everything_back(broker: MemoryBroker) -> None:
    """What its stop cut is not acked, and comes again to whoever is there next."""
    watched = Watched(broker)
    bus = EventBus(drain_timeout=1)
    hang = Seen(lambda _: asyncio.sleep(1_000))
    await bus.__aenter__()
    bus.subscribe(Placed, hang, timeout=None)
    bridge = Bridge(watched, bus, events=[Placed], max_in_flight=5)
    began = now()
    async with bridge:
        assert bridge.is_ready
        await publish(broker, *(Placed(n=n) for n in range(8)))
        await asyncio.sleep(1)
        await bus.__aexit__(None, None, None)
        assert not bridge.is_ready
        await asyncio.sleep(5)
    assert now() - began < 20, "nothing can end any more, so the stop does not wait for it"
    assert ACKED not in watched.states()
    assert bridge.ledger.adds_up
    assert len(watched.deliveries) < 30

    after = Seen()
    async with EventBus() as second:
        second.subscribe(Placed, after)
        async with Bridge(watched.inner, second, events=[Placed]):
            await asyncio.sleep(60)
    assert sorted({*after.numbers}) == [*range(8)]


async def test_a_bridge_that_is_cut_gives_back_what_is_not_done(broker: MemoryBroker) -> None:
    """Left by an error: what runs goes on in the bus, and comes again."""
    watched = Watched(broker)
    hang = Seen(lambda _: asyncio.sleep(5))
    async with EventBus() as bus:
        bus.subscribe(Placed, hang)
        bridge = Bridge(watched, bus, events=[Placed])
        await bridge.__aenter__()
        await publish(broker, Placed(n=1), Placed(n=2))
        await asyncio.sleep(1)
        await bridge.__aexit__(LookupError, LookupError(), None)
        assert watched.states() == [SettlementState.RELEASED] * 2
    assert await broker.subscriber(group="shop").lag("orders") == 2


async def test_leaving_waits_for_what_was_brought(broker: MemoryBroker) -> None:
    """In a service: broker, bus, bridge; everything that was published is handled."""
    seen = Seen(lambda _: asyncio.sleep(0.5))
    inside = MemoryBroker("inside")
    bus = EventBus()
    bus.subscribe(Placed, seen)
    bridge = Bridge(inside.subscriber(group="shop"), bus, events=[Placed])
    async with Service(inside, bus, bridge) as service:
        await publish(inside, *(Placed(n=n) for n in range(20)))
    assert seen.numbers == [*range(20)]
    assert service.ledger.adds_up
    assert [ledger.name for ledger in service.ledger.ledgers] == ["bus", "bridge"]


async def test_acked_when_offered_if_asked_for_by_name(broker: MemoryBroker) -> None:
    """At most once: what the subscription then loses stays lost."""
    watched = Watched(broker)
    hang = Seen(lambda _: asyncio.sleep(1_000))
    async with EventBus(drain_timeout=0) as bus:
        bus.subscribe(Placed, hang, overflow=Overflow.DROP_OLDEST, capacity=1, timeout=None)
        async with Bridge(watched, bus, events=[Placed], ack="when_offered"):
            await publish(broker, *(Placed(n=n) for n in range(5)))
            await asyncio.sleep(1)
            assert watched.states() == [ACKED] * 5
    assert bus.ledger.total.dropped == 3
    assert len(watched.deliveries) == 5


async def test_when_offered_waits_until_everybody_has_a_copy(broker: MemoryBroker) -> None:
    """One that was refused for want of room comes again."""
    watched, slow = Watched(broker), Seen(lambda _: asyncio.sleep(4))
    async with EventBus() as bus:
        bus.subscribe(Placed, slow, capacity=1, block_timeout=1)
        async with Bridge(watched, bus, events=[Placed], ack="when_offered"):
            await publish(broker, *(Placed(n=n) for n in range(4)))
            await asyncio.sleep(100)
    assert sorted(slow.numbers) == [*range(4)]
    assert NACKED in watched.states()


async def test_what_can_t_be_read_is_dead_lettered(broker: MemoryBroker) -> None:
    """As by a router: at once, byte for byte, and the next one flows."""
    seen = Seen()
    async with EventBus() as bus:
        bus.subscribe(Event, seen)
        async with Bridge(broker.subscriber(group="shop"), bus, events=[Placed, Paid, Shipped]):
            broken = [Message(b"\xff{", {"name": "Placed"}), Message(b"{}", {"name": "Odd"})]
            await broker.publisher().publish("orders", *broken)
            await publish(broker, Paid(n=1), Shipped(n=2))
            await asyncio.sleep(1)
        letters = await stored(broker, "orders.dead_letter")
    assert [(m.id, m.payload) for m in letters] == [(m.id, m.payload) for m in broken]
    assert {type(event) for event in seen.events} == {Paid, Shipped}


async def test_names_of_others_can_be_passed_over(broker: MemoryBroker) -> None:
    """``unknown="skip"``, where a bridge brings only some of a topic's classes."""
    seen = Seen()
    async with EventBus() as bus:
        bus.subscribe(Event, seen)
        bridge = Bridge(broker.subscriber(group="shop"), bus, events=[Placed], unknown="skip")
        async with bridge:
            await publish(broker, Paid(n=1), Placed(n=2))
            await asyncio.sleep(1)
    assert seen.numbers == [2]
    assert bridge.ledger.total.skipped == 1


async def test_a_bus_has_to_be_entered_before(broker: MemoryBroker) -> None:
    """The error says in which order."""
    bridge = Bridge(broker.subscriber(group="shop"), EventBus(), events=[Placed])
    with pytest.raises(BusNotEnteredError, match="Service\\(broker, bus, bridge\\)"):
        await bridge.__aenter__()
    assert repr(bridge) == "<Bridge 'bridge', new>"
    assert not bridge.is_ready


async def test_a_bridge_can_be_entered_again(broker: MemoryBroker) -> None:
    """As a router can."""
    seen = Seen()
    async with EventBus() as bus:
        bus.subscribe(Placed, seen)
        bridge = Bridge(broker.subscriber(group="shop"), bus, events=[Placed], name="again")
        for n in range(2):
            async with bridge:
                assert bridge.health().is_ready
                await publish(broker, Placed(n=n))
                await asyncio.sleep(1)
    assert seen.numbers == [0, 1]
    assert bridge.name == "again"


class Base(Event):
    n: int


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"ack": "always"}, InvalidOptionError, "when_offered"),
        ({"events": []}, InvalidOptionError, "one event class or more"),
        ({"events": [Base]}, InvalidTopicError, "base without a topic"),
        ({"max_in_flight": 0}, InvalidOptionError, "concurrency|max_in_flight"),
        ({"bus": "bus"}, InvalidOptionError, "EventBus, not str"),
        ({"subscriber": "orders"}, InvalidOptionError, "subscriber"),
        ({"events": Placed}, InvalidOptionError, "one event class or more"),
        ({"events": 5}, InvalidOptionError, "one event class or more"),
        ({"dead_letter": "graves"}, InvalidOptionError, "takes a DeadLetter"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_bridge_that_can_t_be(
    broker: MemoryBroker, change: dict[str, Any], error: type[Exception], said: str
) -> None:
    """Found when it is made."""
    given: dict[str, Any] = {
        "subscriber": broker.subscriber(group="shop"),
        "bus": EventBus(),
        "events": [Placed],
        **change,
    }
    with pytest.raises(error, match=said):
        Bridge(given.pop("subscriber"), given.pop("bus"), **given)


# From bus to broker


async def test_forwarded_events_keep_what_they_carry(broker: MemoryBroker) -> None:
    """Id, time, correlation, causation and metadata; the key is what was asked for."""
    cause, event = Shipped(n=1), Placed(n=2, key="a")
    async with EventBus() as bus:
        forward(bus, broker.publisher(), events=[Placed], key=lambda e: getattr(e, "key", None))

        async def on_shipped(shipped: Shipped) -> None:
            with publishing(metadata={"tenant": "acme"}):
                await bus.publish(event)

        bus.subscribe(Shipped, on_shipped)
        await bus.publish(cause)
    (message,) = await stored(broker, "orders")
    assert (message.id, message.key, message.payload) == (event.id, "a", event.to_json())
    found = message.metadata
    assert (found["name"], found["tenant"]) == ("Placed", "acme")
    assert (found["correlation_id"], found["causation_id"]) == (cause.id, cause.id)
    # Written without a fraction where it has none, which one event in a thousand meets.
    assert found["eventflow_occurred_at"] == format_time(event.occurred_at)


async def test_a_base_stands_for_its_classes_once(broker: MemoryBroker) -> None:
    """Also beside them."""
    async with EventBus() as bus:
        made = forward(bus, broker.publisher(), events=[Shipped, Event, Placed], name="out")
        assert [subscription.name for subscription in made] == ["out"]
        await bus.publish(Placed(n=1))
        await bus.publish(Shipped(n=2))
    assert len(await stored(broker, "orders")) == len(await stored(broker, "shipments")) == 1


class Flaky:
    """A publisher that fails at first."""

    def __init__(self, inner: Publisher, failures: int) -> None:
        self.inner = inner
        self.left = failures
        self.features = inner.features

    async def publish(self, topic: str, *messages: Message) -> None:
        self.left -= 1
        if self.left >= 0:
            raise PublishError("away", topic=topic)
        await self.inner.publish(topic, *messages)

    async def prepare(self, topic: str) -> None:
        await self.inner.prepare(topic)


async def test_forwarding_tries_again_and_keeps_order(broker: MemoryBroker) -> None:
    """What can't be sent after ten attempts is failed and logged; here it can."""
    async with EventBus() as bus:
        forward(bus, Flaky(broker.publisher(), 5), events=[Placed])
        for n in range(5):
            await bus.publish(Placed(n=n))
    payloads = [message.payload for message in await stored(broker, "orders")]
    assert payloads == [Placed(n=n).to_json() for n in range(5)]
    assert bus.ledger.total.retried == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"events": []}, "one event class or more"),
        ({"events": ["orders"]}, "one event class or more"),
        ({"bus": None}, "EventBus, not NoneType"),
        ({"publisher": EventBus()}, "publisher takes what broker.publisher"),
        ({"nonsense": 1}, "nonsense"),
    ],
    ids=str,
)
async def test_forwarding_that_can_t_be(
    broker: MemoryBroker, change: dict[str, Any], said: str
) -> None:
    """Found at the call, and nothing is subscribed."""
    bus = EventBus()
    given: dict[str, Any] = {"bus": bus, "publisher": broker.publisher(), "events": [Placed, Paid]}
    given |= change
    with pytest.raises(InvalidOptionError, match=said):
        forward(given.pop("bus"), given.pop("publisher"), **given)
    async with bus:
        assert bus.explain(Placed).receivers == ()


async def test_forwards_that_can_t_all_be_are_none(broker: MemoryBroker) -> None:
    """The second has the name of the first: that one is taken back too."""
    first = type("Same", (Event,), {"__module__": __name__}, topic="first")
    second = type("Same", (Event,), {"__module__": __name__}, topic="second")
    bus = EventBus()
    with pytest.raises(InvalidOptionError, match="already"):
        forward(bus, broker.publisher(), events=[first, second])
    async with bus:
        assert bus.explain(first).receivers == ()
    forward(bus, broker.publisher(), events=[first])


async def test_a_bridge_that_was_not_entered_can_t_be_left(broker: MemoryBroker) -> None:
    """And can be entered afterwards."""
    seen = Seen()
    async with EventBus() as bus:
        bus.subscribe(Placed, seen)
        bridge = Bridge(broker.subscriber(group="shop"), bus, events=[Placed])
        with pytest.raises(RouterError, match="was not entered"):
            await bridge.__aexit__(None, None, None)
        async with bridge:
            await publish(broker, Placed(n=1))
    assert seen.numbers == [1]


async def test_a_bus_that_is_left_while_its_bridge_drains(broker: MemoryBroker) -> None:
    """What comes by then is nobody's: it stays with the broker, and nothing looks for the bus."""
    seen = Seen(lambda _: asyncio.sleep(5))
    bus, group = EventBus(), broker.subscriber(group="shop")
    bus.subscribe(Placed, seen)
    await bus.__aenter__()
    bridge = Bridge(group, bus, events=[Placed], drain_timeout=100)
    await bridge.__aenter__()
    await publish(broker, Placed(n=1))
    await asyncio.sleep(1)
    leaving = asyncio.create_task(bridge.__aexit__(None, None, None))
    closing = asyncio.create_task(bus.__aexit__(None, None, None))
    await asyncio.sleep(1)
    await publish(broker, Placed(n=2))
    began = now()
    await asyncio.gather(leaving, closing)
    assert now() - began < 10
    assert seen.numbers == [1]
    assert await group.lag("orders") == 1
    assert bridge.ledger.adds_up
    assert (bridge.ledger.total.handled, bridge.ledger.total.failed) == (1, 0)


# Both ways


class Few(PublisherDecorator):
    """Ends what would go on for ever."""

    sent = 0

    async def publish(self, topic: str, *messages: Message) -> None:
        self.sent += 1
        if self.sent > 20:
            raise Permanent("in a circle")
        await super().publish(topic, *messages)


async def test_nothing_goes_round_in_circles(broker: MemoryBroker) -> None:
    """Two services that share a class both ways: each event is stored once, and seen once each."""
    ours, theirs = Seen(), Seen()
    async with EventBus("ours") as left, EventBus("theirs") as right:
        for bus, seen in ((left, ours), (right, theirs)):
            bus.subscribe(Placed, seen)
            forward(bus, Few(broker.publisher()), events=[Placed])
        async with (
            Bridge(broker.subscriber(group="left"), left, events=[Placed]) as first,
            Bridge(broker.subscriber(group="right"), right, events=[Placed]) as second,
        ):
            await left.publish(Placed(n=1))
            await right.publish(Placed(n=2))
            await publish(broker, Placed(n=3))
            await asyncio.sleep(100)
            assert first.statistics().total.handled == second.statistics().total.handled == 3
    assert len(await stored(broker, "orders")) == 3
    assert sorted(ours.numbers) == sorted(theirs.numbers) == [1, 2, 3]


async def test_an_event_that_a_handler_publishes_again_is_sent(broker: MemoryBroker) -> None:
    """That is another publication, of the handler's own; its echo is not brought back either."""
    seen = Seen()
    again: list[Placed] = []
    async with EventBus() as bus:
        bus.subscribe(Placed, seen)
        forward(bus, broker.publisher(), events=[Placed])

        async def once_more(event: Placed) -> None:
            if not again:
                again.append(event)
                await bus.publish(event)

        bus.subscribe(Placed, once_more)
        async with Bridge(broker.subscriber(group="shop"), bus, events=[Placed]):
            await publish(broker, Placed(n=1))
            await asyncio.sleep(100)
    assert seen.numbers == [1, 1]
    first, second = await stored(broker, "orders")
    assert first.id == second.id
    assert "eventflow_from_bus" not in first.metadata
    assert "eventflow_from_bus" in second.metadata


async def test_a_bus_that_was_entered_again_takes_what_it_had_sent(broker: MemoryBroker) -> None:
    """Its listeners may have lost it at the stop; so the echo is no echo any more."""
    bus = EventBus()
    forward(bus, broker.publisher(), events=[Placed])
    async with bus:
        await bus.publish(Placed(n=1))
    seen = Seen()
    bus.subscribe(Placed, seen)
    async with bus, Bridge(broker.subscriber(group="shop"), bus, events=[Placed]):
        await asyncio.sleep(1)
    assert seen.numbers == [1]


async def test_a_made_up_sender_changes_nothing(broker: MemoryBroker) -> None:
    """What the wire says is compared, never trusted."""
    seen = Seen()
    async with EventBus() as bus:
        bus.subscribe(Placed, seen)
        async with Bridge(broker.subscriber(group="shop"), bus, events=[Placed]):
            event = Placed(n=1)
            for sender in ("", "x" * 100_000, "\udcff".encode(errors="replace").decode()):
                metadata = {"name": "Placed", "eventflow_from_bus": sender}
                await broker.publisher().publish("orders", Message(event.to_json(), metadata))
            await asyncio.sleep(1)
    assert seen.numbers == [1, 1, 1]
    assert not seen.contexts[0].metadata


async def test_what_was_made_of_an_event_is_no_echo_of_it(broker: MemoryBroker) -> None:
    """A service elsewhere keeps the metadata, as is usual there, and gives another event back."""
    seen = Seen()

    async def settle(message: Message) -> Message:
        return Message(b'{"n":2}', {**message.metadata, "name": "Paid"}, id=message.id)

    elsewhere = Router()
    elsewhere.add_handler(
        "settle",
        Placed.topic or "",
        settle,
        subscriber=broker.subscriber(group="elsewhere"),
        publisher=broker.publisher(),
        publish_topic="paid",
    )

    class Settled(Event, topic="paid", name="Paid"):
        n: int

    async with EventBus() as bus, elsewhere:
        bus.subscribe(Settled, seen)
        forward(bus, broker.publisher(), events=[Placed])
        async with Bridge(broker.subscriber(group="shop"), bus, events=[Settled]):
            await bus.publish(Placed(n=1))
            await asyncio.sleep(1)
    assert seen.numbers == [2]


async def test_a_bridge_goes_on_when_its_bus_is_entered_again(broker: MemoryBroker) -> None:
    """Meanwhile it receives nothing, and nothing counts as delivered."""
    seen, bus = Seen(), EventBus()
    bus.subscribe(Placed, seen)
    group = broker.subscriber(group="shop")
    await bus.__aenter__()
    async with Bridge(group, bus, events=[Placed], max_deliveries=2) as bridge:
        await bus.__aexit__(None, None, None)
        await publish(broker, Placed(n=1))
        await asyncio.sleep(100)
        assert not bridge.is_ready
        assert await group.lag("orders") == 1
        async with bus:
            await asyncio.sleep(1)
            assert bridge.is_ready
            assert seen.numbers == [1]
            await publish(broker, Placed(n=2))
            await asyncio.sleep(1)
            assert seen.numbers == [1, 2]
    assert await stored(broker, "orders.dead_letter") == []


# At random


async def play(
    words: list[tuple[Overflow, int, str]], events: int, in_flight: int, stop: str
) -> None:
    handled: list[set[str]] = [set() for _ in words]

    def listener(number: int, word: str) -> Any:
        async def handle(event: Placed) -> None:
            if word == "slow":
                await asyncio.sleep(1)
            elif word == "odd" and event.n % 2:
                handled[number].add(event.id)
                raise ValueError(event.n)
            handled[number].add(event.id)

        return handle

    bus = EventBus(drain_timeout=2 if stop == "bus first" else 10_000, cancel_grace=1)
    async with MemoryBroker() as broker:
        watched = Watched(broker)
        for number, (overflow, capacity, word) in enumerate(words):
            bus.subscribe(
                Placed,
                listener(number, word),
                name=f"s{number}",
                overflow=overflow,
                capacity=capacity,
            )
        await bus.__aenter__()
        bridge = Bridge(
            watched, bus, events=[Placed], max_in_flight=in_flight, drain_timeout=10_000
        )
        await bridge.__aenter__()
        await publish(broker, *(Placed(n=n) for n in range(events)))
        await asyncio.sleep(1.5)
        cut = LookupError if stop == "cut" else None
        if stop == "bus first":
            await bus.__aexit__(None, None, None)
        await bridge.__aexit__(cut, None, None)
        if stop != "bus first":
            await bus.__aexit__(None, None, None)
        acked = {d.message.id for d in watched.deliveries if d.state is ACKED}
        everywhere = {i for i in handled[0] if all(i in ids for ids in handled)}
        assert acked <= everywhere
        assert bridge.ledger.adds_up
        assert bus.ledger.adds_up
        open_now = await watched.lag("orders")
        assert open_now == events - len(acked), "what is not acked is still stored"
        if stop == "drain":
            assert open_now == len(await stored(broker, "orders.dead_letter")) == 0


@pytest.mark.stress
@settings(
    max_examples=500 if STRESS else 30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    words=st.lists(
        st.tuples(
            st.sampled_from(Overflow), st.integers(1, 4), st.sampled_from(("quick", "slow", "odd"))
        ),
        min_size=1,
        max_size=3,
    ),
    events=st.integers(1, 8),
    in_flight=st.integers(1, 8),
    stop=st.sampled_from(("drain", "cut", "bus first")),
)
def test_whatever_is_acked_was_handled_by_all(
    words: list[tuple[Overflow, int, str]], events: int, in_flight: int, stop: str
) -> None:
    """And whatever is not acked is still stored; after a drain, everything is acked."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(play(words, events, in_flight, stop))
