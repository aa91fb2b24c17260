"""The planted bugs of `make mutants` fit the package as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import eventflow
from tests.mutants.__main__ import check
from tests.mutants.catalogue import MUTANTS

if TYPE_CHECKING:
    import pytest


def test_every_mutant_can_be_planted(subtests: pytest.Subtests) -> None:
    """Its place is there once, and what is put there is Python."""
    for mutant in MUTANTS:
        with subtests.test(mutant.name):
            source = (Path(eventflow.__file__).parent / mutant.path).read_text(encoding="utf-8")
            check(mutant, source)
            compile(source.replace(mutant.old, mutant.new), mutant.path, "exec")
