"""The end of a router, where it does not go well: what refuses, hangs, or is cancelled itself."""

from __future__ import annotations

import asyncio
import contextvars
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from eventflow import FailurePolicy, Retry
from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import ResourceError
from eventflow.failure import DeadLetter
from eventflow.messaging import BrokerEventPublisher, Message, Router
from eventflow.testing import run_virtual
from tests.unit.messaging.support import Changed, Cuttable, Placed, now

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
    await asyncio.sleep(0.1)


async def again(broker: MemoryBroker, topic: str = "orders") -> list[bytes]:
    """What the group gets when it reads on."""
    async with broker.subscriber(group="g").subscribe(topic) as deliveries:
        return [delivery.message.payload for delivery in await deliveries.receive(10)]


def cancel_all(prefix: str) -> None:
    """Cancel every task of that name, as a loop that is shut down does."""
    for task in asyncio.all_tasks():
        if task.get_name().startswith(prefix):
            task.cancel()


class Stubborn:
    """Swallows every cancellation until it is let go."""

    def __init__(self) -> None:
        self.cancels: list[float] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._release = asyncio.Event()

    async def refuse(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        while not self._release.is_set():
            try:
                await self._release.wait()
            except asyncio.CancelledError:
                self.cancels.append(now())

    async def __call__(self, event: Any) -> None:
        await self.refuse()

    async def let_go(self) -> None:
        self._release.set()
        await asyncio.wait(self.tasks)


# Handlers that refuse


@pytest.mark.promise("1", "2", "6")
@pytest.mark.parametrize("options", [{}, {"batch": 3}], ids=["single", "batch"])
async def test_a_handler_that_refuses_to_end_is_abandoned_by_name(
    broker: MemoryBroker, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelled twice, then named with its message, which comes again; its end counts nothing."""
    handler = Stubborn()
    router = Router("r", drain_timeout=1, cancel_grace=2)
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=broker.subscriber(group="g"),
        timeout=None,
        **options,
    )
    held = options.get("batch", 1)
    async with router:
        await publish(broker, *range(held))
        (message, *_) = [str(task.get_name()) for task in handler.tasks]
        began = now()
    assert [round(at - began, 3) for at in handler.cancels] == [1.0, 3.0]
    assert now() - began < 1 + 2 + 1
    row = router.ledger["h"]
    assert (row.abandoned, row.cancelled, row.handled, row.in_flight) == (held, 0, 0, 0)
    assert row.adds_up
    (said,) = router.ledger.abandoned
    assert said.startswith(f"task {message} with message ")
    assert caplog.text.count("eventflow.task_abandoned") == 1
    assert len(await again(broker)) == held
    await handler.let_go()
    assert router.ledger["h"] == row


@pytest.mark.promise("6")
async def test_the_rest_of_a_router_ends_although_one_refuses(broker: MemoryBroker) -> None:
    """Only what still runs is abandoned: a neighbour that ends, and an idle worker, are not."""
    stubborn, cut = Stubborn(), list[int]()

    async def yields(event: Placed) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            cut.append(event.n)

    async def slow_but_willing(event: Placed) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            raise

    router = Router("r", drain_timeout=0, cancel_grace=1)
    for name, handler in (("a", stubborn), ("b", yields), ("c", slow_but_willing)):
        router.add_handler(
            name, Placed, handler, subscriber=broker.subscriber(group=name), concurrency=2
        )
    async with router:
        await publish(broker, 1)
    assert cut == [1]
    rows = {row.name: (row.abandoned, row.cancelled) for row in router.ledger.handlers}
    assert rows == {"a": (1, 0), "b": (0, 1), "c": (0, 1)}
    assert len(router.ledger.abandoned) == 1
    assert router.ledger.adds_up
    await stubborn.let_go()


@pytest.mark.promise("2", "6")
async def test_a_dead_letter_that_refuses_to_end_is_abandoned_too(broker: MemoryBroker) -> None:
    """Its publisher swallows the cancellation: the message comes again, and is named."""
    graves = Stubborn()
    inner = broker.publisher()

    class Hanging:
        features = inner.features

        async def publish(self, topic: str, *messages: Message) -> None:
            await graves.refuse()

        async def prepare(self, topic: str) -> None: ...

    async def fails(event: Placed) -> None:
        raise ValueError

    router = Router("r", drain_timeout=0, cancel_grace=1)
    policy = FailurePolicy(then=DeadLetter(publisher=Hanging()))
    router.add_handler(
        "h", Placed, fails, subscriber=broker.subscriber(group="g"), on_failure=policy
    )
    async with router:
        await publish(broker, 1)
    row = router.ledger["h"]
    assert (row.abandoned, row.failed, row.in_flight) == (1, 0, 0)
    assert router.ledger.abandoned[0].startswith("task eventflow:r:h:burial with message ")
    assert len(await again(broker)) == 1
    await graves.let_go()
    await asyncio.sleep(0)
    assert router.ledger["h"] == row, "that it was stored after all counts nothing more"


@pytest.mark.promise("1", "6", "7")
async def test_what_was_abandoned_is_so_once(broker: MemoryBroker) -> None:
    """Also if the stop begins anew, because somebody cancels everything meanwhile."""
    handler = Stubborn()

    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        yield "db"
        await asyncio.sleep(1_000)

    async def calls(event: Placed, db: str) -> None:
        await handler(event)

    router = Router("r", drain_timeout=0, cancel_grace=10)
    router.add_handler(
        "h",
        Placed,
        calls,
        subscriber=broker.subscriber(group="g"),
        resources=database,
        timeout=None,
    )
    await router.__aenter__()
    await publish(broker, 1)
    leaving = asyncio.create_task(router.__aexit__(None, None, None))
    await asyncio.sleep(10.3)
    assert router.statistics()["h"].abandoned == 1
    assert not leaving.done(), "it waits for the resource"
    cancel_all("eventflow:r:")
    await leaving
    row = router.ledger["h"]
    assert (row.offered, row.abandoned, row.in_flight) == (1, 1, 0)
    assert len(router.ledger.abandoned) == 1
    await handler.let_go()


@pytest.mark.promise("1", "6")
async def test_a_resource_that_refuses_to_close_is_abandoned_by_name(broker: MemoryBroker) -> None:
    """Within the bound, and without a message, since it holds none."""
    closing = Stubborn()

    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        yield "db"
        await closing.refuse()

    async def handler(event: Placed, db: str) -> None: ...

    router = Router("r", drain_timeout=1, cancel_grace=2)
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), resources=database
    )
    async with router:
        await publish(broker, 1)
        began = now()
    assert now() - began < 1 + 2 + 1
    assert router.ledger.abandoned == ("task eventflow:r:h:resources",)
    assert router.ledger["h"].handled == 1
    await closing.let_go()


# Handlers that take the stop's cancellation back


bound: contextvars.ContextVar[int] = contextvars.ContextVar("bound", default=0)


@pytest.mark.parametrize("binds", [False, True], ids=["plainly", "with a variable bound"])
async def test_a_handler_that_takes_back_the_cancellation_ends_all_the_same(
    broker: MemoryBroker, binds: bool
) -> None:
    """It is handled, since it returned; and its worker, or the next one, starts nothing more."""
    handled: list[int] = []

    async def uncancels(event: Placed) -> None:
        if binds:
            bound.set(event.n)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        handled.append(event.n)

    router = Router(drain_timeout=1, cancel_grace=5)
    router.add_handler("h", Placed, uncancels, subscriber=broker.subscriber(group="g"))
    async with router:
        await publish(broker, 1, 2)
        began = now()
    assert now() - began < 1.5
    assert handled == [1]
    row = router.ledger["h"]
    assert (row.handled, row.released, row.restarts) == (1, 1, 0)
    assert router.ledger.abandoned == ()
    assert len(await again(broker)) == 1


# Resources


@pytest.mark.promise("1")
async def test_a_resource_that_is_being_opened_is_given_up_by_a_stop(broker: MemoryBroker) -> None:
    """Its opening is cancelled; whoever waited for the handler is told."""
    opening: list[str] = []

    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        try:
            await asyncio.sleep(1_000)
        finally:
            opening.append("cancelled")
        yield "never"

    async def handler(event: Placed, db: str) -> None: ...

    router = Router(drain_timeout=1)
    async with router:
        late = router.add_handler(
            "h", Placed, handler, subscriber=broker.subscriber(group="g"), resources=database
        )
        await asyncio.sleep(5)
        assert late.health().state == "starting"
        assert not router.is_ready
        waiting = asyncio.create_task(late.wait_running())
        await asyncio.sleep(0)
        began = now()
    assert now() - began < 2
    assert opening == ["cancelled"]
    with pytest.raises(ResourceError, match="could not be opened"):
        await waiting
    assert late.health().state == "stopped"


@pytest.mark.promise("1")
async def test_a_resource_that_opens_although_a_stop_cancels_it_is_closed(
    broker: MemoryBroker,
) -> None:
    """It swallowed the cancellation: nothing is handled with it, and nothing is left open."""
    seen: list[Any] = []

    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            seen.append("opened")
        yield "db"
        seen.append("closed")

    async def handler(event: Placed, db: str) -> None:
        seen.append(event.n)

    router = Router(drain_timeout=1)
    async with router:
        router.add_handler(
            "h", Placed, handler, subscriber=broker.subscriber(group="g"), resources=database
        )
        await publish(broker, 1)
        # From the broker to the router, where it waits for the resource.
        assert router.statistics()["h"].buffered == 1
    assert seen == ["opened", "closed"]
    assert router.ledger["h"].released == 1
    assert len(await again(broker)) == 1


async def test_a_resource_that_fails_as_it_is_closed_stops_no_stop(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; what was handled is handled."""

    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        yield "db"
        raise OSError("connection lost")

    async def handler(event: Placed, db: str) -> None: ...

    router = Router()
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), resources=database
    )
    async with router:
        await publish(broker, 1)
    assert router.ledger["h"].handled == 1
    assert caplog.text.count("eventflow.resource_failed") == 1
    assert "connection lost" in caplog.text


