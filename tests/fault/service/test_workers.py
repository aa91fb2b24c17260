"""``--workers``: processes that are supervised, and none that outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from signal import SIGINT, SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any

import pytest

from tests.fault.service.processes import ROOT, TRACER_S, Recorder, Run, all_gone, exists, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def workers(recorder: Recorder) -> dict[int, str]:
    """The index of each worker that was started, by process id."""
    pairs = (what.split() for what in recorder.all("entered"))
    return {int(pid): index for pid, index in pairs}


def test_each_worker_has_a_bus_of_its_own(tmp_path: Path, recorder: Recorder) -> None:
    """They know their index; a signal drains all of them; exit 0, and nobody is left."""
    ready = tmp_path / "ready"
    scenario = {"handler_s": 0.5, "events": 20, "options": {"concurrency": 20}}
    options = ("--workers", "2", "--ready-file", str(ready))
    with Run(tmp_path, "shop", *options, recorder=recorder, scenario=scenario) as run:
        until(lambda: recorder.counts()["start"] == 40, "all in flight")
        until(ready.exists, "ready")
        pids = workers(recorder)
        run.send(SIGTERM)
        until(lambda: not ready.exists(), "not ready")
        assert run.wait() == 0, run.stderr
        assert all_gone(pids)
    recorder.end()
    assert sorted(pids.values()) == ["0", "1"]
    assert sorted(recorder.all("done")) == sorted(recorder.all("ok"))
    assert {what.split("-")[0] for what in recorder.all("done")} == {str(pid) for pid in pids}


@pytest.mark.fault("SHD-06")
def test_each_signal_is_handed_on(tmp_path: Path, recorder: Recorder) -> None:
    """The second cancels in every worker."""
    scenario: dict[str, Any] = {"handler_s": 1000, "events": 1}
    with Run(tmp_path, "shop", "--workers", "2", recorder=recorder, scenario=scenario) as run:
        until(lambda: recorder.counts()["start"] == 2, "in flight")
        run.send(SIGINT)
        # Half a second is no proof that it would drain for ever; that it has not ended, is.
        time.sleep(0.5)
        assert run.process.poll() is None
        sent = run.send(SIGTERM)
        assert run.wait() == 0, run.stderr
        assert time.monotonic() - sent <= 2 + TRACER_S
        assert run.stderr.count("eventflow.handler_cancelled") == 2
        assert "Traceback" not in run.stderr


@pytest.mark.fault("SHD-06")
def test_the_third_signal_kills(tmp_path: Path, recorder: Recorder) -> None:
    """Workers that refuse everything, too."""
    scenario: dict[str, Any] = {"handler": "swallows", "events": 1}
    with Run(tmp_path, "shop", "--workers", "2", recorder=recorder, scenario=scenario) as run:
        until(lambda: recorder.counts()["start"] == 2, "in flight")
        sent = run.send(SIGTERM, SIGTERM, SIGINT)
        assert run.wait() == 130, run.stderr
        until(lambda: all_gone(workers(recorder)), "gone", within=1)
        assert time.monotonic() - sent <= 2 + TRACER_S


@pytest.mark.fault("SHD-06")
def test_a_log_that_nobody_reads_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """Workers that die have lines written about them into a pipe that is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    target = "tests.fault.service.target:dies_at_once"
    command = [sys.executable, "-m", "eventflow", "run", target, "--workers", "2"]
    ready = tmp_path / "ready"
    with subprocess.Popen([*command, "--ready-file", str(ready)], stderr=writer, cwd=ROOT) as run:
        try:
            until(ready.exists, "ready once")
            until(lambda: not ready.exists(), "one has died")
            run.send_signal(SIGTERM)
            assert run.wait(15 + TRACER_S) in {0, 1, 143}
        finally:
            run.kill()
            os.close(reader)
            os.close(writer)


def test_a_worker_that_dies_is_replaced(tmp_path: Path, recorder: Recorder) -> None:
    """Later each time; the other one goes on."""
    with Run(tmp_path, "shop", "--workers", "2", recorder=recorder) as run:
        until(lambda: len(workers(recorder)) == 2, "both started")
        (victim, other) = (
            next(pid for pid, index in workers(recorder).items() if index == wanted)
            for wanted in "10"
        )
        gaps: list[float] = []
        for count in (3, 4):
            killed = time.monotonic()
            os.kill(victim, SIGKILL)
            until(lambda: len(workers(recorder)) == count, "replaced")  # noqa: B023
            gaps.append(time.monotonic() - killed)
            victim = list(workers(recorder))[-1]
            assert workers(recorder)[victim] == "1"
        assert exists(other)
        assert gaps[0] >= 0.5
        assert gaps[1] >= 1.0
        run.until_ready()
        run.send(SIGTERM)
        assert run.wait() == 0, run.stderr
        assert run.stderr.count("eventflow.worker_ended") == 2


@pytest.mark.promise("1")
def test_no_worker_outlives_its_parent(tmp_path: Path, recorder: Recorder) -> None:
    """A parent that is killed with -9: the workers drain, and end."""
    scenario = {"handler_s": 0.5, "events": 10, "options": {"concurrency": 10}}
    with Run(tmp_path, "shop", "--workers", "2", recorder=recorder, scenario=scenario) as run:
        until(lambda: recorder.counts()["start"] == 20, "all in flight")
        pids = workers(recorder)
        run.send(SIGKILL)
        assert run.wait() == -SIGKILL
        until(lambda: all_gone(pids), "gone", within=5)
        assert run.stderr.count("eventflow.service_stopped") == 2
    recorder.end()
    assert sorted(recorder.all("done")) == sorted(recorder.all("ok"))


@pytest.mark.parametrize(
    ("target", "code", "attempts"), [("can_not_start", 1, 3), ("not_a_service", 2, 0)]
)
def test_a_worker_that_can_not_start(
    tmp_path: Path, recorder: Recorder, target: str, code: int, attempts: int
) -> None:
    """Tried three times, later each time; a wrong target once; then the whole ends like it."""
    with Run(tmp_path, target, "--workers", "1", recorder=recorder, ready_file=False) as run:
        assert run.wait() == code
        assert "eventflow.worker_start_failed" in run.stderr
    recorder.end()
    times = [float(when) for when in recorder.all("attempt")]
    assert len(times) == attempts
    if attempts:
        assert times[1] - times[0] >= 0.5
        assert times[2] - times[1] >= 1.0


@pytest.mark.fault("SHD-07")
@pytest.mark.parametrize("number", [SIGTERM, SIGINT], ids=lambda number: number.name)
def test_a_signal_while_workers_start(
    tmp_path: Path, recorder: Recorder, number: signal.Signals
) -> None:
    """Handed on at once, also before a worker can handle it: none is lost, all end."""
    how = {"how": "waits"}
    with Run(tmp_path, "half_started", "--workers", "2", recorder=recorder, scenario=how) as run:
        until(lambda: recorder.all("entered") != [], "one on its way")
        sent = run.send(number)
        assert run.wait() == 128 + SIGTERM, run.stderr
        assert time.monotonic() - sent <= 5 + TRACER_S
        assert "Traceback" not in run.stderr
    recorder.end()
    assert sorted(recorder.all("left")) == sorted(recorder.all("entered"))
