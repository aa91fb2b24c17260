"""Which loops can be asked for their thread, and that forks are counted."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

import pytest

from eventflow.lifecycle.home import noting_loop, process


def test_a_foreign_loop_is_not_looked_into() -> None:
    """Only asyncio's own loops are known to note their thread; uvloop's does not."""
    foreign: Any = object()
    assert noting_loop(foreign) is None


@pytest.mark.parametrize("running", [True, False])
def test_what_a_loop_notes_is_the_thread_that_runs_it(running: bool) -> None:
    """And nothing while it does not run; from Python 3.12 on nobody looks."""
    loop = asyncio.new_event_loop()
    try:
        noting = noting_loop(loop)
        if sys.version_info >= (3, 12):
            assert noting is None
            return

        async def inside() -> object:
            return noting._thread_id

        seen = loop.run_until_complete(inside()) if running else noting._thread_id
        assert seen == (threading.get_ident() if running else None)
    finally:
        loop.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_counts_in_the_child_alone() -> None:
    """One more there; the same here."""
    before = process.forks
    pid = os.fork()
    if pid == 0:
        os._exit(process.forks - before)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert process.forks == before
