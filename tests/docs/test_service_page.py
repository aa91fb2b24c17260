"""What docs/service.md has one type."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.page import OUTPUT, blocks
from tests.fault.service.processes import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_command_of_the_page_runs_its_program(tmp_path: Path) -> None:
    """Saved under its title it runs until a signal, and ends with 0, as the page says."""
    found = [*blocks(ROOT / "docs/service.md")]
    (program,) = (block for block in found if block.title == "shop.py")
    (command,) = (b.text for b in found if b.language == "text" and b.text.startswith("eventflow "))
    printed = next(block.text.splitlines() for block in found if block.before == OUTPUT)
    tmp_path.joinpath(program.title).write_text(program.text)
    ready = tmp_path / "ready"
    with subprocess.Popen(
        [sys.executable, "-m", *shlex.split(command), "--ready-file", str(ready)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            begun = [running.stdout.readline().rstrip() for _ in range(2)]
            # A member that printed something has begun; the service as a whole may not have.
            until(ready.exists, "entered as a whole")
            running.send_signal(signal.SIGTERM)
            rest, _ = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 0
    assert [*begun, *rest.splitlines()] == [line for line in printed if "ready" not in line]
