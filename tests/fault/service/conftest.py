"""What the tests with real processes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fault.service.processes import Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path) as running:
        yield running
