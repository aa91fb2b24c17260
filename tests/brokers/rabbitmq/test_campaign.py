"""Random faults, many at a time, and a verdict by what others than the tested have written down.

A schedule is made of its seed alone: ``EVENTFLOW_SEED=17`` runs one again.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.brokers.campaign.ledger import read
from tests.brokers.campaign.schedule import seeds
from tests.brokers.rabbitmq.campaign.run import Run
from tests.brokers.rabbitmq.campaign.schedule import Schedule
from tests.brokers.rabbitmq.campaign.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.brokers.rabbitmq.campaign.verdict import Verdict
    from tests.servers.rabbitmq import ProxiedRabbitMQ

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
SEEDS = seeds(range(120) if STRESS else [1, 48])

pytestmark = [pytest.mark.rabbitmq, pytest.mark.stress, pytest.mark.timeout(180)]


@pytest.mark.fault("OBS-01")
@pytest.mark.parametrize("seed", SEEDS)
async def test_random_faults(
    proxied_rabbitmq: ProxiedRabbitMQ,
    tmp_path: Path,
    seed: int,
    tally: Callable[[Verdict], None],
) -> None:
    """120 schedules in a stress run, two here: nothing lost, made up, left, or acked early.

    All is quiet within 30 s after the last fault; what comes twice has a fault for a reason.
    """
    schedule = Schedule(seed)
    print(f"EVENTFLOW_SEED={seed}\n  {schedule!r}")
    ledger = tmp_path / "ledger"
    run = Run(schedule, proxied_rabbitmq, ledger)
    began = time.monotonic()
    await run.carry_out()
    verdict = judge(run, read(ledger))
    took = f"{time.monotonic() - began:.1f} s, quiet after {run.quiet_after:.1f} s"
    print(f"{took}: {verdict}")
    tally(verdict)
    print(*verdict.wrong, sep="\n")
    assert not verdict.wrong, f"EVENTFLOW_SEED={seed}: {verdict.wrong[0]}"
