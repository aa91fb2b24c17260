"""The threads of sync handlers end, whatever becomes of their event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from eventflow.lifecycle.threads import ThreadRunner


@pytest.mark.promise("6")
@pytest.mark.parametrize("loop_is", ["running no more", "closed"])
def test_a_thread_that_returns_after_the_runner_was_closed(loop_is: str) -> None:
    """It needs no turn of the loop to end: a loop that stops just then has none left for it."""
    release = threading.Event()
    loop = asyncio.new_event_loop()
    try:

        async def leave_behind() -> tuple[threading.Thread, ...]:
            runner = ThreadRunner(loop, limit=2, name="mine")
            before = set(threading.enumerate())
            runner.start("stuck", release.wait, 10)
            assert runner.close() == ("eventflow:mine-1 in stuck",)
            return tuple(set(threading.enumerate()) - before)

        (thread,) = loop.run_until_complete(leave_behind())
        if loop_is == "closed":
            loop.close()
        assert thread.is_alive()
        release.set()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        release.set()
        loop.close()
