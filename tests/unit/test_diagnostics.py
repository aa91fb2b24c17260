"""The watchdog names what blocks the event loop, while it does. In real time."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import uvloop

from eventflow.bus import EventBus
from eventflow.diagnostics import LOOKS, Watchdog
from eventflow.errors import ConfigurationError, InvalidOptionError
from eventflow.testing import VirtualClockDeadlockError, VirtualClockLoop, no_leaks, run_virtual
from tests.unit.bus.support import Ping, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCKED, RESUMED = "eventflow.loop_blocked", "eventflow.loop_resumed"
T = 0.04
LONG = 10.0


class Lines:
    """The log lines, as they come; one can block a thread until some are there."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._came = threading.Condition()
        self.fails: Callable[[], BaseException] | None = None

    def processor(self, logger: Any, method: str, line: structlog.typing.EventDict) -> Any:
        with self._came:
            self._lines.append(dict(line) | {"level": method})
            self._came.notify_all()
        if self.fails is not None:
            raise self.fails()
        raise structlog.DropEvent

    def of(self, event: str) -> list[dict[str, Any]]:
        with self._came:
            return [line for line in self._lines if line["event"] == event]

    def block_until(self, event: str, count: int = 1) -> None:
        """Blocks, as bad code does."""
        with self._came:
            came = self._came.wait_for(
                lambda: sum(line["event"] == event for line in self._lines) >= count, LONG
            )
        assert came, f"{event} was not logged {count} times"

    async def wait_for(self, event: str) -> None:
        """Lets the loop run."""
        async with asyncio.timeout(LONG):
            while not self.of(event):  # noqa: ASYNC110 - another thread does it
                await asyncio.sleep(0.001)


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines = Lines()
    structlog.configure(processors=[lines.processor], cache_logger_on_first_use=False)
    try:
        with no_leaks():
            yield lines
    finally:
        structlog.reset_defaults()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "virtual clock": VirtualClockLoop,
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_handler_that_blocks_is_named(lines: Lines, loop: str) -> None:
    """Its bus, subscription, event and stack, while it blocks; and the total at the end."""
    event = Ping(n=7)

    async def culprit(event: Ping) -> None:
        await asyncio.sleep(0)
        lines.block_until(BLOCKED)

    async def main() -> None:
        async with Watchdog(threshold=T), EventBus(name="shop: two") as bus:
            bus.subscribe(Ping, culprit, name="a:b")
            await bus.publish(event)
            await bus.wait_idle()
            assert bus.statistics()["a:b"].handled == 1

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    blocked, resumed = lines.of(BLOCKED)[0], lines.of(RESUMED)[-1]
    facts = {
        "task": "eventflow:shop: two:a:b",
        "bus": "shop: two",
        "subscription": "a:b",
        "event_id": event.id,
        "topic": "test.ping",
        "level": "warning",
    }
    assert facts.items() <= blocked.items()
    assert facts.items() <= resumed.items()
    assert T <= blocked["blocked_s"] <= resumed["blocked_s"]
    assert "in culprit\n    lines.block_until(BLOCKED)\n" in blocked["stack"]
    if loop != "uvloop":
        assert "run_until_complete" not in blocked["stack"]


async def test_a_long_blockage_is_told_of_at_doubling_intervals(lines: Lines) -> None:
    """Not at each look; and the next blockage starts anew."""
    async with Watchdog(threshold=T):
        await asyncio.sleep(0)
        lines.block_until(BLOCKED, 4)
        await lines.wait_for(RESUMED)
        first: list[float] = [line["blocked_s"] for line in lines.of(BLOCKED)]
        lines.block_until(BLOCKED, len(first) + 1)
    assert len(first) >= 4
    rounding = 0.002
    assert all(later >= 2 * sooner - rounding for sooner, later in itertools.pairwise(first))
    assert len(lines.of(RESUMED)) == 2
    assert lines.of(RESUMED)[0]["blocked_s"] >= first[-1]


