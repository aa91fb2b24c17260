"""Stopping one handler of a router that runs on: what it had, and what comes for it afterwards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import (
    BrokerConnectionError,
    ConfigurationError,
    DeadlockError,
    ResourceError,
    RouterError,
)
from eventflow.failure import DeadLetter, FailurePolicy
from eventflow.messaging import BrokerEventPublisher, Message, Router
from tests.unit.messaging.support import Changed, Cuttable, Paid, Placed, now, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryBroker]:
    async with MemoryBroker() as opened:
        yield opened


class Gate:
    """A handler that waits until it is let go on."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.done: list[int] = []
        self.open = asyncio.Event()

    async def __call__(self, event: Any) -> None:
        self.started.append(event.n)
        await self.open.wait()
        self.done.append(event.n)


class Done:
    def __init__(self) -> None:
        self.events: list[Any] = []

    async def __call__(self, event: Any) -> None:
        self.events.append(event)

    @property
    def numbers(self) -> list[int]:
        return [event.n for event in self.events]


async def publish(broker: MemoryBroker, *events: Placed | Paid) -> None:
    publisher = BrokerEventPublisher(broker.publisher())
    for event in events:
        await publisher.publish(event)
    await asyncio.sleep(0.01)


async def test_what_waits_is_for_others_at_once_and_neighbours_go_on(broker: MemoryBroker) -> None:
    """The subscription is shared and stays; nothing in it is held for the one that stops."""
    placed, paid, elsewhere = Gate(), Done(), Done()
    router, other = Router(drain_timeout=1_000), Router()
    group = broker.subscriber(group="g")
    stopped = router.add_handler("placed", Placed, placed, subscriber=group, max_in_flight=3)
    router.add_handler("paid", Paid, paid, subscriber=group, max_in_flight=3)
    async with router:
        await publish(broker, *[Placed(n=n) for n in range(5)])
        assert placed.started == [0]
        stopping = asyncio.create_task(stopped.aclose())
        await asyncio.sleep(0.01)
        assert router.ledger["placed"].released == 4
        async with other:
            other.add_handler("placed", Placed, elsewhere, subscriber=group)
            other.add_handler("paid", Paid, paid, subscriber=group)
            await other.wait_running()
            await publish(broker, Placed(n=5), Paid(n=6))
            assert paid.numbers == [6]
            await asyncio.sleep(100)
            assert sorted(elsewhere.numbers) == [1, 2, 3, 4, 5]
            assert not stopping.done()
            placed.open.set()
            await stopping
        assert placed.done == [0]
        assert router.ledger["placed"].handled == 1
        assert await group.lag("orders") == 0
        assert await stored(broker, "orders.dead_letter") == []
    assert router.ledger.adds_up


async def test_what_comes_for_it_later_waits_for_its_return(broker: MemoryBroker) -> None:
    """A planned absence makes no dead letters, however long it is."""
    paid, again = Done(), Done()
    router, group = Router(), broker.subscriber(group="g")
    stopped = router.add_handler("placed", Placed, Done(), subscriber=group)
    router.add_handler("paid", Paid, paid, subscriber=group)
    async with router:
        await stopped.aclose()
        await publish(broker, Placed(n=1), Paid(n=2))
        await asyncio.sleep(100)
        assert paid.numbers == [2]
        assert router.is_ready
        router.add_handler("placed", Placed, again, subscriber=group)
        await asyncio.sleep(30)
        assert again.numbers == [1]
    assert await stored(broker, "orders.dead_letter") == []


async def test_it_does_not_wait_for_ever(broker: MemoryBroker) -> None:
    """Nobody came for it: it ends as any other name that nothing goes by, and is counted."""
    paid = Done()
    router, group = Router(), broker.subscriber(group="g")
    stopped = router.add_handler("placed", Placed, Done(), subscriber=group)
    router.add_handler("paid", Paid, paid, subscriber=group)
    async with router:
        await stopped.aclose()
        await publish(broker, Placed(n=1))
        without_name = Message(b'{"n":2}')
        await broker.publisher().publish("orders", without_name)
        await asyncio.sleep(0.01)
        assert paid.numbers == [2], "the only class there is"
        await asyncio.sleep(1_000)
        assert len(await stored(broker, "orders.dead_letter")) == 1
        assert await group.lag("orders") == 0
    row = router.ledger["paid"]
    assert (row.released, row.dead_lettered) == (20, 1)


