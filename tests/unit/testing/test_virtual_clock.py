"""Time on the virtual-clock loop: when it moves, and in which order timers fire."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import sys
import time
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.testing import VirtualClockLoop, run_virtual


def now() -> float:
    return asyncio.get_running_loop().time()


def order_of(delays: list[float], *, seed: int | None) -> list[int]:
    """The order in which timers fire that were scheduled with these delays."""

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        fired: list[int] = []
        for number, delay in enumerate(delays):
            loop.call_later(delay, fired.append, number)
        await asyncio.sleep(max(delays) + 1)
        return fired

    return run_virtual(main, seed=seed)


def test_a_day_passes_at_once() -> None:
    """Sleeping takes virtual time and no real time."""

    async def main() -> float:
        await asyncio.sleep(86_400)
        await anyio.sleep(0.5)
        return now()

    real = time.monotonic()
    assert run_virtual(main) == 86_400.5
    assert time.monotonic() - real < 5


def test_time_starts_where_it_is_told_to() -> None:
    """Time starts at `start`, also where a float can't hold nanoseconds any more."""

    async def main() -> tuple[float, float]:
        first = now()
        await asyncio.sleep(0.25)
        return first, now()

    assert run_virtual(main) == (0.0, 0.25)
    assert run_virtual(main, start=1.7e9) == (1.7e9, 1.7e9 + 0.25)
    assert run_virtual(main, start=-5.0) == (-5.0, -4.75)


def test_time_stands_still_while_callbacks_run() -> None:
    """Time never moves while anything is ready, however long that lasts."""

    async def main() -> set[float]:
        loop = asyncio.get_running_loop()
        loop.call_later(1e-6, lambda: None)
        seen: set[float] = set()
        for _ in range(1000):
            await asyncio.sleep(0)
            seen.add(loop.time())
        return seen

    assert run_virtual(main) == {0.0}


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_timers_fire_in_the_order_of_their_due_time(seed: int | None) -> None:
    """A seed shuffles ties only: different due times keep their order."""
    delays = [5.0, 0.1, 3.0, 0.1 + 1e-6, 4.0, 0.0]
    assert order_of(delays, seed=seed) == [5, 1, 3, 2, 4, 0]


def test_ties_fire_in_scheduling_order_without_a_seed() -> None:
    """A plain asyncio heap does not keep the order of equal timers; this loop does."""
    assert order_of([1.0] * 100, seed=None) == list(range(100))


def test_a_seed_shuffles_ties_and_repeats_itself() -> None:
    """The same seed gives the same order, another seed another one, and no timer gets lost."""
    first, again, other = (order_of([1.0] * 100, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other) == list(range(100))


def test_times_that_differ_by_a_rounding_error_tie() -> None:
    """0.1 + 0.2 and 0.3 are the same time, and no timer fires before its own."""
    early: list[float] = []

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        fired: list[str] = []

        def fire(name: str, when: float) -> None:
            fired.append(name)
            if loop.time() < when:
                early.append(when)

        loop.call_at(0.1 + 0.2, fire, "first", 0.1 + 0.2)
        loop.call_at(0.3, fire, "second", 0.3)
        await asyncio.sleep(1)
        return fired

    assert run_virtual(main) == ["first", "second"]
    assert early == []


@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.1 + 0.2, 0.7, 0.1 * 7, 1e-9, 0.0]), min_size=1),
    st.integers(0, 3) | st.none(),
    st.sampled_from([0.0, 12.3, 1.7e9]),
)
def test_no_timer_fires_early_or_out_of_order(
    delays: list[float], seed: int | None, start: float
) -> None:
    """Whatever the mix of timers: all fire, none before its time, time never goes back."""

    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[float, float]] = []

        def note(due: float) -> None:
            fired.append((due, loop.time()))

        for delay in delays:
            due = loop.time() + delay
            loop.call_at(due, note, due)
        await asyncio.sleep(2)
        return fired

    fired = run_virtual(main, seed=seed, start=start)
    assert len(fired) == len(delays)
    assert all(due <= at for due, at in fired)
    times = [at for _, at in fired]
    assert times == sorted(times)
    slots = [round(due * 1e9) for due, _ in fired]
    assert slots == sorted(slots)


