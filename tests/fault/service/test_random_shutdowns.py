"""Real processes, ended by real signals at random moments: nothing hangs, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from signal import SIGINT, SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any

import pytest

from tests.fault.service.processes import Recorder, Run, together, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.stress]

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
PROCESSES = 1_000 if STRESS else 50
PARTS = 10 if STRESS else 2

START_BOUND_S = 5.0
# Ends of the stop and of the interpreter, and what a busy machine takes for them. Two seconds are
# what `eventflow run` itself allows before it leaves, so it has to be more.
ROOM_S = 1.0 + 3.0


class Case:
    """What a seed stands for."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        choice = random.Random(seed).choice
        uniform = random.Random(seed).uniform
        self.handler = choice(["works", "works", "works", "works", "swallows", "in_thread"])
        self.drain = choice([0.1, 0.5, 2.0])
        self.grace = choice([0.1, 0.5])
        self.when = choice(["at once", "starting", "running", "running", "running"])
        self.delay = uniform(0, 0.6)
        numbers = random.Random(seed).choices([SIGTERM, SIGINT], k=3)
        self.numbers = numbers[: choice([1, 1, 1, 2, 2, 3])]
        self.gaps = [uniform(0.01, 0.4) for _ in self.numbers]
        self.loop = choice(["asyncio", "asyncio", "uvloop"])
        self.scenario: dict[str, Any] = {
            "handler": self.handler,
            "handler_s": choice([0, 0.01, 0.2, 1.0]),
            "drain": self.drain,
            "grace": self.grace,
            "publishers": choice([1, 5]),
            "events": choice([10, 100, 10_000]),
            "pause": choice([0, 0.001, 0.02]),
            "insists": choice([False, True]),
            "options": {
                "concurrency": choice([1, 10]),
                "capacity": choice([1, 10, 1000]),
                "overflow": choice(["block", "block", "drop_oldest", "raise"]),
            },
        }

    def __repr__(self) -> str:
        return f"seed {self.seed}: {self.__dict__}"


@pytest.mark.promise("2", "6")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_shutdowns_of_processes(part: int, tmp_path: Path) -> None:
    """1,000 in a stress run, 50 here: none hangs, none is late, each event is accounted for."""
    count = PROCESSES // PARTS
    together([Case(seed) for seed in range(part * count, (part + 1) * count)], judge, tmp_path)


def judge(case: Case, directory: Path) -> None:
    with Recorder(directory) as recorder:
        options = ("--loop", case.loop)
        with Run(directory, "shop", *options, recorder=recorder, scenario=case.scenario) as run:
            if case.when == "running":
                run.until(lambda: recorder.all("start") != [], "running")
            elif case.when == "starting":
                run.until(lambda: recorder.all("entered") != [], "starting")
            time.sleep(case.delay)
            first = time.monotonic()
            for number, gap in zip(case.numbers, case.gaps, strict=True):
                run.process.send_signal(number)
                time.sleep(gap)
            bound = max(case.drain + case.grace, START_BOUND_S if case.when != "running" else 0)
            code = run.wait(bound + 20)
            took = time.monotonic() - first
        recorder.end()
        allowed = {0, 1, 128 + case.numbers[0], 128 + case.numbers[-1]}
        if case.when == "at once":  # before Python code runs, the system's own way to end
            allowed |= {-SIGTERM, -SIGINT}
        assert code in allowed, run.stderr[-3000:]
        if code != -SIGINT and "KeyboardInterrupt" not in run.stderr:
            assert "Traceback" not in run.stderr, run.stderr[-3000:]
        assert took <= bound + ROOM_S, f"{took:.2f} s"
        account(case, code, run, recorder)


def account(case: Case, code: int, run: Run, recorder: Recorder) -> None:
    """Compare what the process says with what it had told somebody else before."""
    counts = recorder.counts()
    done = recorder.all("done")
    assert len(done) == len(set(done))
    assert set(done) <= set(recorder.all("try"))
    if "eventflow.service_stopped" not in run.stderr:
        # It left at once, or was not there yet.
        assert code not in (0, 1) or counts["try"] == 0 or "blocked" in run.stderr
        return
    ledger = run.ledger()
    accepted = ledger["offered"] - ledger["rejected"]
    # Each publish that returned is among them; one that was cut may be, too.
    assert counts["ok"] <= accepted <= counts["try"], (ledger, counts)
    ended = sum(
        ledger[how]
        for how in ("handled", "failed", "dropped", "cancelled", "released", "abandoned")
    )
    assert ended == accepted, (ledger, counts)
    assert ledger["handled"] <= counts["done"] <= counts["start"]
    if not ledger["abandoned"] and not ledger["failed"] and case.handler != "in_thread":
        assert ledger["handled"] == counts["done"], (ledger, counts)
    assert (code == 0) <= (ledger["abandoned"] == 0)


@pytest.mark.fault("SHD-14")
@pytest.mark.promise("2")
def test_what_was_accepted_before_a_kill_was_accepted_before_a_kill(
    tmp_path: Path, recorder: Recorder
) -> None:
    """-9 leaves the bus no chance: what the recorder has is what there was, each at most once."""
    scenario = {"handler_s": 0.01, "events": 10_000, "options": {"concurrency": 10}}
    with Run(tmp_path, "shop", recorder=recorder, scenario=scenario) as run:
        until(lambda: recorder.counts()["done"] > 20, "running")
        run.send(signal.SIGKILL)
        assert run.wait() == -SIGKILL
    recorder.end()
    done, tried = recorder.all("done"), recorder.all("try")
    assert len(done) == len(set(done))
    assert set(done) <= set(tried)
    assert set(recorder.all("ok")) <= set(tried)
