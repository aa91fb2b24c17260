"""One publish beside a client that does nothing by itself: who goes on, when, and with what."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from confluent_kafka import KafkaError

from eventflow.brokers.kafka import KafkaBroker, _producer
from eventflow.brokers.kafka._calls import longer
from eventflow.brokers.kafka._producer import Call, Sender
from eventflow.brokers.kafka._trust import Trust
from eventflow.brokers.kafka.publisher import ROOM_S
from eventflow.errors import PublishTimeoutError
from eventflow.messaging import Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class FakeClient:
    """Takes what is sent; tells what became of it once it is told to."""

    def __init__(self) -> None:
        self.asked = self.tried = 0
        self.left = 0
        self.purged = asyncio.Event()
        self.room = 1_000
        self.sent: list[Callable[[Any, Any], None]] = []
        self._told = False
        self._is_closed = False

    def produce(self, *_: object, headers: object, on_delivery: Callable[[Any, Any], None]) -> None:
        if self._is_closed:
            raise RuntimeError
        self.tried += 1
        if len(self.sent) >= self.room:
            raise BufferError
        self.sent.append(on_delivery)

    def tell(self) -> None:
        """Everything is stored."""
        self._told = True

    def __len__(self) -> int:
        return self.left

    def poll(self, _: float) -> None:
        self.asked += 1
        if self._told:
            self._told = False
            sent, self.sent = self.sent, []
            for heard in sent:
                heard(None, None)

    def flush(self, _: float) -> None:
        pass

    def purge(self) -> None:
        self.purged.set()

    def close(self) -> None:
        self._is_closed = True


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
async def sender(client: FakeClient) -> AsyncGenerator[Sender]:
    found = made(client)
    yield found
    await found.end()


def made(client: FakeClient) -> Sender:
    library: Any = client
    return Sender(library, Trust(["h"]), asyncio.get_running_loop())


async def publish(sender: Sender, *, within: float = 30.0) -> Call:
    """What a publisher does, once it has checked everything."""
    call = Call(sender, "t", [Message(b"x")], sender.loop.time() + within)
    sender.send(call, [(None, [], None)])
    await call.ended
    return call


async def test_it_goes_on_when_it_is_told(sender: Sender, client: FakeClient) -> None:
    """All that were sent, each with its own end."""
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        calls = [group.create_task(publish(sender)) for _ in range(100)]
        await asyncio.sleep(0)
        client.tell()
    assert not any(call.result().has_failed for call in calls)


async def test_who_looks_on_is_told_too(sender: Sender, client: FakeClient) -> None:
    """As tools do that watch what a task waits for."""
    call = Call(sender, "t", [Message(b"x")], sender.loop.time() + 30.0)
    sender.send(call, [(None, [], None)])
    told: list[object] = []
    call.ended.add_done_callback(told.append)

    async def wait() -> None:
        await call.ended

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(wait())
        await asyncio.sleep(0)
        client.tell()
    assert told == [call.ended]


async def test_who_is_cancelled_is_told_by_whom(sender: Sender) -> None:
    """The message of a cancellation comes along, as from a future; without one there is none."""
    for given, args in ((("by us",), ("by us",)), ((), ())):
        task = asyncio.create_task(publish(sender))
        await asyncio.sleep(0)
        assert task.cancel(*given)
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == args


@pytest.mark.parametrize("shape", ["move_on_after", "fail_after", "task group"])
async def test_scopes_of_anyio_catch_their_own(sender: Sender, shape: str) -> None:
    """They know their cancellation by its message, and nothing of it is left."""
    async with asyncio.timeout(5):
        if shape == "move_on_after":
            with anyio.move_on_after(0.01) as scope:
                await publish(sender)
            assert scope.cancelled_caught
        elif shape == "fail_after":
            with pytest.raises(TimeoutError), anyio.fail_after(0.01):
                await publish(sender)
        else:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(publish, sender)
                await asyncio.sleep(0)
                group.cancel_scope.cancel()
            assert group.cancel_scope.cancelled_caught
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()


async def test_who_publishes_again_as_its_time_is_over(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What looks for calls whose time is over is one timer, however many are begun from it."""
    monkeypatch.setattr(_producer, "SWEEP_S", 0.005)
    looks, kind = [0], cast("Any", Sender)
    look = kind._sweep

    def counted(self: Sender) -> None:
        looks[0] += 1
        look(self)

    monkeypatch.setattr(kind, "_sweep", counted)
    async with asyncio.timeout(10):
        for _ in range(10):
            # Over by the first look at it.
            assert (await publish(sender, within=0.001)).has_failed
    assert looks == [10]


