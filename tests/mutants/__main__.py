"""Plant each bug in a copy of the package, and see which test notices.

::

    python -m tests.mutants                   all of them
    python -m tests.mutants turns "context leak"   those with one of these in their name
    python -m tests.mutants --list

The tests of the mutant's own area run first, then all unit tests; the first failure ends it.
The command line's have real processes instead, and take up to two minutes each.
Nothing is changed but temporary copies. Exit code: 0 if each was noticed; 1 if one survived, or
could not be planted because the text it replaces is not there exactly once.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("eventflow", "tests", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "bench", "mutants", "browser")
LONGEST_RUN_S = 300.0

# Cheap and wide first. What has no tests of its own is tested through the bus.
LOGGING = ("tests/unit/test_configure.py", "tests/unit/test_logging.py")
FIRST = {
    "lifecycle": ("tests/unit/lifecycle", "tests/unit/bus"),
    "bus": ("tests/unit/bus",),
    "events": ("tests/unit/events",),
    "testing": ("tests/unit/testing",),
    "messaging": ("tests/unit/messaging", "tests/fault/messaging"),
    "brokers": ("tests/contract/test_memory.py", "tests/unit/brokers"),
    "diagnostics": ("tests/unit/test_diagnostics.py",),
    "logging": LOGGING,
    "_escape": LOGGING,
    "_log": LOGGING,
}
ELSEWHERE = ("tests/unit/bus",)
ALL = ("tests/unit",)
# The command line is seen by no unit test: real processes, run in place of these.
PROCESSES = tuple(
    f"tests/fault/service/test_{name}.py" for name in ("signals", "ends", "workers", "reload")
)

_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    caught_by: str | None
    seconds: float


class NotPlantedError(Exception):
    """A mutant can't be applied, or the tests don't pass without one."""


def plant(mutant: Mutant, copy: Path) -> str:
    """Write the mutant's file in the copy, and return what was there before."""
    path = copy / "eventflow" / mutant.path
    source = path.read_text(encoding="utf-8")
    check(mutant, source)
    path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    return source


def check(mutant: Mutant, source: str) -> None:
    """Refuse a mutant whose place is gone, or is no longer the only one."""
    times = source.count(mutant.old)
    if times != 1:
        raise NotPlantedError(
            f"{mutant.name}: eventflow/{mutant.path} has the text {times} times, not once:\n"
            f"{mutant.old}"
        )


def run_tests(copy: Path, paths: tuple[str, ...]) -> str | None:
    """Run tests in a copy up to the first failure; its name, or ``None`` if all passed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "EVENTFLOW_SHRINK": "0",
    }
    environment.pop("EVENTFLOW_STRESS", None)
    environment.pop("CI", None)
    there = [path for path in paths if (copy / path).exists()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no"]
    try:
        done = subprocess.run(
            [*command, *there],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LONGEST_RUN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"nothing ended within {LONGEST_RUN_S:g} s"
    if done.returncode == 0:
        return None
    if found := _FAILED.search(done.stdout):
        return found[1]
    # A time limit can end a test where pytest, which then reports on it, finds no line number.
    if "Timeout" in done.stdout + done.stderr or done.returncode == pytest.ExitCode.INTERNAL_ERROR:
        return "the time limit of a test"
    raise NotPlantedError(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def tests_of(mutant: Mutant) -> list[tuple[str, ...]]:
    """What has to notice it, one run of pytest after the other."""
    if mutant.area == "cli":
        return [PROCESSES]
    return [FIRST.get(mutant.area, ELSEWHERE), ALL]


def judge(mutant: Mutant, copy: Path) -> Verdict:
    """Plant one mutant, run the tests, and take it away again."""
    began = time.monotonic()
    before = plant(mutant, copy)
    try:
        runs = (run_tests(copy, paths) for paths in tests_of(mutant))
        caught_by = next((failed for failed in runs if failed is not None), None)
    finally:
        (copy / "eventflow" / mutant.path).write_text(before, encoding="utf-8")
    if caught_by is not None and "::" not in caught_by and caught_by.endswith(".py"):
        raise NotPlantedError(f"{mutant.name}: {caught_by} can't even be imported")
    return Verdict(mutant, caught_by, time.monotonic() - began)


def make_copy(into: Path) -> Path:
    """Copy what the tests need."""
    into.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, into / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(ROOT / name, into / name)
    where = subprocess.run(
        [sys.executable, "-c", "import eventflow; print(eventflow.__file__)"],
        cwd=into,
        env={**os.environ, "PYTHONPATH": str(into)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(where).is_relative_to(into):
        raise NotPlantedError(f"tests in the copy would import {where}")
    return into


def judge_all(chosen: list[Mutant], jobs: int) -> list[Verdict]:
    """Judge the mutants, some at a time, and say how each ended as soon as it is known."""
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
    verdicts: list[Verdict] = []

    def one(mutant: Mutant) -> Verdict:
        copy = copies.get()
        try:
            return judge(mutant, copy)
        finally:
            copies.put(copy)

    with tempfile.TemporaryDirectory(prefix="eventflow-mutants-") as directory:
        base = Path(directory).resolve()
        first = make_copy(base / "0")
        for mutant in chosen:
            check(mutant, (first / "eventflow" / mutant.path).read_text(encoding="utf-8"))
        for paths in {tests_of(mutant)[-1] for mutant in chosen}:
            if (failing := run_tests(first, paths)) is not None:
                raise NotPlantedError(f"without any bug planted, this fails: {failing}")
        copies.put(first)
        for number in range(1, jobs):
            copies.put(Path(shutil.copytree(first, base / str(number))))
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            ends = [pool.submit(one, mutant) for mutant in chosen]
            try:
                for end in concurrent.futures.as_completed(ends):
                    verdicts.append(verdict := end.result())
                    word = "SURVIVED" if verdict.caught_by is None else "caught"
                    print(
                        f"{len(verdicts):3d}/{len(chosen)}  {word:8}  {verdict.mutant.name}",
                        flush=True,
                    )
            finally:
                pool.shutdown(cancel_futures=True)
    return sorted(verdicts, key=lambda verdict: chosen.index(verdict.mutant))


def table(verdicts: list[Verdict]) -> str:
    """Name, the test that noticed, seconds."""
    rows = [("planted bug", "noticed by", "s")]
    rows += [(v.mutant.name, v.caught_by or "NOBODY", f"{v.seconds:.1f}") for v in verdicts]
    wide, wider = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{a:{wide}}  {b:{wider}}  {c:>6}" for a, b, c in rows)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", help="parts of names; default: all")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    given = parser.parse_args()
    chosen = [m for m in MUTANTS if not given.names or any(n in m.name for n in given.names)]
    if not chosen:
        parser.error(f"no mutant has any of {given.names} in its name; see --list")
    if given.list:
        print("\n".join(f"{mutant.path:26}  {mutant.name}" for mutant in chosen))
        return 0
    began = time.monotonic()
    try:
        verdicts = judge_all(chosen, max(1, given.jobs))
    except NotPlantedError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1
    survivors = [verdict.mutant.name for verdict in verdicts if verdict.caught_by is None]
    print(f"\n{table(verdicts)}\n")
    print(
        f"{len(verdicts) - len(survivors)} of {len(verdicts)} planted bugs were noticed, "
        f"in {time.monotonic() - began:.0f} s"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
