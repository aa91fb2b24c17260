"""What the commands that measure have in common: arguments, a process for each measure, results."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import report
from tests.bench.harness import MIN_PAIRS, Settings, load, machine, python

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from contextlib import AbstractContextManager

    from tests.bench.harness import Figure

__all__ = ("Results", "answer", "arguments", "checked", "measure_on_a_server", "run")

CACHE = Path(".cache/bench")


def arguments(
    prog: str, doc: str | None, names: Collection[str], *, pairs: int, whole: str
) -> argparse.ArgumentParser:
    """A parser of the arguments that all take."""
    parser = argparse.ArgumentParser(prog=prog, description=doc)
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"one of: {', '.join(names)}; may be given again",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a tenth of the work and {MIN_PAIRS} pairs: to see that it runs",
    )
    parser.add_argument(
        "--pairs", type=int, default=pairs, help=f"pairs that count, {MIN_PAIRS} or more"
    )
    parser.add_argument("--write", action="store_true", help=f"put {whole} into {report.PAGE}")
    return parser


def checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was given, which is what it has to be."""
    given = parser.parse_args()
    if given.pairs < MIN_PAIRS:
        parser.error(f"--pairs takes {MIN_PAIRS} or more")
    return given


def run(
    module: str, name: str, given: argparse.Namespace, *own: str, interpreter: str = sys.executable
) -> dict[str, Any] | None:
    """One measure in a fresh process, so that none leaves its heap to the next."""
    out = CACHE / "result.json"
    command = [interpreter, "-m", module, name, "--out", str(out), "--pairs", str(given.pairs)]
    command += own
    if given.quick:
        command.append("--quick")
    if subprocess.run(command, check=False).returncode != 0:
        return None
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def answer(
    module: str,
    names: Collection[str],
    measure: Callable[[str, Settings, str], list[Figure]],
    *,
    prefix: str = "",
) -> None:
    """One measure in this process, for `run` in another one.

    Args:
        module: What this is run as.
        names: The measures.
        measure: Runs one of them, with the address of a server where it needs one.
        prefix: Stands before the measure's name in what it gave.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("name", choices=names)
    parser.add_argument("--address", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pairs", type=int, default=MIN_PAIRS)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    before = load()
    settings = Settings(quick=given.quick, pairs=given.pairs)
    figures = measure(given.name, settings, given.address)
    result = {
        "measure": f"{prefix}{given.name}",
        "python": python(),
        "machine": machine(),
        "load": [before, load()],
        "quick": given.quick,
        "figures": [figure.as_dict() for figure in figures],
    }
    given.out.write_text(json.dumps(result, indent=1))


class Results:
    """What measures gave, kept in a file: with ``--only``, those of earlier runs too."""

    def __init__(self, given: argparse.Namespace, *, full: str, quick: str) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        self._given = given
        self._store = CACHE / (quick if given.quick else full)
        self._kept: dict[str, Any] = (
            json.loads(self._store.read_text()) if given.only and self._store.exists() else {}
        )
        self._failed: list[str] = []

    def add(self, name: str, result: dict[str, Any] | None) -> None:
        """Take what a measure gave, and say it; ``None`` where it failed."""
        if result is None:
            self._failed.append(name)
            return
        self._kept[f"{result['python']} {name}"] = result
        print(report.lines(result), flush=True)

    def end(self, *, wrote: str, table: str = "") -> bool:
        """Keep all; show a table, and put all into the page, if asked to. Whether any failed."""
        self._store.write_text(json.dumps(self._kept, indent=1))
        print(f"bench: kept in {self._store}")
        results = [*self._kept.values()]
        if table:
            print(f"bench: as it goes into {report.PAGE}:\n\n{report.section(results, table)}")
        if self._given.write:
            report.write(results)
            print(f"bench: wrote {wrote}")
        if self._failed:
            print(f"bench: failed: {', '.join(self._failed)}")
        return bool(self._failed)


def measure_on_a_server(
    table: str,
    doc: str | None,
    measures: Mapping[str, object],
    *,
    lacking: str | None,
    started: Callable[[], AbstractContextManager[str]],
) -> bool:
    """Run the measures of ``tests.bench.<table>.measures`` on a server of their own.

    Args:
        table: Name of the package, of the file of results, and of the table.
        doc: What the command says of itself.
        measures: The measures, by name.
        lacking: Why no server can be started here.
        started: Starts one, with all that is read from it; gives its address.

    Returns:
        Whether any has failed.
    """
    prog = f"python -m tests.bench.{table}"
    parser = arguments(prog, doc, measures, pairs=MIN_PAIRS, whole="the table")
    given = checked(parser)
    if lacking is not None:
        parser.exit(2, f"bench: no server for {table}: {lacking}\n")
    results = Results(given, full=f"{table}.json", quick=f"{table}-quick.json")
    print(f"bench: {machine()}; {given.pairs} pairs; starting a server", flush=True)
    with started() as address:
        for name in measures:
            if given.only is None or name in given.only:
                result = run(f"tests.bench.{table}.measures", name, given, "--address", address)
                results.add(name, result)
    return results.end(wrote=str(report.PAGE), table=table)