@pytest.mark.virtual_clock
@pytest.mark.parametrize("seconds", [0.002, 0.05, 2.0])
async def test_what_comes_is_heard_soon(sender: Sender, client: FakeClient, seconds: float) -> None:
    """A millisecond after it came, or a tenth of what it took; also after a long silence."""
    loop = sender.loop
    for silence in (0.0, 100.1):
        await asyncio.sleep(silence)
        began = loop.time()
        loop.call_later(seconds, client.tell)
        assert not (await publish(sender)).has_failed
        assert loop.time() - began <= seconds + max(0.001, min(seconds / 10, 0.05)) + 0.0001


@pytest.mark.virtual_clock
async def test_how_often_it_is_asked(sender: Sender, client: FakeClient) -> None:
    """Four times a second while nothing is on its way, and twenty times while nothing comes."""
    await asyncio.sleep(100)
    assert client.asked <= 401
    client.asked = 0
    loop = sender.loop
    loop.call_later(20, client.tell)
    await publish(sender)
    # More often in the first half second; and before late ones are looked for, twice a second.
    assert client.asked <= 20 * 20 + 60 + 20 * 2


@pytest.mark.virtual_clock
async def test_each_that_is_told_lets_ask_again(sender: Sender, client: FakeClient) -> None:
    """As long as there are others on their way; then the loop waits again."""
    waiting = asyncio.create_task(publish(sender))
    await asyncio.sleep(0)
    held, client.sent = client.sent, []
    client.tell()
    assert not (await publish(sender)).has_failed
    client.asked = 0
    await asyncio.sleep(0.0005)
    assert client.asked == _producer.TURNS
    client.sent = held
    client.tell()
    assert not (await waiting).has_failed


@pytest.mark.virtual_clock
async def test_who_waits_for_room_is_not_woken_in_vain(sender: Sender, client: FakeClient) -> None:
    """As long as the library says nothing, it has no more room than before."""
    client.room = 1
    first = asyncio.create_task(publish(sender))
    await asyncio.sleep(0)
    loop, calls, ends = sender.loop, 10, sender.loop.time() + 10.0

    async def wait_for_room() -> None:
        call = Call(sender, "t", [Message(b"x")], ends)
        while loop.time() < ends:
            with pytest.raises(BufferError):
                sender.send(call, [(None, [], None)])
            await sender.room.wait(min(ends, loop.time() + ROOM_S))

    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(wait_for_room())
    assert client.tried <= calls * (10.0 / ROOM_S + 2)
    client.tell()
    await first


@pytest.mark.virtual_clock
@pytest.mark.parametrize("is_heard", [False, True])
async def test_one_that_ends_before_others(
    sender: Sender, client: FakeClient, *, is_heard: bool
) -> None:
    """It was sent after them, as it had to wait before: it ends by its own time, if it has not."""
    before = asyncio.create_task(publish(sender, within=30.0))
    await asyncio.sleep(0)
    loop = sender.loop
    call = Call(sender, "t", [Message(b"x")], loop.time() + 1.0)
    sender.send(call, [(None, [], None)])
    loop.call_at(call.until, sender.late, call)
    if is_heard:
        loop.call_at(call.until, client.tell)
    began = loop.time()
    await call.ended
    assert loop.time() - began == pytest.approx(1.0, abs=0.06)
    if not is_heard:
        assert call.has_failed
        assert not before.done()
    client.tell()
    assert not (await before).has_failed