@pytest.mark.promise("6")
async def test_a_resource_that_hangs_as_it_is_closed_is_cancelled(broker: MemoryBroker) -> None:
    """With what is left of the grace; the stop ends within its bound."""
    ended: list[str] = []

    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        yield "db"
        try:
            await asyncio.sleep(1_000)
        finally:
            ended.append("cancelled")

    async def handler(event: Placed, db: str) -> None: ...

    router = Router(drain_timeout=1, cancel_grace=2)
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), resources=database
    )
    async with router:
        await publish(broker, 1)
        began = now()
    assert 2 <= now() - began < 1 + 2 + 1
    assert ended == ["cancelled"]
    assert router.ledger.abandoned == ()


# The loop ends around it


@pytest.mark.promise("1", "2")
def test_a_loop_that_is_shut_down_stops_the_router() -> None:
    """As `asyncio.run` cancels everything: no drain, clean-up may await, and all is counted."""
    ended: list[str] = []

    @asynccontextmanager
    async def database() -> AsyncGenerator[str]:
        try:
            yield "db"
        finally:
            ended.append("resource")

    async def cleans_up(event: Placed, db: str) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(1)
            ended.append("handler")

    router = Router()

    async def main() -> None:
        broker = MemoryBroker()
        await broker.__aenter__()
        router.add_handler(
            "h",
            Placed,
            cleans_up,
            subscriber=broker.subscriber(group="g"),
            resources=database,
            timeout=None,
        )
        await router.__aenter__()
        await publish(broker, 1, 2)

    run_virtual(main)
    assert sorted(ended) == ["handler", "resource"]
    row = router.ledger["h"]
    assert (row.cancelled, row.in_flight, row.buffered) == (1, 0, 0)
    assert row.adds_up
    assert router.ledger.state == "closed"


