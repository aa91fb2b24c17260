"""The planted bugs of `make mutants` fit the package as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventflow
from tests.mutants.__main__ import check
from tests.mutants.catalogue import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_planted(mutant: Mutant) -> None:
    """Its place is there once, and what is put there is Python."""
    source = (Path(eventflow.__file__).parent / mutant.path).read_text(encoding="utf-8")
    check(mutant, source)
    compile(source.replace(mutant.old, mutant.new), mutant.path, "exec")
