"""`python -m tests.bench.kafka`: the measures of the Kafka backend, on a broker of their own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import report
from tests.bench.harness import MIN_PAIRS, machine
from tests.bench.kafka import raw
from tests.bench.kafka.conditions import (
    DEAD_LETTERS,
    LATENCY,
    PARTITIONS,
    PUBLISHED,
    READ,
    SHARED,
    OrderPlaced,
    OrderShared,
)
from tests.bench.kafka.measures import MEASURES, READS, SHARES
from tests.servers.kafka import Kafka, missing

CACHE = Path(".cache/bench")


def prepare(server: Kafka) -> None:
    """Topics, and what is read from them."""
    for topic in (READ, SHARED, PUBLISHED, LATENCY, *DEAD_LETTERS):
        server.create_topic(topic, partitions=PARTITIONS)
    raw.fill(server.address, READ, READS, name=OrderPlaced.__name__)
    raw.fill(server.address, SHARED, SHARES, name=OrderShared.__name__)


def _run(server: Kafka, name: str, given: argparse.Namespace) -> dict[str, Any] | None:
    """One measure in a fresh process, so that none leaves its heap to the next."""
    out = CACHE / "result.json"
    command = [sys.executable, "-m", "tests.bench.kafka.measures", name]
    command += ["--hosts", server.address, "--out", str(out), "--pairs", str(given.pairs)]
    if given.quick:
        command.append("--quick")
    if subprocess.run(command, check=False).returncode != 0:
        return None
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kafka", description=__doc__)
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
        "--pairs", type=int, default=MIN_PAIRS, help=f"pairs that count, {MIN_PAIRS} or more"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/performance.md"
    )
    given = parser.parse_args()
    if given.pairs < MIN_PAIRS:
        parser.error(f"--pairs takes {MIN_PAIRS} or more")
    if (lacking := missing()) is not None:
        parser.exit(2, f"bench: needs a Kafka: {lacking}\n")
    CACHE.mkdir(parents=True, exist_ok=True)
    store = CACHE / ("kafka-quick.json" if given.quick else "kafka.json")
    results: dict[str, Any] = json.loads(store.read_text()) if given.only and store.exists() else {}
    failed: list[str] = []
    print(f"bench: {machine()}; {given.pairs} pairs; starting a Kafka", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        server = Kafka.started(Path(directory))
        try:
            prepare(server)
            for name in MEASURES:
                if given.only is not None and name not in given.only:
                    continue
                result = _run(server, name, given)
                if result is None:
                    failed.append(name)
                    continue
                results[f"{result['python']} {name}"] = result
                print(report.lines(result), flush=True)
        finally:
            server.kill()
    store.write_text(json.dumps(results, indent=1))
    print(f"bench: kept in {store}; as it goes into {report.PAGE}:\n")
    print(report.section([*results.values()], "kafka"))
    if given.write:
        report.write([*results.values()])
        print(f"bench: wrote {report.PAGE}")
    if failed:
        print(f"bench: failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