async def test_where_the_broker_can_not_wait_it_is_unknown_at_once(broker: MemoryBroker) -> None:
    """To keep it would hold up the others."""
    paid = Done()
    group = Changed.of(broker.subscriber(group="g"), nack_delay=False)
    router = Router()
    stopped = router.add_handler("placed", Placed, Done(), subscriber=group, max_in_flight=5)
    router.add_handler("paid", Paid, paid, subscriber=group, max_in_flight=5)
    async with router:
        await stopped.aclose()
        await publish(broker, *[Placed(n=n) for n in range(10)], Paid(n=10))
        assert paid.numbers == [10]
        assert len(await stored(broker, "orders.dead_letter")) == 10


async def test_leaving_does_not_wait_for_what_is_given_back(broker: MemoryBroker) -> None:
    router, group = Router(), broker.subscriber(group="g")
    stopped = router.add_handler("placed", Placed, Done(), subscriber=group)
    router.add_handler("paid", Paid, Done(), subscriber=group)
    async with router:
        await stopped.aclose()
        await publish(broker, Placed(n=1))
        began = now()
    assert now() - began < 0.2


async def test_both_of_a_subscription_finish_what_they_have(broker: MemoryBroker) -> None:
    """The second that stops does not leave it under the first, which still handles something."""
    slow, other = Gate(), Done()
    router, group = Router(), broker.subscriber(group="g")
    first = router.add_handler("placed", Placed, slow, subscriber=group)
    second = router.add_handler("paid", Paid, Done(), subscriber=group)
    async with router:
        await publish(broker, Placed(n=1))
        stopping = asyncio.create_task(first.aclose())
        await asyncio.sleep(0)
        await second.aclose()
        router.add_handler("again", Placed, other, subscriber=group)
        await asyncio.sleep(1)
        assert other.numbers == []
        slow.open.set()
        await stopping
        assert router.ledger["placed"].handled == 1
        await asyncio.sleep(1)
    assert other.numbers == []
    assert await group.lag("orders") == 0


async def test_who_waits_for_its_end_is_not_cancelled_with_the_router(broker: MemoryBroker) -> None:
    """The router is left by an error meanwhile: the handler has stopped, and the waiter goes on."""

    async def handler(event: Placed) -> None:
        await asyncio.sleep(100)

    reached: list[int] = []
    router = Router()
    one = router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    await router.__aenter__()
    await publish(broker, Placed(n=1))

    async def stop() -> None:
        await one.aclose()
        reached.append(1)

    async with asyncio.TaskGroup() as group:
        group.create_task(stop())
        await asyncio.sleep(0.1)
        error = ValueError()
        await router.__aexit__(ValueError, error, None)
    assert reached == [1]
    assert router.ledger["h"].in_flight == 0


async def test_a_handler_that_stops_can_not_leave_its_router(broker: MemoryBroker) -> None:
    found: list[BaseException] = []

    async def handler(event: Placed) -> None:
        await asyncio.sleep(0.2)
        try:
            await router.__aexit__(None, None, None)
        except DeadlockError as exc:
            found.append(exc)

    router = Router()
    one = router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await publish(broker, Placed(n=1))
        await one.aclose()
    assert len(found) == 1
    assert router.ledger["h"].handled == 1


class Away:
    """A publisher whose topics can't be prepared."""

    def __init__(self, inner: Any, error: Exception) -> None:
        self._inner = inner
        self._error = error
        self.features = inner.features
        self.tries = 0

    async def publish(self, topic: str, *messages: Message) -> None:
        await self._inner.publish(topic, *messages)

    async def prepare(self, topic: str) -> None:
        self.tries += 1
        raise self._error


async def test_one_that_is_not_admitted_holds_up_nobody_for_ever(broker: MemoryBroker) -> None:
    """It has failed, which health says; the others read on."""
    paid = Done()
    away = Away(broker.publisher(), ConfigurationError("no such topic"))
    router, group = Router(), broker.subscriber(group="g")
    router.add_handler("paid", Paid, paid, subscriber=group)
    async with router:
        late = router.add_handler(
            "placed",
            Placed,
            Done(),
            subscriber=group,
            on_failure=FailurePolicy(then=DeadLetter(publisher=away)),
        )
        with pytest.raises(ConfigurationError, match="no such topic"):
            await late.wait_running()
        assert late.health().state == "failed"
        assert not router.is_ready
        await publish(broker, Paid(n=1))
        assert paid.numbers == [1]
        await late.aclose()
        assert router.is_ready


