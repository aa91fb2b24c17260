"""``--reload``: when the new code runs, nothing of the old code does."""

from __future__ import annotations

import itertools
import os
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING

import pytest

from tests.fault.service.processes import Recorder, Run, all_gone, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

APP = """
import asyncio, os
from contextlib import asynccontextmanager
from eventflow import Event, EventBus, Service
from tests.fault.service.target import note
from version import VERSION

class Tick(Event, topic="tick"):
    n: int

bus = EventBus("ticks")

@bus.on(Tick)
async def listener(event):
    note("handled", f"{VERSION} {os.getpid()}")

@asynccontextmanager
async def clock():
    async def run():
        n = 0
        while True:
            await bus.publish(Tick(n=n))
            n += 1
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        yield
        task.cancel()

service = Service(bus, clock(), name="ticks", drain_timeout=5)
"""


@pytest.mark.promise("1")
def test_no_listener_of_the_old_code_survives(tmp_path: Path, recorder: Recorder) -> None:
    """Counted by process id and version; code that is broken waits for the next change."""
    tmp_path.joinpath("app.py").write_text(APP)
    version = tmp_path / "version.py"

    def write(number: int) -> None:
        # Of one size and one second, as fast edits are: bytecode of the one fits the next.
        new = version.with_suffix(".new")
        new.write_text(f"VERSION = {number}\n")
        os.utime(new, (1_700_000_000, 1_700_000_000))
        new.replace(version)

    write(1)

    def handled(number: int) -> list[str]:
        return [what for what in recorder.all("handled") if what.startswith(f"{number} ")]

    with Run(tmp_path, "app:service", "--reload", recorder=recorder, cwd=tmp_path) as run:
        until(lambda: len(handled(1)) > 5, "version 1")
        # Several changes in a row are one; each is written whole.
        for number in (2, 3):
            write(number)
        until(lambda: len(handled(3)) > 5, "version 3")
        version.write_text("VERSION = = 4\n")
        run.until_said("SyntaxError")
        run.until_said("waiting for a change")
        alive = {what.split()[1] for what in recorder.all("handled")}
        until(lambda: all_gone(int(pid) for pid in alive), "no listener left")
        write(5)
        until(lambda: len(handled(5)) > 20, "version 5")
        run.send(SIGINT)
        assert run.wait() == 0, run.stderr
    recorder.end()
    seen = recorder.all("handled")
    order = list(dict.fromkeys(seen))  # each version and process, in the order they came up
    # Once a newer one has handled anything, an older one never does again.
    positions = {who: [i for i, what in enumerate(seen) if what == who] for who in order}
    for older, newer in itertools.pairwise(order):
        assert max(positions[older]) < min(positions[newer]), order
    assert len({who.split()[1] for who in order}) == len(order)
    assert [int(who.split()[0]) for who in order] == sorted(int(w.split()[0]) for w in order)
    assert str(os.getpid()) not in {who.split()[1] for who in order}


def test_the_old_process_is_drained(tmp_path: Path, recorder: Recorder) -> None:
    """What it had accepted is handled before the new one starts, which has all changes by then."""
    touched = tmp_path / "touched.py"
    touched.write_text("")
    ready = tmp_path / "ready"
    options = ("--reload", "--ready-file", str(ready))
    scenario = {"handler_s": 3, "events": 5, "options": {"concurrency": 5}}
    with Run(tmp_path, "shop", *options, recorder=recorder, cwd=tmp_path, scenario=scenario) as run:
        until(lambda: recorder.counts()["start"] == 5, "in flight")
        touched.write_text("1")
        run.until_said("files changed")
        assert recorder.counts()["done"] == 0
        touched.write_text("2")
        until(lambda: recorder.counts()["entered"] == 2, "started anew")
        until(ready.exists, "entered as a whole")
        assert recorder.counts()["done"] >= 5
        run.send(SIGTERM)
        assert run.wait() == 0, run.stderr
        assert run.stderr.count("files changed") == 1


def test_one_signal_in_the_middle_of_a_reload_drains(tmp_path: Path, recorder: Recorder) -> None:
    """The process that is being replaced was asked once already; it is not cut."""
    touched = tmp_path / "touched.py"
    touched.write_text("")
    scenario = {"handler_s": 2, "events": 5, "options": {"concurrency": 5}}
    run = Run(tmp_path, "shop", "--reload", recorder=recorder, cwd=tmp_path, scenario=scenario)
    with run:
        until(lambda: recorder.counts()["start"] == 5, "in flight")
        run.until_ready()
        touched.write_text("1")
        run.until_said("files changed")
        run.send(SIGTERM)
        assert run.wait() == 0, run.stderr
        assert "eventflow.handler_cancelled" not in run.stderr
    recorder.end()
    assert sorted(recorder.all("done")) == sorted(recorder.all("ok"))
