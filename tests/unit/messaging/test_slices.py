"""A reader that has much to hand on lets others run every few milliseconds."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import ConfigurationError
from eventflow.failure import DeadLetter, FailurePolicy
from eventflow.messaging import BrokerEventPublisher, Message, Router
from tests.unit.messaging.support import Changed, Paid, Placed, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

COUNT = 500
CHUNK = 16
"""Messages between two looks at the clock."""


class WorkLoop(asyncio.SelectorEventLoop):
    """A loop on whose clock work takes time without waiting: a key's, or all between two looks."""

    worked = 0.0
    between_looks = 0.0

    def time(self) -> float:
        self.worked += self.between_looks
        return super().time() + self.worked


class Work:
    """An order key that takes 1 ms."""

    def __init__(self, loop: WorkLoop) -> None:
        self.done = 0
        self.begun = asyncio.Event()
        self.loop = loop

    def __call__(self, event: Any) -> int:
        self.loop.worked += 0.001
        self.done += 1
        self.begun.set()
        return 0


def run(main: Callable[[Work], Coroutine[Any, Any, None]]) -> None:
    loop = WorkLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main(Work(loop)))


async def filled(broker: MemoryBroker, event: type[Placed | Paid]) -> None:
    """The topic is there before anybody reads it: all of it is received at once."""
    await broker.subscriber(group="g").prepare("orders")
    publisher = BrokerEventPublisher(broker.publisher())
    for n in range(COUNT):
        await publisher.publish(event(n=n))


async def endless(event: Any) -> None:
    await asyncio.sleep(1_000)


@pytest.mark.promise("5")
def test_a_reader_that_has_much_in_hand_lets_others_run() -> None:
    """Keys of 1 ms each: some 16 of them, then everything else that is ready."""

    async def main(work: Work) -> None:
        seen: list[int] = []

        async def look() -> None:
            while work.done < COUNT:
                seen.append(work.done)
                await asyncio.sleep(0)

        async with MemoryBroker() as broker:
            await filled(broker, Placed)
            router = Router(drain_timeout=0)
            router.add_handler(
                "h",
                Placed,
                endless,
                subscriber=broker.subscriber(group="g"),
                order_key=work,
                max_in_flight=COUNT,
            )
            looking = asyncio.create_task(look())
            async with router:
                await looking
        assert max(after - before for before, after in pairwise(seen)) <= CHUNK + 1
        assert router.ledger.adds_up

    run(main)


@pytest.mark.promise("2", "6")
def test_a_stop_does_not_wait_until_all_is_handed_on() -> None:
    """What the reader has in hand by then goes back with the subscription, unlooked at."""

    async def main(work: Work) -> None:
        async with MemoryBroker() as broker:
            group = Changed.of(broker.subscriber(group="g"), persistent=True)
            await filled(broker, Placed)
            router = Router(drain_timeout=0)
            router.add_handler(
                "h", Placed, endless, subscriber=group, order_key=work, max_in_flight=COUNT
            )
            async with router:
                await work.begun.wait()
            row = router.ledger["h"]
            assert row.offered == work.done < COUNT
            assert row.adds_up
            assert await group.lag("orders") == COUNT

    run(main)


@pytest.mark.promise("2")
def test_what_is_in_hand_when_the_last_handler_goes_is_given_back() -> None:
    """One was stopped, the other could not be admitted: nobody is left, and nothing is lost."""

    async def main(work: Work) -> None:
        async with MemoryBroker() as broker:
            group = broker.subscriber(group="g")
            graves = broker.publisher()
            asked = asyncio.Event()

            class Away:
                features = graves.features

                async def publish(self, topic: str, *messages: Message) -> None: ...

                async def prepare(self, topic: str) -> None:
                    await asked.wait()
                    raise ConfigurationError("no such topic")

            await filled(broker, Paid)
            work.loop.between_looks = 0.01
            router = Router(drain_timeout=0)
            first = router.add_handler(
                "paid", Paid, endless, subscriber=group, order_key=work, max_in_flight=COUNT
            )
            async with router:
                await work.begun.wait()
                late = router.add_handler(
                    "placed",
                    Placed,
                    endless,
                    subscriber=group,
                    on_failure=FailurePolicy(then=DeadLetter(publisher=Away())),
                )
                await first.aclose()
                asked.set()
                with pytest.raises(ConfigurationError):
                    await late.wait_running()
                # While the router is open: to others of the group, and not only when it is left.
                got: list[bytes] = []
                async with group.subscribe("orders", max_in_flight=COUNT) as elsewhere:
                    while len(got) < COUNT:
                        got += [d.message.payload for d in await elsewhere.receive(COUNT)]
            assert router.ledger["paid"].offered == work.done
            assert router.ledger.total.offered < COUNT
            assert router.ledger.adds_up
            assert await group.lag("orders") == COUNT
            assert await stored(broker, "orders.dead_letter") == []

    run(main)
