"""The program of docs/kafka.md runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.page import blocks

if TYPE_CHECKING:
    from tests.servers.kafka import Kafka

pytestmark = pytest.mark.kafka

PAGE = Path(__file__).parents[3] / "docs/kafka.md"


def test_the_program_of_the_page(kafka: Kafka, tmp_path: Path) -> None:
    """As it stands there, but for the address; it leaves nothing behind and says nothing else."""
    (program,) = (b.text for b in blocks(PAGE) if "asyncio.run" in b.text)
    assert program.count("127.0.0.1:9092") == 1
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace("127.0.0.1:9092", kafka.address)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        cwd=tmp_path,
    )
    assert (result.returncode, result.stdout) == (0, "receipt for A-1\n"), result.stderr
    assert result.stderr == ""
