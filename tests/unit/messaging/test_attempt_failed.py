"""A delivery is told of each attempt that fails, before there is another, or an end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import Permanent
from eventflow.failure import CallOnFailure, FailurePolicy, Retry
from eventflow.messaging import Delivery, Message, Router
from eventflow.messaging._burial import FIRST_WAIT_S
from eventflow.testing import run_virtual

if TYPE_CHECKING:
    import pytest


def test_each_failed_attempt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice by the handler, once by whom the policy calls; one that succeeds tells nothing."""
    said: list[str] = []

    def attempt_failed(self: Delivery) -> None:
        said.append(f"{self.message.payload.decode()} failed")

    monkeypatch.setattr(Delivery, "attempt_failed", attempt_failed)

    async def handle(message: Message) -> None:
        said.append(f"{message.payload.decode()} begins")
        if message.payload == b"bad":
            raise ValueError if said.count("bad begins") == 1 else Permanent

    async def failed(message: Any, error: BaseException, attempts: int) -> None:
        said.append("called")
        if said.count("called") == 1:
            raise ValueError

    async def main() -> None:
        async with MemoryBroker() as broker:
            router = Router()
            policy = FailurePolicy(retry=Retry(attempts=3), then=CallOnFailure(failed))
            subscriber = broker.subscriber(group="g")
            router.add_handler("work", "t", handle, subscriber=subscriber, on_failure=policy)
            async with router:
                await broker.publisher().publish("t", Message(b"good"), Message(b"bad"))
                await asyncio.sleep(10 * FIRST_WAIT_S)
            assert await subscriber.lag("t") == 0

    run_virtual(main)
    first, second, call = ["bad begins", "bad failed"], ["bad begins", "bad failed"], "called"
    assert said == ["good begins", *first, *second, call, "bad failed", call]


def test_a_burial_of_what_comes_again_ends() -> None:
    """Its dead letter can't be stored, and it was given back: the handler goes on at once."""
    handled: list[bytes] = []

    async def handle(message: Message) -> None:
        handled.append(message.payload)
        if message.payload == b"bad" and handled.count(b"bad") == 1:
            raise Permanent

    async def main() -> None:
        taken: list[Delivery] = []

        async def note(delivery: Delivery, call_next: Any) -> Any:
            taken.append(delivery)
            return await call_next(delivery)

        async def failed(message: Any, error: BaseException, attempts: int) -> None:
            taken[0].lost()
            raise ValueError

        async with MemoryBroker() as broker:
            router = Router(middlewares=[note])
            policy = FailurePolicy(then=CallOnFailure(failed))
            subscriber = broker.subscriber(group="g")
            router.add_handler("work", "t", handle, subscriber=subscriber, on_failure=policy)
            async with router:
                await broker.publisher().publish("t", Message(b"bad"), Message(b"next"))
                await asyncio.sleep(FIRST_WAIT_S / 4)
                assert handled == [b"bad", b"next"]
                assert router.health().is_ready

    run_virtual(main)
