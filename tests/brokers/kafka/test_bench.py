"""How the benchmark counts what several processes did."""

from __future__ import annotations

import pytest

from tests.bench.kafka.sharing import speed
from tests.bench.kafka.worker import EVERY
from tests.bench.orders import BODY


def test_a_body_has_its_size() -> None:
    """What is published and consumed is 100 bytes of JSON."""
    assert len(BODY) == 100


def test_only_the_time_in_which_all_work_counts() -> None:
    """One that came earlier, or went on longer, adds nothing by that."""
    early = [at / 100 for at in range(300)]
    late = [at / 100 for at in range(100, 500)]
    assert speed([early, late]) == pytest.approx(2 * speed([late]), rel=0.001)
    assert speed([late]) == pytest.approx(100 * EVERY)


def test_processes_that_did_not_work_together_are_no_measure() -> None:
    """Neither are those of which one got nothing."""
    with pytest.raises(AssertionError, match="side by side"):
        speed([[1.0, 2.0], [1.9, 3.0]])
    with pytest.raises(AssertionError, match="got nothing"):
        speed([[1.0, 2.0], []])
