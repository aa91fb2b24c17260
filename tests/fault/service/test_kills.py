"""``kill -9`` of a worker at random moments: the others go on, and nothing is made up."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any

import pytest

from tests.fault.service.processes import Recorder, Run, all_gone, together

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.stress]

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
KILLS = 200 if STRESS else 8
PARTS = 4 if STRESS else 1

SCENARIO: dict[str, Any] = {
    "handler_s": 0.01,
    "events": 10_000,
    "pause": 0.005,
    "options": {"concurrency": 10},
}


def entered(recorder: Recorder) -> list[str]:
    """The process ids of the workers, in the order they started."""
    return [what.split()[0] for what in recorder.all("entered")]


def of(pid: str, keys: list[str]) -> set[str]:
    """The keys that a process published: each has its own bus."""
    return {key for key in keys if key.startswith(f"{pid}-")}


@pytest.mark.fault("SHD-14")
@pytest.mark.promise("2")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_worker_killed_at_a_random_moment(part: int, tmp_path: Path) -> None:
    """200 in a stress run, 8 here: the others lose nothing, no event is made up or done twice."""
    count = KILLS // PARTS
    together(range(part * count, (part + 1) * count), judge, tmp_path)


def judge(seed: int, directory: Path) -> None:
    chance = random.Random(seed)
    with Recorder(directory) as recorder:
        with Run(directory, "shop", "--workers", "2", recorder=recorder, scenario=SCENARIO) as run:
            run.until(lambda: len(entered(recorder)) == 2, "two workers")
            time.sleep(chance.uniform(0, 0.6))
            victim, other = chance.sample(entered(recorder), 2)
            os.kill(int(victim), SIGKILL)
            run.until(lambda: len(entered(recorder)) == 3, "replaced")
            successor = entered(recorder)[2]
            for pid in (other, successor):
                run.until(lambda: bool(of(pid, recorder.all("done"))), f"handled by {pid}")  # noqa: B023
            run.until_ready()
            run.send(SIGTERM)
            assert run.wait() == 0, run.stderr[-3000:]
            assert all_gone(int(pid) for pid in (victim, other, successor))
        recorder.end()
        tried, accepted, done = (recorder.all(kind) for kind in ("try", "ok", "done"))
        assert set(done) <= set(tried)
        assert max(Counter(done).values()) == 1
        for pid in (other, successor):
            assert of(pid, accepted) == of(pid, done)