async def test_a_subscription_that_nobody_is_left_for_receives_nothing(
    broker: MemoryBroker,
) -> None:
    """Its last handler could not be admitted: what comes is for the others in the group."""
    elsewhere, asked = Done(), asyncio.Event()

    class Asking(Away):
        async def prepare(self, topic: str) -> None:
            await asked.wait()
            await super().prepare(topic)

    away = Asking(broker.publisher(), ConfigurationError("no such topic"))
    router, other = Router(), Router()
    group = broker.subscriber(group="g")
    other.add_handler("placed", Placed, elsewhere, subscriber=group)
    first = router.add_handler("paid", Paid, Done(), subscriber=group)
    async with router:
        late = router.add_handler(
            "placed",
            Placed,
            Done(),
            subscriber=group,
            on_failure=FailurePolicy(then=DeadLetter(publisher=away)),
        )
        await asyncio.sleep(1)
        await first.aclose()
        asked.set()
        with pytest.raises(ConfigurationError):
            await late.wait_running()
        await publish(broker, Placed(n=1), Placed(n=2))
        await asyncio.sleep(100)  # time passes only where nobody spins
        async with other:
            await asyncio.sleep(1)
            assert elsewhere.numbers == [1, 2]
    assert router.ledger.total.offered == 0


async def test_one_that_is_stopped_is_not_admitted_any_more(broker: MemoryBroker) -> None:
    """Whoever waited for it is told, and nothing goes on trying."""
    away = Away(broker.publisher(), BrokerConnectionError("away"))
    router, group = Router(), broker.subscriber(group="g")
    router.add_handler("paid", Paid, Done(), subscriber=group)
    async with router:
        late = router.add_handler(
            "placed",
            Placed,
            Done(),
            subscriber=group,
            on_failure=FailurePolicy(then=DeadLetter(publisher=away)),
        )
        waiting = asyncio.create_task(late.wait_running())
        await asyncio.sleep(5)
        assert late.health().state == "starting"
        assert not router.is_ready
        await late.aclose()
        with pytest.raises(RouterError, match="was stopped"):
            await waiting
        tries = away.tries
        await asyncio.sleep(100)
        assert away.tries == tries


async def test_a_subscription_that_had_failed_is_tried_again_without_the_cause(
    broker: MemoryBroker,
) -> None:
    """And a newcomer in its place is served."""
    paid = Done()
    away = Away(broker.publisher(), ConfigurationError("no such topic"))
    group = broker.subscriber(group="g")
    router = Router()
    async with router:
        router.add_handler("paid", Paid, paid, subscriber=group)
        wrong = router.add_handler(
            "placed",
            Placed,
            Done(),
            subscriber=group,
            on_failure=FailurePolicy(then=DeadLetter(publisher=away)),
        )
        with pytest.raises(ConfigurationError):
            await wrong.wait_running()
        await wrong.aclose()
        await asyncio.sleep(1)
        right = router.add_handler("placed", Placed, paid, subscriber=group)
        await right.wait_running()
        await publish(broker, Paid(n=1), Placed(n=2))
        assert paid.numbers == [1, 2]
        assert router.is_ready


async def test_a_subscription_whose_broker_was_away_is_left_with_its_handlers() -> None:
    """It was subscribed once more for a newcomer: both times end."""
    broker = MemoryBroker()
    group = broker.subscriber(group="g")
    router, paid = Router(), Done()
    async with router:
        async with broker:
            first = router.add_handler("placed", Placed, Done(), subscriber=group)
            await first.wait_running()
        await asyncio.sleep(1)
        assert not router.is_ready
        async with broker:
            second = router.add_handler("paid", Paid, paid, subscriber=group)
            await second.wait_running()
            await publish(broker, Paid(n=1))
            await first.aclose()
            await second.aclose()
            reading = [task for task in asyncio.all_tasks() if ":read:" in task.get_name()]
    assert paid.numbers == [1]
    assert reading == []