@pytest.mark.promise("6")
async def test_whoever_cancels_everything_during_a_drain_ends_it(broker: MemoryBroker) -> None:
    """The stop begins again, without draining; each message has one end."""

    async def slow(event: Placed) -> None:
        await asyncio.sleep(1_000)

    router = Router(drain_timeout=500)
    router.add_handler(
        "h", Placed, slow, subscriber=broker.subscriber(group="g"), concurrency=2, timeout=None
    )
    await router.__aenter__()
    await publish(broker, *range(4))
    leaving = asyncio.create_task(router.__aexit__(None, None, None))
    await asyncio.sleep(10)
    assert router.health().state == "closing"
    began = now()
    cancel_all("eventflow:")
    await leaving
    assert now() - began < 1
    row = router.ledger["h"]
    assert (row.cancelled, row.released, row.in_flight) == (2, 2, 0)
    assert row.adds_up


# Draining


@pytest.mark.promise("6")
async def test_a_drain_ends_with_its_time_although_more_is_there(broker: MemoryBroker) -> None:
    """A handler that ends just then is handled; the next message stays with the broker."""
    handled: list[int] = []

    async def handler(event: Placed) -> None:
        await asyncio.sleep(until - now())
        handled.append(event.n)

    router = Router(drain_timeout=8)
    router.add_handler(
        "h", Placed, handler, subscriber=broker.subscriber(group="g"), max_in_flight=1
    )
    until = now() + 10
    async with router:
        await publish(broker, 1, 2, 3)
        await asyncio.sleep(until - 8 - now())
    assert now() < until + 1
    assert handled[0] == 1
    row = router.ledger["h"]
    assert row.handled == len(handled) < 3
    assert row.adds_up
    assert len(await again(broker)) == 3 - len(handled)


