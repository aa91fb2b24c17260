"""`python -m tests.bench`: every measure, on this interpreter and on the newest one here."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench import report
from tests.bench.harness import MIN_PAIRS, machine
from tests.bench.measures import MEASURES

CACHE = Path(".cache/bench")
NEWEST = ".venv-newest"


def _interpreters(*, only_this: bool) -> list[str]:
    """This one, and in a set-up of its own the newest one, if it is newer."""
    here = [sys.executable]
    if only_this:
        return here
    found = subprocess.run(
        [".ci/newest", sys.executable], capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        print("bench: no newer interpreter here; one column")
        return here
    environment = {**os.environ, "VENV": NEWEST, "PYTHON": found.stdout.strip()}
    subprocess.run([".ci/setup", "bench"], env=environment, check=True)
    return [*here, f"{NEWEST}/bin/python"]


def _run(interpreter: str, name: str, given: argparse.Namespace) -> dict[str, Any] | None:
    """One measure in a fresh process, so that none leaves its heap to the next."""
    out = CACHE / "result.json"
    command = [
        interpreter,
        "-m",
        "tests.bench.measures",
        name,
        "--out",
        str(out),
        "--pairs",
        str(given.pairs),
    ]
    if given.quick:
        command.append("--quick")
    if subprocess.run(command, check=False).returncode != 0:
        return None
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=MEASURES,
        metavar="NAME",
        help=f"one of: {', '.join(MEASURES)}; may be given again",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a tenth of the work and {MIN_PAIRS} pairs: to see that it runs",
    )
    parser.add_argument(
        "--pairs", type=int, default=15, help=f"pairs that count, {MIN_PAIRS} or more"
    )
    parser.add_argument(
        "--this-python", action="store_true", help="not on the newest interpreter too"
    )
    parser.add_argument(
        "--write", action="store_true", help="put tables and plot into docs/performance.md"
    )
    given = parser.parse_args()
    if given.pairs < MIN_PAIRS:
        parser.error(f"--pairs takes {MIN_PAIRS} or more")
    CACHE.mkdir(parents=True, exist_ok=True)
    names = [name for name in MEASURES if given.only is None or name in given.only]
    how = "quick: figures not worth quoting" if given.quick else f"{given.pairs} pairs"
    print(f"bench: {machine()}; {how}")
    store = CACHE / ("quick.json" if given.quick else "results.json")
    results: dict[str, Any] = json.loads(store.read_text()) if given.only and store.exists() else {}
    failed: list[str] = []
    for interpreter in _interpreters(only_this=given.this_python):
        for name in names:
            result = _run(interpreter, name, given)
            if result is None:
                failed.append(name)
                continue
            results[f"{result['python']} {name}"] = result
            print(report.lines(result), flush=True)
    store.write_text(json.dumps(results, indent=1))
    print(f"bench: kept in {store}")
    if given.write:
        report.write(list(results.values()))
        print(f"bench: wrote {report.PAGE} and {report.PLOT}")
    if failed:
        print(f"bench: failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
