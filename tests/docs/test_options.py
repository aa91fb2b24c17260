"""docs/options.md and the code name the same options, with the same defaults."""

from __future__ import annotations

import dataclasses
import inspect
import re
from asyncio import CancelledError
from pathlib import Path

import pytest

from eventflow import EventBus, FailurePolicy, Overflow, Retry
from eventflow.bus import StreamOptions, SubscribeOptions
from eventflow.bus._options import STREAM_OPTIONS, SUBSCRIBE_OPTIONS, Options

PAGE = Path(__file__).resolve().parents[2] / "docs/options.md"
NOT_GIVEN = "–"  # noqa: RUF001 - the dash of the table
NAMES = {
    "CancelledError": CancelledError,
    "Exception": Exception,
    "FailurePolicy": FailurePolicy,
    "Overflow": Overflow,
}


def of_signature(made: type[object]) -> dict[str, object]:
    parameters = inspect.signature(made).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self"}


def of_fields(made: type[Retry | FailurePolicy]) -> dict[str, object]:
    return {field.name: field.default for field in dataclasses.fields(made)}


def of_subscription(names: frozenset[str]) -> dict[str, object]:
    return {name: Options._field_defaults[name] for name in names}


CODE: dict[str, dict[str, object]] = {
    "EventBus": of_signature(EventBus),
    "subscribe": of_subscription(SUBSCRIBE_OPTIONS),
    "stream": of_subscription(STREAM_OPTIONS),
    "FailurePolicy": of_fields(FailurePolicy),
    "Retry": of_fields(Retry),
}


def table(heading: str) -> dict[str, str]:
    """The cells of the default column by option, as they stand under a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+? \| .+? \|$", section, re.MULTILINE)
    found: dict[str, str] = dict(rows)
    assert len(found) == len(rows), "an option stands twice"
    assert len(rows) == section.count("\n| ") - 1, "a row that this test can't read"
    return found


@pytest.mark.parametrize("heading", CODE)
def test_the_table_names_the_options_there_are(heading: str) -> None:
    """All of them, and no other."""
    assert set(table(heading)) == set(CODE[heading])


@pytest.mark.parametrize("heading", CODE)
def test_the_table_has_the_defaults_there_are(heading: str) -> None:
    """Written as Python; a dash stands where the option can only be left out."""
    for option, cell in table(heading).items():
        default = CODE[heading][option]
        if cell == NOT_GIVEN:
            assert default is None, option
        else:
            assert eval(cell.strip("`"), dict(NAMES)) == default, option


@pytest.mark.parametrize(
    ("options", "typed"), [(SUBSCRIBE_OPTIONS, SubscribeOptions), (STREAM_OPTIONS, StreamOptions)]
)
def test_type_checkers_know_the_same_options(options: frozenset[str], typed: type[object]) -> None:
    """``resources`` stands in the signature itself, where it decides what a handler is."""
    assert options - {"resources"} == set(inspect.get_annotations(typed)) | (
        set(inspect.get_annotations(StreamOptions)) if typed is SubscribeOptions else set()
    )


def test_every_section_of_the_page_is_compared() -> None:
    """A table that nobody compares would go stale."""
    headings = re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(CODE)
