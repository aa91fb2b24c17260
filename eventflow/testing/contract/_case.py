"""What the parts of the contract share: what a backend fills in, and how a test waits."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

try:
    import pytest
except ModuleNotFoundError as exc:  # pragma: no cover - the suite that would see it needs pytest
    if exc.name != "pytest":
        raise
    raise ModuleNotFoundError(
        "eventflow.testing.contract needs pytest: pip install pytest pytest-asyncio", name="pytest"
    ) from exc

from eventflow.messaging import Message
from eventflow.testing.contract._tally import Counts, Tally

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventflow.messaging import Broker, Deliveries, Delivery, Publisher, Subscriber

__all__ = ("ContractCase", "acked")

T = TypeVar("T")

COUNTS = "eventflow_contract"
"""Name of the property that a test's report carries its counts under."""

_TOPIC_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def acked(delivery: Delivery) -> None:
    """Ack it: what a reader does unless a test says otherwise."""
    delivery.ack()


class ContractCase:
    """What a backend fills in to run the contract, and what a test is made of."""

    patience: float = 15.0
    """Seconds without progress after which what has not come is lost."""
    silence: float = 0.3
    """Seconds in which nothing may come, where nothing may."""
    size: float = 1.0
    """Factor on the number of messages of the larger tests."""
    delay: float = 1.0
    """Seconds of the delays that tests ask for."""
    lease: float | None = None
    """Seconds after which the broker would give an unsettled message to another member unless it
    is told that it is still worked on; ``None`` where there is no such thing."""
    publish_timeout: float = 30.0
    """Most seconds that a publish of the broker which `new_broker` makes may last."""
    max_duplicates: int = 0
    """Most duplicates of a test that are no failure though nothing was nacked, crashed or
    restarted in it. They are counted and reported all the same."""
    counts_given_back: bool = False
    """Whether giving a message back counts as a delivery after all, because the broker's own
    counter can't be told otherwise."""

    # What a backend fills in

    def new_broker(self) -> Broker:
        """Return a broker that was not entered: a client of the store under test.

        Several of a persistent backend reach the same store.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has to say what it tests: def new_broker(self) -> Broker"
        )

    def new_topic(self) -> str:
        """Return a topic that nobody has used; the test's name is in it."""
        return f"contract.{self._name}.{uuid.uuid4().hex[:12]}"

    def new_group(self) -> str:
        """Return a group that nobody has used; a backend without groups has one name for it."""
        return f"{self._name}-{uuid.uuid4().hex[:12]}"

    def elsewhere(self) -> tuple[str, ...] | None:
        """Say how another process opens the same store.

        Returns:
            A function as ``package.module:function``, which returns a broker, and the texts it
            is called with; they reach the process by its standard input. ``None``: no other
            process can, as the backend is not persistent.
        """
        return None

    async def restart_broker(self) -> bool:
        """Stop the broker's server, and start it again; returns when it takes connections.

        Returns:
            Whether there is a server to restart. If not, the client is closed and opened instead.
        """
        return False

    def blocked(self, broker: Broker, topic: str) -> AbstractAsyncContextManager[None] | None:
        """Return a block in which the broker can't take a message for a topic.

        For example by filling the topic, pausing the server, or holding the link.

        Returns:
            The block; ``None`` where a publish can't be made to wait.
        """
        del broker, topic
        return None

    # How a test is run

    _name = "test"

    def begin(self, name: str) -> None:
        """Take the name of the test that is going to run, and start counting anew."""
        self._name = _TOPIC_NAME.sub("-", name.removeprefix("test_"))[:100].strip("-")
        self._tallies: list[Tally] = []

    @property
    def counts(self) -> Counts:
        """What the tallies of the test have counted, together."""
        return sum((tally.counts for tally in self._tallies), Counts())

    @pytest.fixture(autouse=True)
    def _contract_test(self, request: pytest.FixtureRequest) -> Generator[None]:
        self.begin(request.node.name)
        yield
        counts = self.counts
        request.node.user_properties.append(
            (COUNTS, (type(self).__name__, *(getattr(counts, n) for n in Counts.__slots__)))
        )

    # What tests are made of

    def sized(self, *, everyday: int, stress: int, least: int = 2) -> int:
        """A number of messages: the everyday one, or with ``EVENTFLOW_STRESS=1`` the full one."""
        number = stress if os.environ.get("EVENTFLOW_STRESS") == "1" else everyday
        return max(least, round(number * self.size))

    def tally(self, *, key: bool = False) -> Tally:
        """A tally whose counts are in the test's report."""
        made = Tally(key=key)
        self._tallies.append(made)
        return made

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Broker]:
        """A broker of its own for the test, open."""
        broker = self.new_broker()
        await self.bounded(broker.__aenter__(), "opening the broker")
        try:
            yield broker
        finally:
            await self.bounded(broker.__aexit__(None, None, None), "closing the broker")

    @asynccontextmanager
    async def subscribed(
        self, subscriber: Subscriber, topic: str, *, max_in_flight: int | None = None
    ) -> AsyncGenerator[Deliveries]:
        """A subscription, whose beginning and end have to end."""
        async with AsyncExitStack() as stack:
            manager = subscriber.subscribe(topic, max_in_flight=max_in_flight)
            deliveries = await self.bounded(stack.enter_async_context(manager), "subscribing")
            try:
                yield deliveries
            finally:
                await self.bounded(stack.aclose(), "leaving a subscription")

    async def place(self, broker: Broker) -> tuple[str, Subscriber]:
        """A new topic, and a member of a new group that gets what is published to it."""
        topic, subscriber = self.new_topic(), broker.subscriber(group=self.new_group())
        await self.bounded(broker.publisher().prepare(topic), "prepare() of a publisher")
        await self.bounded(subscriber.prepare(topic), "prepare() of a subscriber")
        return topic, subscriber

    @staticmethod
    def messages(count: int, *, keys: int = 0) -> list[Message]:
        """Messages with a number each; with ``keys``, also one of so many keys."""
        return [
            Message(
                f'{{"n":{n}}}'.encode(),
                {"n": str(n), "text": "zażółć"},
                key=f"key-{n % keys}" if keys else None,
            )
            for n in range(count)
        ]

    async def publish(
        self,
        publisher: Publisher,
        topic: str,
        messages: Sequence[Message],
        tally: Tally | None = None,
        *,
        at_once: int = 1,
        batch: int = 1,
    ) -> None:
        """Publish messages, ``batch`` a call, by ``at_once`` publishers side by side."""
        if tally is not None:
            tally.published(*messages)
        limit = self.publish_timeout + self.patience
        parts = iter([messages[n : n + batch] for n in range(0, len(messages), batch)])

        async def work() -> None:
            for part in parts:
                await self.bounded(publisher.publish(topic, *part), "publish()", within=limit)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())

    @asynccontextmanager
    async def reading(
        self,
        subscriber: Subscriber,
        topic: str,
        tally: Tally,
        *,
        members: int = 1,
        max_in_flight: int | None = None,
        handle: Callable[[Delivery], Any] = acked,
    ) -> AsyncGenerator[None]:
        """Receive a topic by several members while the block lasts, and then end them.

        Each delivery is counted, and handed to ``handle``, which acks it unless told otherwise.
        """
        entered: list[Deliveries] = []

        async def read(deliveries: Deliveries) -> None:
            async for delivery in deliveries:
                tally.received(delivery)
                handle(delivery)

        async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
            for _ in range(members):
                deliveries = await self.bounded(
                    stack.enter_async_context(
                        subscriber.subscribe(topic, max_in_flight=max_in_flight)
                    ),
                    "subscribing",
                )
                entered.append(deliveries)
            tasks = [group.create_task(read(deliveries)) for deliveries in entered]
            try:
                yield
            finally:
                # Leaving ends those who wait in receive(): nobody is cancelled here.
                await self.bounded(stack.aclose(), "leaving the subscriptions")
                await self.ended(tasks)

    async def ended(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Wait for tasks that have to end by themselves; cancel and name those that don't."""
        _, pending = await asyncio.wait([*tasks], timeout=self.patience)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        assert not pending, f"{len(pending)} calls did not end though what they wait in was left"

    async def complete(self, tally: Tally) -> None:
        """Wait until everything has come, and then long enough for what comes too often."""
        await tally.complete(patience=self.patience)
        await asyncio.sleep(self.silence)

    async def bounded(self, call: Awaitable[T], what: str, *, within: float | None = None) -> T:
        """Await something that has to end; say what did not."""
        limit = self.patience if within is None else within
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                return await call
        except TimeoutError as exc:
            if not scope.expired():
                raise
            raise AssertionError(f"{what} did not end within {limit:g} s") from exc

    async def next(
        self, deliveries: Deliveries, tally: Tally | None = None, *, within: float | None = None
    ) -> Delivery:
        """The next delivery; fails if none comes within `patience`, or ``within`` seconds."""
        found = await self.bounded(deliveries.receive(), "receive()", within=within)
        assert len(found) == 1, f"receive() gave {len(found)} deliveries, 1 was asked for"
        delivery = found[0]
        if tally is not None:
            tally.received(delivery)
        return delivery

    async def take(
        self, deliveries: Deliveries, count: int, tally: Tally | None = None
    ) -> list[Delivery]:
        """So many deliveries, not settled; fails if they don't come."""
        taken: list[Delivery] = []
        while len(taken) < count:
            found = await self.bounded(
                deliveries.receive(count - len(taken)), f"receive() after {len(taken)} of {count}"
            )
            assert found, "the subscription ended"
            assert len(found) <= count - len(taken), "receive() gave more than its limit"
            taken += found
        if tally is not None:
            for delivery in taken:
                tally.received(delivery)
        return taken

    async def is_silent(self, deliveries: Deliveries, *, seconds: float | None = None) -> None:
        """Fail if anything comes in the time in which nothing may."""
        found: Sequence[Delivery] = ()
        try:
            async with asyncio.timeout(self.silence if seconds is None else seconds):
                found = await deliveries.receive(1_000)
        except TimeoutError:
            return
        assert found, "the subscription ended"
        raise AssertionError(f"came though nothing may: {[d.message for d in found[:5]]}")

    async def nothing_is_left(self, subscriber: Subscriber, topic: str) -> None:
        """Fail if the group has not settled everything."""
        async with self.subscribed(subscriber, topic) as deliveries:
            await self.is_silent(deliveries)
        if subscriber.features.lag:
            assert await subscriber.lag(topic) == 0