async def test_its_successor_receives_while_it_still_stops(broker: MemoryBroker) -> None:
    """Same name, same class, same group: the usual way to replace a handler."""
    old, new = Gate(), Done()
    router, group = Router(), broker.subscriber(group="g")
    first = router.add_handler("h", Placed, old, subscriber=group)
    async with router:
        await publish(broker, Placed(n=1))
        stopping = asyncio.create_task(first.aclose())
        await asyncio.sleep(0)
        second = router.add_handler("h", Placed, new, subscriber=group)
        await second.wait_running()
        await publish(broker, Placed(n=2))
        assert new.numbers == [2]
        old.open.set()
        await stopping
        await publish(broker, Placed(n=3))
        assert (old.done, new.numbers) == ([1], [2, 3])
        assert second.statistics().handled == 3, "the counts of a name go on"
        assert router.is_ready
        router.add_handler("i", Paid, Done(), subscriber=group)
    assert [row.name for row in router.ledger.handlers] == ["h", "i"]
    assert router.ledger["h"].handled == 3
    assert router.ledger.adds_up


async def test_whoever_closes_it_too_waits_for_the_same_end(broker: MemoryBroker) -> None:
    gate = Gate()
    router = Router()
    handler = router.add_handler("h", Placed, gate, subscriber=broker.subscriber(group="g"))
    async with router:
        await publish(broker, Placed(n=1))
        both = [asyncio.create_task(handler.aclose()) for _ in range(2)]
        await asyncio.sleep(1)
        assert not any(task.done() for task in both)
        assert handler.health().state == "stopping"
        gate.open.set()
        await asyncio.gather(*both)
        assert handler.health().state == "stopped"
        await handler.aclose()


async def test_the_router_is_left_while_it_stops(broker: MemoryBroker) -> None:
    """What it handles is finished once, and acked."""
    gate = Gate()
    router, group = Router(), broker.subscriber(group="g")
    handler = router.add_handler("h", Placed, gate, subscriber=group)
    await router.__aenter__()
    await publish(broker, Placed(n=1))
    stopping = asyncio.create_task(handler.aclose())
    leaving = asyncio.create_task(router.__aexit__(None, None, None))
    await asyncio.sleep(1)
    gate.open.set()
    await asyncio.gather(stopping, leaving)
    assert gate.done == [1]
    assert router.ledger["h"].handled == 1
    assert await group.lag("orders") == 0


async def test_its_pause_ends_with_it(broker: MemoryBroker) -> None:
    """A paused handler pauses the topic, for its neighbours too; one that is gone does not."""
    paid = Done()
    router, group = Router(), broker.subscriber(group="g")
    paused = router.add_handler("placed", Placed, Done(), subscriber=group)
    router.add_handler("paid", Paid, paid, subscriber=group)
    async with router:
        paused.pause()
        await publish(broker, Paid(n=1))
        assert paid.numbers == []
        await paused.aclose()
        await asyncio.sleep(0.01)
        assert paid.numbers == [1]


async def test_one_whose_resource_can_not_be_opened_takes_nothing(broker: MemoryBroker) -> None:
    """What it would get is for the others in its group."""
    elsewhere = Done()
    router, other = Router(), Router()
    group = broker.subscriber(group="g")
    other.add_handler("h", Placed, elsewhere, subscriber=group)

    def resources() -> Any:
        raise OSError("no database")

    async def handler(event: Placed, resource: object) -> None: ...

    async with router:
        failed = router.add_handler("h", Placed, handler, subscriber=group, resources=resources)
        with pytest.raises(ResourceError):
            await failed.wait_running()
        await publish(broker, *[Placed(n=n) for n in range(5)])
        assert failed.health().state == "failed"
        assert not router.is_ready
        async with other:
            await asyncio.sleep(0.01)
            assert elsewhere.numbers == [0, 1, 2, 3, 4]


async def test_one_that_is_added_finds_out_about_its_dead_letters(broker: MemoryBroker) -> None:
    """Also where its topic is read already."""
    async with MemoryBroker("small", max_payload_bytes=10) as small:
        router, group = Router(), broker.subscriber(group="g")
        router.add_handler("paid", Paid, Done(), subscriber=group)
        async with router:
            added = router.add_handler(
                "placed",
                Placed,
                Done(),
                subscriber=group,
                on_failure=FailurePolicy(then=DeadLetter(publisher=small.publisher())),
            )
            with pytest.raises(ConfigurationError, match="too large for where they go"):
                await added.wait_running()
            await publish(broker, Placed(n=1))
            assert added.statistics().offered == 0, "nothing is received that could not be ended"


