"""docs/middlewares/: a page for each middleware, and a table whose rows are tested."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from eventflow.errors import ChaosError
from eventflow.messaging import middleware
from tests.docs.named import check_named_tests
from tests.project.source import ROOT

FOLDER = ROOT / "docs/middlewares"
INDEX = FOLDER.joinpath("index.md").read_text(encoding="utf-8")
PAGES: dict[str, type[Any]] = {
    "chaos": middleware.Chaos,
    "circuit-breaker": middleware.CircuitBreaker,
    "deduplicate": middleware.Deduplicate,
    "duplicator": middleware.Duplicator,
    "ignore-errors": middleware.IgnoreErrors,
    "instant-ack": middleware.InstantAck,
    "throttle": middleware.Throttle,
}
WATERMILL = (
    "CircuitBreaker",
    "CorrelationID",
    "Deduplicator",
    "DelayOnError",
    "Duplicator",
    "IgnoreErrors",
    "InstantAck",
    "PoisonQueue",
    "PoisonQueueWithFilter",
    "RandomFail",
    "RandomPanic",
    "Recoverer",
    "Retry",
    "Throttle",
    "Timeout",
)
NOT_WRITTEN = "–"  # noqa: RUF001 - the dash of the table: there is no default, or a sentence


def test_each_middleware_has_a_page() -> None:
    """And each page is in the table of the index."""
    assert {path.stem for path in FOLDER.glob("*.md")} == {*PAGES, "index"}
    assert set(re.findall(r"^\| \[`\w+`\]\(([\w-]+)\.md\)", INDEX, re.MULTILINE)) == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_the_options_there_are(page: str) -> None:
    """With the defaults there are."""
    text = FOLDER.joinpath(f"{page}.md").read_text(encoding="utf-8")
    options = text.partition("\n| option | default | meaning |\n")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \| ", options, re.MULTILINE))
    made = PAGES[page]
    takes = () if made is middleware.Duplicator else inspect.signature(made).parameters.values()
    assert list(rows) == [parameter.name for parameter in takes]
    for parameter in takes:
        assert parameter.kind is parameter.KEYWORD_ONLY
        cell = rows[parameter.name]
        if cell == NOT_WRITTEN:
            assert parameter.default is parameter.empty
        elif cell.startswith("`"):
            names = {"ChaosError": ChaosError, "Exception": Exception}
            assert eval(cell.strip("`"), names) == parameter.default


def table() -> list[tuple[str, str]]:
    """What Watermill has, and the cell of the tests."""
    section = INDEX.partition("\n| Watermill | here | shown by |\n|---|---|---|\n")[2]
    return re.findall(r"^\| (.+?) \| .+ \| (.+?) \|$", section, re.MULTILINE)


def test_the_table_has_what_watermill_has() -> None:
    """Each once; random failures and panics are one row."""
    names = [name for cell, _ in table() for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(names) == sorted(WATERMILL)


@pytest.mark.parametrize("row", table(), ids=lambda row: row[0].strip("`"))
def test_a_row_names_tests_that_there_are(row: tuple[str, str]) -> None:
    """In the files that they are said to be in."""
    check_named_tests(row[1])