@pytest.mark.virtual_clock
async def test_a_publish_that_looked_its_topic_up(sender: Sender) -> None:
    """Ends by its own deadline, and not by that of one that began later and was sent before it."""
    broker: Any = KafkaBroker("127.0.0.1:1", publish_timeout=6.0)
    broker.loop, broker.is_open, broker._producer = sender.loop, True, sender
    broker.topics.add("known")

    async def look_up(topic: str, *, within: float) -> int:
        await asyncio.sleep(4)
        broker.topics.add(topic)
        return 1

    broker.look_up = look_up
    publisher, loop, ended = broker.publisher(), sender.loop, dict[str, float]()

    async def publish_to(topic: str) -> None:
        with pytest.raises(PublishTimeoutError):
            await publisher.publish(topic, Message(b"x"))
        ended[topic] = loop.time() - began

    began = loop.time()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publish_to("new"))
        await asyncio.sleep(3)
        tasks.create_task(publish_to("known"))
    assert ended["new"] == pytest.approx(6.0, abs=0.1)
    assert ended["known"] == pytest.approx(9.0, abs=0.6)


def test_how_long_the_next_attempt_takes() -> None:
    """Twice as long after a time-out, and never so long that who leaves has to wait for it."""
    late, away = KafkaError(KafkaError._TIMED_OUT), KafkaError(KafkaError._TRANSPORT)
    assert [longer(seconds, late) for seconds in (0.5, 1.0, 1.5, 2.0)] == [1.0, 2.0, 2.0, 2.0]
    assert longer(0.5, away) == 0.5


async def test_nothing_is_sent_after_the_rest_was_taken_back(
    sender: Sender, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be left behind in a client that is being closed."""
    monkeypatch.setattr(_producer, "FLUSH_S", 0.0)
    client.left = 1
    waiting = asyncio.create_task(publish(sender))
    await asyncio.sleep(0)
    ending = sender.end()
    async with asyncio.timeout(5):
        await client.purged.wait()
    with pytest.raises(RuntimeError):
        sender.send(Call(sender, "t", [Message(b"x")], sender.loop.time() + 1), [(None, [], None)])
    client.tell()
    await waiting
    await ending


@pytest.mark.parametrize("end", ["told", "late", "closed"])
def test_a_task_that_ends_the_program(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Others have their ends all the same, should the loop go on, and the client is closed."""
    monkeypatch.setattr(_producer, "SWEEP_S", 0.005)

    async def begin() -> tuple[Sender, list[asyncio.Task[Any]]]:
        sender, within = made(client), 0.001 if end == "late" else 30.0

        async def leave() -> None:
            await publish(sender, within=within)
            raise SystemExit

        leaving = asyncio.create_task(leave())
        others = [asyncio.create_task(publish(sender, within=within)) for _ in range(3)]
        await asyncio.sleep(0)
        return sender, [leaving, *others]

    async def go_on(sender: Sender, tasks: list[asyncio.Task[Any]]) -> None:
        if end == "told":
            client.tell()
        elif end == "closed":
            await sender.end()
        await asyncio.wait(tasks)

    async def others_end(sender: Sender, tasks: list[asyncio.Task[Any]]) -> None:
        async with asyncio.timeout(5):
            calls = await asyncio.gather(*tasks[1:])
            assert [call.has_failed for call in calls] == [end != "told"] * 3
            await sender.end()

    with asyncio.Runner() as runner:
        sender, tasks = runner.run(begin())
        with pytest.raises(SystemExit):
            runner.run(go_on(sender, tasks))
        assert isinstance(tasks[0].exception(), SystemExit)
        runner.run(others_end(sender, tasks))
