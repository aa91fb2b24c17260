"""`python -m tests.bench`: every measure, on this interpreter and on the newest one here."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.bench import command, report
from tests.bench.harness import machine
from tests.bench.measures import MEASURES

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


def main() -> int:
    parser = command.arguments(
        "python -m tests.bench", __doc__, MEASURES, pairs=15, whole="tables and plot"
    )
    parser.add_argument(
        "--this-python", action="store_true", help="not on the newest interpreter too"
    )
    given = command.checked(parser)
    names = [name for name in MEASURES if given.only is None or name in given.only]
    how = "quick: figures not worth quoting" if given.quick else f"{given.pairs} pairs"
    print(f"bench: {machine()}; {how}")
    results = command.Results(given, full="results.json", quick="quick.json")
    for interpreter in _interpreters(only_this=given.this_python):
        for name in names:
            module = "tests.bench.measures"
            results.add(name, command.run(module, name, given, interpreter=interpreter))
    return results.end(wrote=f"{report.PAGE} and {report.PLOT}")


if __name__ == "__main__":
    sys.exit(main())
