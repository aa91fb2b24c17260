"""What the benchmark changes in a copy of the package is there to be changed."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventflow
from tests.bench.defaults import VARIANTS, Variant, cut


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_a_default_can_be_taken_out(variant: Variant) -> None:
    """Each cut fits in one place, and what it leaves is Python."""
    assert variant.cuts or variant.options
    package = Path(eventflow.__file__).parent
    texts: dict[str, str] = {}
    for name, pattern, replacement in variant.cuts:
        before = texts.get(name, (package / name).read_text())
        texts[name] = cut(before, pattern, replacement)
        assert texts[name] != before
    for name, text in texts.items():
        compile(text, name, "exec")
