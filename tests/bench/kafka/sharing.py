"""One worker process beside two of one group, on the same topic."""

from __future__ import annotations

import json
import subprocess
import sys
from bisect import bisect_left, bisect_right
from functools import partial

from tests.bench.harness import Figure, Settings, Spread, ratios, rounds
from tests.bench.kafka.conditions import group
from tests.bench.kafka.worker import CONCURRENCY, EVERY, WAIT_S

__all__ = ("speed", "workers")

LONG_ENOUGH_S = 0.5


def _run(hosts: str, processes: int, *, waits: bool) -> list[list[float]]:
    """What each of so many processes says."""
    command = [sys.executable, "-m", "tests.bench.kafka.worker", "--hosts", hosts]
    command += ["--group", group(), *(["--waits"] if waits else [])]
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(processes)
    ]
    try:
        for one in running:
            assert one.stdout is not None
            assert json.loads(one.stdout.readline()) == "ready"
        for one in running:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        said = [one.communicate(timeout=60) for one in running]
        # Commits that the group refuses while it is sharing anew are warned of: no news here.
        assert not any(one.returncode for one in running), said
        return [json.loads(out) for out, _ in said]
    finally:
        for one in running:
            one.kill()
            one.wait()


def speed(times: list[list[float]]) -> float:
    """Events a second while all of them had something to handle."""
    assert all(len(its) > 1 for its in times), "one of the processes got nothing"
    begin, end = max(its[0] for its in times), min(its[-1] for its in times)
    assert end - begin >= LONG_ENOUGH_S, "they did not work side by side for long enough"
    handled = sum(bisect_right(its, end) - bisect_left(its, begin) - 1 for its in times) * EVERY
    return handled / (end - begin)


def _speed(hosts: str, processes: int, *, waits: bool) -> float:
    return speed(_run(hosts, processes, waits=waits))


def workers(settings: Settings, hosts: str) -> list[Figure]:
    """With a handler that waits, and with one that does nothing."""
    found: list[Figure] = []
    for waits, label, at_least in (
        (True, f"the handler awaits {WAIT_S * 1e3:g} ms", 1.8),
        (False, "the handler does nothing", None),
    ):
        speeds = rounds(
            {
                "two": partial(_speed, hosts, 2, waits=waits),
                "one": partial(_speed, hosts, 1, waits=waits),
            },
            settings.rounds,
            warm_up=0,
        )
        found.append(
            Figure(
                f"two processes beside one, concurrency={CONCURRENCY}: {label}",
                "events/s",
                ratios(speeds["two"], speeds["one"]),
                Spread.of(speeds["two"]),
                Spread.of(speeds["one"]),
                at_least=at_least,
                table="kafka",
                note="counted while both had partitions to read; keyless records",
            )
        )
    return found