async def test_a_task_that_a_handler_started_is_named_by_its_handler(lines: Lines) -> None:
    """The task's own name, and the event it came from."""

    async def child() -> None:
        await asyncio.sleep(0)  # an eager task may get its name after its first step
        lines.block_until(BLOCKED)

    async def handler(event: Ping) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child(), name="the child")

    async with Watchdog(threshold=T), EventBus(name="shop") as bus:
        bus.subscribe(Ping, handler)
        await bus.publish(Ping())
    line = lines.of(BLOCKED)[0]
    assert (line["task"], line["subscription"], line["bus"]) == ("the child", "handler", "shop")
    assert "in child" in line["stack"]


async def test_code_that_is_none_of_ours_is_named_as_far_as_it_can_be(lines: Lines) -> None:
    """A task without an event; a callback without a task."""

    def callback() -> None:
        lines.block_until(BLOCKED, before + 1)

    async def plain() -> None:
        await asyncio.sleep(0)  # as above
        lines.block_until(BLOCKED, 1)

    async with Watchdog(threshold=T):
        await asyncio.create_task(plain(), name="plain")
        await lines.wait_for(RESUMED)
        before = len(lines.of(BLOCKED))
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0)
    of_task, *_, of_callback = lines.of(BLOCKED)
    unknown = {"bus", "subscription", "event_id", "topic"}
    assert of_task["task"] == "plain"
    assert not unknown & of_task.keys()
    assert not (unknown | {"task"}) & of_callback.keys()
    assert "in callback" in of_callback["stack"]


async def test_a_key_function_that_blocks_is_named_by_its_subscription(lines: Lines) -> None:
    """No event is being handled then."""

    def key(event: Ping) -> str:
        lines.block_until(BLOCKED)
        return ""

    async def handler(event: Ping) -> None:
        pass

    async with Watchdog(threshold=T), EventBus() as bus:
        bus.subscribe(Ping, handler, concurrency=2, order_key=key)
        await bus.publish(Ping())
    line = lines.of(BLOCKED)[0]
    assert line["subscription"] == "handler"
    assert "in key" in line["stack"]


@pytest.mark.promise("6")
async def test_a_stop_that_overruns_is_explained(lines: Lines) -> None:
    """The one thing a stop can't end is a blocked loop; the watchdog says who blocks it."""

    async def refuses(event: Ping) -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            lines.block_until(BLOCKED)
            raise

    began = time.monotonic()
    stopping = EventBus(name="shop", drain_timeout=0, cancel_grace=T)
    async with Watchdog(threshold=T), stopping as bus:
        bus.subscribe(Ping, refuses)
        await bus.publish(Ping())
        await turns()
    assert time.monotonic() - began >= T
    # A machine that stands still for as long is told of too, and names no handler.
    line = next(line for line in lines.of(BLOCKED) if "bus" in line)
    assert (line["bus"], line["subscription"]) == ("shop", "refuses")
    assert bus.ledger["refuses"].cancelled == 1


class Counting(asyncio.SelectorEventLoop):
    """Counts who wakes it."""

    wakes = 0

    def _write_to_self(self) -> None:
        self.wakes += 1
        super()._write_to_self()  # type: ignore[misc]


def test_a_loop_that_waits_is_left_alone(lines: Lines) -> None:
    """Not woken at all while it waits, and a few times per threshold while it is busy."""
    turns: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Counting)
        async with Watchdog(threshold=T):
            await asyncio.sleep(20 * T)
            waiting = loop.wakes
            began = time.monotonic()
            until = began + 10 * T
            while (now := time.monotonic()) < until:
                turns.append(now - began)
                began = now
                while time.monotonic() < now + T / 2:
                    pass
                await asyncio.sleep(0)
            turns.append(time.monotonic() - began)
            busy, took = loop.wakes - waiting, time.monotonic() - until + 10 * T
        assert waiting <= 2  # by chance: looked at while a callback ran
        assert 1 <= busy <= took / T * LOOKS + 1

    with asyncio.Runner(loop_factory=Counting) as runner:
        runner.run(main())
    # Each time the machine did other things in between, it was blocked.
    assert len(lines.of(BLOCKED)) <= sum(turn >= T for turn in turns)