@pytest.mark.fault("ACK-04")
@pytest.mark.promise("6")
async def test_a_stop_gives_back_at_once_what_waits(broker: MemoryBroker) -> None:
    """Another instance has it within moments, however long the handler that runs still takes."""
    gate, elsewhere = Gate(), Done()
    lasting = Changed.of(broker.subscriber(group="g"), persistent=True)
    router, other = Router(), Router()
    router.add_handler("h", Placed, gate, subscriber=lasting)
    other.add_handler("h", Placed, elsewhere, subscriber=lasting)
    await router.__aenter__()
    await publish(broker, *[Placed(n=n) for n in range(20)])
    async with other:
        leaving = asyncio.create_task(router.__aexit__(None, None, None))
        await asyncio.sleep(0.1)
        assert len(elsewhere.events) == 19
        assert not leaving.done()
        await asyncio.sleep(8)
        gate.open.set()
        await leaving
    assert gate.done == [0]
    assert elsewhere.numbers == [*range(1, 20)]
    assert router.ledger["h"].released == 19


async def test_a_handler_of_messages_is_replaced_too(broker: MemoryBroker) -> None:
    """Its place is free: the next one of the topic and the group has what comes."""
    old, new = list[bytes](), list[bytes]()

    async def first(message: Message) -> None:
        old.append(message.payload)

    async def second(message: Message) -> None:
        new.append(message.payload)

    router, group = Router(), broker.subscriber(group="g")
    handler = router.add_handler("raw", "orders", first, subscriber=group)
    async with router:
        await broker.publisher().publish("orders", Message(b"1"))
        await asyncio.sleep(0.01)
        await handler.aclose()
        router.add_handler("raw", "orders", second, subscriber=group)
        await router.wait_running()
        await broker.publisher().publish("orders", Message(b"2"))
        await asyncio.sleep(0.01)
    assert (old, new) == ([b"1"], [b"2"])


async def test_one_that_is_added_waits_for_a_subscription_that_is_on_its_way(
    broker: MemoryBroker,
) -> None:
    """Its neighbour has not subscribed yet: both are starting, and then both receive."""
    paid, placed = Done(), Done()
    group = Cuttable(broker.subscriber(group="g"))
    group.up.clear()
    router = Router()
    async with router:
        router.add_handler("paid", Paid, paid, subscriber=group)
        await asyncio.sleep(1)
        late = router.add_handler("placed", Placed, placed, subscriber=group)
        waiting = asyncio.create_task(late.wait_running())
        await asyncio.sleep(100)
        assert {handler.state for handler in router.health().handlers} == {"starting"}
        assert not waiting.done()
        group.up.set()
        await waiting
        await publish(broker, Placed(n=1), Paid(n=2))
        assert (placed.numbers, paid.numbers) == ([1], [2])
        assert router.is_ready


async def test_one_that_is_added_while_the_connection_is_cut_waits_for_it(
    broker: MemoryBroker,
) -> None:
    """It is ready when the topic is read again, and not because it was read once."""
    paid, placed = Done(), Done()
    group = Cuttable(broker.subscriber(group="g"))
    router = Router()
    router.add_handler("paid", Paid, paid, subscriber=group)
    async with router:
        group.cut()
        await asyncio.sleep(1)
        assert router.health().handlers[0].state == "reconnecting"
        late = router.add_handler("placed", Placed, placed, subscriber=group)
        waiting = asyncio.create_task(late.wait_running())
        await asyncio.sleep(100)
        assert not waiting.done()
        group.up.set()
        await waiting
        await publish(broker, Placed(n=1), Paid(n=2))
        assert (placed.numbers, paid.numbers) == ([1], [2])
        assert router.is_ready


async def test_a_subscription_that_takes_long_to_leave_is_left_once(broker: MemoryBroker) -> None:
    """Its last handler was stopped, and then the router: both wait for the same end."""
    group = Cuttable(broker.subscriber(group="g"), leaves_in=0.8)
    router = Router(cancel_grace=0.1)
    handler = router.add_handler("placed", Placed, Done(), subscriber=group)
    await router.__aenter__()
    stopping = asyncio.create_task(handler.aclose())
    began = now()
    await asyncio.sleep(0.1)
    await router.__aexit__(None, None, None)
    await stopping
    assert now() - began == pytest.approx(0.8, abs=0.01)
    assert group.left == 1
    assert router.ledger.abandoned == ()