async def test_what_waits_for_a_retry_is_given_back_where_failures_are_not_kept(
    broker: MemoryBroker,
) -> None:
    """As if it had not been delivered: what the broker can't keep is not asked of it."""
    attempts: list[int] = []

    async def fails(event: Placed) -> None:
        attempts.append(event.n)
        raise ValueError

    forgetful = Changed.of(broker.subscriber(group="g"), recorded_failures=False)
    policy = FailurePolicy(retry=Retry(attempts=3, initial=100, jitter=0))
    router = Router(drain_timeout=1, on_failure=policy)
    router.add_handler("h", Placed, fails, subscriber=forgetful)
    async with router:
        await publish(broker, 1)
    assert attempts == [1]
    assert router.ledger["h"].released == 1
    async with broker.subscriber(group="g").subscribe("orders") as deliveries:
        (delivery,) = await deliveries.receive()
        assert (delivery.deliveries, delivery.failures) == (1, 0)


@pytest.mark.promise("2")
async def test_what_waits_in_lanes_when_the_connection_is_cut_comes_again_in_order(
    broker: MemoryBroker,
) -> None:
    """Nothing of what the broker took back is started; each key goes on from where it was."""
    handled: list[int] = []

    async def handler(event: Placed) -> None:
        await asyncio.sleep(5)
        handled.append(event.n)

    group = Cuttable(broker.subscriber(group="g"))
    router = Router(drain_timeout=100)
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=group,
        concurrency=2,
        order_key=lambda event: event.n % 2,
    )
    async with router:
        await publish(broker, *range(8))
        group.cut()
        await asyncio.sleep(10)
        assert sorted(handled) == [0, 1], "what was in its hands; nothing else is its own now"
        group.up.set()
        await asyncio.sleep(60)
    assert [n for n in handled[2:] if n % 2 == 0] == [0, 2, 4, 6]
    assert [n for n in handled[2:] if n % 2 == 1] == [1, 3, 5, 7]
    row = router.ledger["h"]
    assert (row.handled, row.released) == (8, 8)
    assert row.adds_up


async def test_a_backend_that_ends_where_it_is_cancelled_has_not_failed(
    broker: MemoryBroker,
) -> None:
    """Its receive answers the stop with the normal end: while handlers finish, health is theirs."""
    states: list[str] = []

    async def handler(event: Placed) -> None:
        await asyncio.sleep(5)
        states.append(router.health().handlers[0].state)

    class Ending(Changed):
        @asynccontextmanager
        async def subscribe(self, topic: str, **options: Any) -> AsyncGenerator[Any]:
            async with super().subscribe(topic, **options) as deliveries:
                found: Any = deliveries
                whole = found.receive

                async def receive(limit: int = 1) -> Any:
                    try:
                        return await whole(limit)
                    except asyncio.CancelledError:
                        return ()

                found.receive = receive
                yield found

    router = Router()
    lasting = Ending.of(broker.subscriber(group="g"), persistent=True)
    router.add_handler("h", Placed, handler, subscriber=lasting)
    async with router:
        await publish(broker, 1)
    assert states == ["running"]
    assert router.ledger["h"].handled == 1


# Looking at it


async def test_health_says_that_a_handler_is_being_stopped(broker: MemoryBroker) -> None:
    """While its clean-up runs; and that it is, once it has ended."""
    states: list[str] = []

    async def handler(event: Placed) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            states.append(router.health().handlers[0].state)

    router = Router(drain_timeout=1)
    added = router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"))
    async with router:
        await publish(broker, 1)
    assert states == ["stopping"]
    assert added.health().state == "stopped"
    assert [handler.state for handler in router.health().handlers] == ["stopped"]
    assert not router.is_ready