def test_a_virtual_clock_goes_on_and_notices_when_nothing_can_wake_it(lines: Lines) -> None:
    """Hours pass at once, and a deadlock is still one."""

    async def main(*, stuck: bool) -> float:
        async with Watchdog(threshold=T):
            for _ in range(100):
                await asyncio.sleep(3600)
            if stuck:
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(lambda: main(stuck=False)) == 360_000
    with pytest.raises(VirtualClockDeadlockError, match="main"):
        run_virtual(lambda: main(stuck=True), real_wait=5 * T)


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "eventflow:watchdog"]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_is_closed_ends_the_thread(lines: Lines, loop: str) -> None:
    """Though the block was never left."""
    running = LOOPS[loop]()
    watchdog = Watchdog(threshold=T)
    running.run_until_complete(watchdog.__aenter__())
    [thread] = watchers()
    assert thread.daemon
    running.close()
    thread.join(LONG)
    assert not thread.is_alive()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_loop_that_does_not_run_is_not_blocked(lines: Lines, loop: str) -> None:
    """Between two runs a program may do what it likes; afterwards it is watched again."""
    running = LOOPS[loop]()
    watchdog = Watchdog(threshold=T)
    running.run_until_complete(watchdog.__aenter__())
    threading.Event().wait(5 * T)
    assert lines.of(BLOCKED) == []

    async def block() -> None:
        lines.block_until(BLOCKED)

    running.run_until_complete(block())
    running.run_until_complete(watchdog.__aexit__(None, None, None))
    running.close()
    assert watchers() == []


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, MemoryError])
async def test_a_log_processor_that_fails_does_not_end_the_watch(
    lines: Lines, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it raises; the next line is tried again."""
    lines.fails = error
    async with Watchdog(threshold=T):
        await asyncio.sleep(0)
        lines.block_until(BLOCKED, 2)
        await lines.wait_for(RESUMED)
        lines.block_until(BLOCKED, len(lines.of(BLOCKED)) + 1)
        assert len(watchers()) == 1
    assert len(lines.of(RESUMED)) == 2
    assert ("could not write" in capsys.readouterr().err) == issubclass(error, Exception)


async def test_nothing_is_left_and_it_can_be_entered_again(lines: Lines) -> None:
    """No thread, task or timer; not twice at once, but one after the other, also after an error."""
    watchdog = Watchdog(threshold=T)

    async def enter() -> None:
        async with watchdog:
            assert len(watchers()) == 1
            assert len(asyncio.all_tasks()) == 1
            with pytest.raises(ConfigurationError, match="already"):
                await watchdog.__aenter__()
            raise LookupError

    for _ in range(3):
        assert watchers() == []
        with pytest.raises(LookupError):
            await enter()
    assert watchers() == []


async def test_leaving_straight_after_a_blockage_tells_of_its_end(lines: Lines) -> None:
    """The loop has had no turn in between."""
    async with Watchdog(threshold=T):
        await asyncio.sleep(0)
        lines.block_until(BLOCKED)
    assert len(lines.of(RESUMED)) == 1


async def test_a_lock_on_the_interpreter_is_told_of_afterwards(lines: Lines) -> None:
    """Nothing in Python runs while C code keeps it, the watchdog neither."""
    hold_lock = ctypes.PyDLL(None).usleep
    async with Watchdog(threshold=T):
        await asyncio.sleep(0)
        hold_lock(int(5 * T * 1e6))
        lines.block_until("eventflow.watchdog_late")
    line = max(lines.of("eventflow.watchdog_late"), key=lambda line: line["late_s"])
    assert line["late_s"] >= 3 * T
    assert f"in {test_a_lock_on_the_interpreter_is_told_of_afterwards.__name__}" in line["stack"]


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), 10**400, True, None, "1"])
def test_a_threshold_is_a_number_of_seconds(wrong: Any) -> None:
    """Anything else is refused, by name."""
    with pytest.raises(InvalidOptionError, match="above 0") as caught:
        Watchdog(threshold=wrong)
    assert caught.value.option == "threshold"


async def test_a_watchdog_that_was_not_entered_is_left_without_effect() -> None:
    """And can be entered afterwards."""
    watchdog = Watchdog(threshold=T)
    threads = threading.enumerate()
    await watchdog.__aexit__(None, None, None)
    assert threading.enumerate() == threads
    async with watchdog:
        assert threading.enumerate() != threads
