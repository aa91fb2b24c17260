"""docs/router.md lists the options that a handler of a router has."""

from __future__ import annotations

import re

from eventflow.messaging import HandlerOptions
from eventflow.messaging import dead_letter as keys
from tests.docs.named import check_named_tests
from tests.project.source import ROOT

PAGE = ROOT.joinpath("docs/router.md").read_text(encoding="utf-8")


def test_every_option_stands_in_the_table() -> None:
    """And nothing else does."""
    section = PAGE.split("\n## Options\n", 1)[1].split("\n## ", 1)[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(HandlerOptions.__annotations__)


def test_every_row_about_watermill_names_the_tests_that_show_it() -> None:
    rows = PAGE.partition("\n| Watermill | here | shown by |\n|---|---|---|\n")[2].splitlines()
    assert len(rows) > 10
    for row in rows:
        check_named_tests(row.rpartition(" | ")[2])


def test_every_key_of_a_dead_letter_stands_in_the_table() -> None:
    section = PAGE.split("\n## Dead letters\n", 1)[1].split("\n## ", 1)[0]
    written = {getattr(keys, name) for name in keys.__all__ if name.isupper()}
    assert written <= set(re.findall(r"`(\w+)`", section))