@pytest.mark.parametrize("seed", [None, 3])
def test_ready_callbacks_keep_their_order(seed: int | None) -> None:
    """A seed does not touch call_soon."""

    async def main() -> list[int]:
        ran: list[int] = []
        for number in range(50):
            asyncio.get_running_loop().call_soon(ran.append, number)
        await asyncio.sleep(0)
        return ran

    assert run_virtual(main, seed=seed) == list(range(50))


def test_a_cancelled_timer_neither_fires_nor_takes_time() -> None:
    """Time does not go to a timer that was cancelled, nor do many of them pile up."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        for _ in range(1000):
            loop.call_later(5, pytest.fail, "fired").cancel()
        await asyncio.sleep(1)
        return loop.time()

    assert run_virtual(main) == 1.0


def test_timeouts_of_asyncio_and_anyio() -> None:
    """Every kind of timeout fires at its virtual time, and not before."""

    async def main() -> list[float]:
        times: list[float] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.sleep(2)
        times.append(now())
        with pytest.raises(TimeoutError), anyio.fail_after(0.1):
            await anyio.sleep_forever()
        times.append(now())
        with anyio.move_on_after(0.2):
            await anyio.sleep_forever()
        times.append(now())
        async with asyncio.timeout(1):
            await asyncio.sleep(0.999)
        times.append(now())
        return times

    assert run_virtual(main) == pytest.approx([1.0, 1.1, 1.3, 2.299])


def test_a_timer_that_is_never_due_is_not_jumped_to() -> None:
    """An infinite delay is no time; NaN is refused."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        never = loop.call_later(math.inf, pytest.fail, "fired")
        await asyncio.sleep(3)
        never.cancel()
        with pytest.raises(ValueError, match="NaN"):
            loop.call_at(math.nan, print)
        return loop.time()

    assert run_virtual(main) == 3.0


def test_debug_mode() -> None:
    """The debug mode of asyncio works, without false reports of slow callbacks."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert loop.get_debug()
        timer = loop.call_later(1, print)
        assert f"created at {__file__}" in repr(timer)
        timer.cancel()
        with pytest.raises(TypeError):
            loop.call_at(1, main)
        await asyncio.sleep(3600)
        return loop.time()

    assert run_virtual(main, debug=True) == 3600.0


if sys.version_info >= (3, 12):  # eager tasks came with it

    def test_eager_tasks() -> None:
        """The loop takes asyncio's eager task factory."""

        async def main() -> list[str]:
            loop = asyncio.get_running_loop()
            factory: Any = asyncio.eager_task_factory
            loop.set_task_factory(factory)
            said: list[str] = []

            async def say(word: str, delay: float) -> None:
                said.append(f"started {word}")
                await asyncio.sleep(delay)
                said.append(word)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(say("late", 2))
                tasks.create_task(say("early", 1))
                assert said == ["started late", "started early"]
            return said[2:]

        assert run_virtual(main) == ["early", "late"]


def test_sockets_that_are_ready_are_served_before_time_moves() -> None:
    """I/O that is there already comes before a jump; a hold waits for I/O that is not."""

    async def main() -> tuple[bytes, float, bytes]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            await loop.sock_sendall(left, b"ping")
            async with asyncio.timeout(1e-6):
                first = await loop.sock_recv(right, 10)
            at = loop.time()
            with loop.clock_held():
                loop.call_later(60, pytest.fail, "the clock was held").cancel()
                receive = asyncio.ensure_future(loop.sock_recv(right, 10))
                await asyncio.sleep(0)
                await loop.sock_sendall(left, b"pong")
                second = await receive
        return first, at, second

    assert run_virtual(main) == (b"ping", 0.0, b"pong")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_signals_wake_the_loop() -> None:
    """A signal handler of the loop runs although nothing else is going on."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, seen.set)
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        await seen.wait()
        loop.remove_signal_handler(signal.SIGUSR1)
        return loop.time()

    assert run_virtual(main) == 0.0


def test_run_virtual_returns_results_raises_errors_and_closes_the_loop() -> None:
    """It behaves as asyncio.run does."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        assert isinstance(loops[0], VirtualClockLoop)
        assert loops[0].seed == 5
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run_virtual(main, seed=5)
    assert loops[0].is_closed()
