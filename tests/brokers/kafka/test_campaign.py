"""Random faults, many at a time, and a verdict by what others than the tested have written down.

A schedule is made of its seed alone: ``EVENTFLOW_SEED=17`` runs one again.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from eventflow.brokers.kafka import _settings
from tests.brokers.campaign.ledger import read
from tests.brokers.campaign.schedule import seeds
from tests.brokers.kafka.campaign.run import Run
from tests.brokers.kafka.campaign.schedule import WITH_DELAYS, WITH_TRANSACTIONS, Schedule
from tests.brokers.kafka.campaign.verdict import judge
from tests.brokers.kafka.support import records, settled_records
from tests.brokers.kafka.transactional import TRANSACTION_MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.brokers.kafka.campaign.verdict import Verdict
    from tests.servers.proxy import ProxiedKafka

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
ALL = [*range(200), *(kind + n for kind in (WITH_DELAYS, WITH_TRANSACTIONS) for n in range(100))]
SEEDS = seeds(ALL if STRESS else [20, WITH_DELAYS, WITH_TRANSACTIONS])

pytestmark = [pytest.mark.kafka, pytest.mark.stress, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def short_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the processes: what a kill leaves open is aborted after 2.5 s, not after 10."""
    monkeypatch.setattr(_settings, "TRANSACTION_MS", TRANSACTION_MS)


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_faults(
    proxied_kafka: ProxiedKafka, tmp_path: Path, seed: int, tally: Callable[[Verdict], None]
) -> None:
    """400 schedules in a stress run, three here: nothing lost, made up, or committed too early.

    All is quiet within 30 s after the last fault; what comes twice has a fault for a reason.
    """
    schedule = Schedule(seed)
    print(f"EVENTFLOW_SEED={seed}\n  {schedule!r}")
    ledger = tmp_path / "ledger"
    run = Run(schedule, proxied_kafka, ledger)
    began = time.monotonic()
    await run.carry_out()
    outputs = await settled_records(proxied_kafka, run.outputs) if run.outputs else []
    verdict = judge(
        run,
        records(proxied_kafka, run.topic),
        await settled_records(proxied_kafka, run.dead_letters, partitions=1),
        read(ledger),
        outputs,
    )
    took = f"{time.monotonic() - began:.1f} s, quiet after {run.quiet_after:.1f} s"
    print(f"{took}, {len(run.samples)} looks at the commits: {verdict}")
    proxied_kafka.delete_topics(*filter(None, (run.topic, run.dead_letters, run.outputs)))
    tally(verdict)
    print(*verdict.wrong, sep="\n")
    assert not verdict.wrong, f"EVENTFLOW_SEED={seed}: {verdict.wrong[0]}"
