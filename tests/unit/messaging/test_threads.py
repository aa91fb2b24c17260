"""Sync handlers on a router: threads that outlive their attempt, at a stop."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from eventflow import FailurePolicy
from eventflow.brokers.memory import MemoryBroker
from eventflow.messaging import BrokerEventPublisher, Router
from tests.unit.messaging.support import Placed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Overdue:
    """A handler that goes on after its timeout, until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.is_open = False
        self.found_open: list[bool] = []

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Overdue]:
        self.is_open = True
        yield self
        self.is_open = False

    def __call__(self, event: Placed, files: Overdue) -> None:
        self.release.wait(10)
        self.found_open.append(files.is_open)


def routed(handler: Overdue, broker: MemoryBroker, *, drain: float, grace: float) -> Router:
    router = Router(drain_timeout=drain, cancel_grace=grace, on_failure=FailurePolicy.log())
    router.add_handler(
        "h",
        Placed,
        handler,
        subscriber=broker.subscriber(group="g"),
        timeout=0.05,
        resources=handler.opened,
    )
    return router


async def timed_out(router: Router) -> None:
    async with asyncio.timeout(10):
        while not router.statistics()["h"].timed_out:  # noqa: ASYNC110 - a thread does it
            await asyncio.sleep(0)


@pytest.mark.promise("1", "6")
@pytest.mark.parametrize("alone", [False, True], ids=["router", "handler"])
@pytest.mark.parametrize("drain", [10, 0], ids=["the drain", "the grace"])
async def test_a_stop_waits_for_a_thread_that_outlived_its_timeout(
    drain: float, alone: bool
) -> None:
    """It has the drain and the grace to return; its resource is open until it has."""
    handler = Overdue()
    async with MemoryBroker() as broker:
        router = routed(handler, broker, drain=drain, grace=10)
        async with router:
            await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
            await timed_out(router)
            asyncio.get_running_loop().call_later(0.2, handler.release.set)
            if alone:
                await router.stop_handler("h")
                assert handler.found_open == [True]
        assert handler.found_open == [True]
        assert not handler.is_open
        assert router.ledger.abandoned == ()


@pytest.mark.promise("6")
async def test_a_thread_that_never_returns_ends_with_the_bound() -> None:
    """The stop waits for it no longer than drain and grace, and names it."""
    handler = Overdue()
    async with MemoryBroker() as broker:
        router = routed(handler, broker, drain=0.2, grace=0.2)
        async with router:
            await BrokerEventPublisher(broker.publisher()).publish(Placed(n=1))
            await timed_out(router)
            began = time.monotonic()
        took = time.monotonic() - began
        try:
            assert took >= 0.4
            assert took < 0.4 + 1 + 1, "the bound, and room for a busy machine"
            assert not handler.is_open
            assert router.ledger.abandoned == ("thread eventflow:router-1 in h",)
        finally:
            handler.release.set()


@pytest.mark.promise("1", "6")
async def test_a_thread_that_a_stop_can_not_end_is_named_with_its_message() -> None:
    """Its task ends with the bound, since it only waited; the message comes again."""
    started, release = threading.Event(), threading.Event()

    def handler(event: Placed) -> None:
        started.set()
        release.wait(10)

    async with MemoryBroker() as broker:
        group = broker.subscriber(group="g")
        router = Router(drain_timeout=0, cancel_grace=0.1)
        router.add_handler("h", Placed, handler, subscriber=group, timeout=None)
        try:
            async with router:
                event = Placed(n=1)
                await BrokerEventPublisher(broker.publisher()).publish(event)
                await asyncio.to_thread(started.wait, 10)
            row = router.ledger["h"]
            assert (row.abandoned, row.cancelled, row.in_flight) == (1, 0, 0)
            assert router.ledger.abandoned == (
                f"task eventflow:router:h with message {event.id}",
                "thread eventflow:router-1 in h",
            )
            assert not [t for t in asyncio.all_tasks() if t.get_name() == "eventflow:router:h"]
            assert await group.lag("orders") == 1
        finally:
            release.set()
