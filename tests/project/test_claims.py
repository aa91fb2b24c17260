"""Every row of docs/faults.md is shown by a test that carries its id, or says why not."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache

import pytest

from tests.project.source import ROOT, dotted, parsed

# The catalogue's families, or single rows, that apply to what there is so far.
FAMILIES = (
    *("BUS", "INP", "SHD", "OSX", "PUB", "ACK", "RTR", "KFK", "RMQ"),
    *("OBS-01", "OBS-04", "SEC-01", "SEC-11", "SEC-13", "SEC-14", "SEC-17"),
)
# It may lie beside the repository, which does not carry it.
CATALOGUE = ROOT.parent / "shared/FAULTS.md"
FAULTS = (
    *(f"BUS-{n:02}" for n in (1, 3, 4, 6, 7, 8, 10, 12, 13, 14, 16, 18, 19, 20, 22, 23)),
    *(f"INP-{n:02}" for n in (1, 2, 4, 6, 8, 9)),
    *(f"PUB-{n:02}" for n in (1, 2, 4, 5, 7)),
    *(f"ACK-{n:02}" for n in (1, 2, 4, 6, 8, 9)),
    *(f"KFK-{n:02}" for n in (1, 2, 3, 7, 9, 10, 11, 12)),
    *(f"RMQ-{n:02}" for n in (1, 2, 3, 6, 7, 8, 11, 12)),
    *(f"RTR-{n:02}" for n in (1, 3, 5, 6, 9, 11, 12)),
    "OBS-01",
    "OBS-04",
    "SEC-01",
    "SEC-11",
    "SEC-13",
    "SEC-14",
    *(f"SHD-{n:02}" for n in (1, 2, 4, 6, 7, 9, 10, 12, 14)),
    *(f"OSX-{n:02}" for n in (1, 4, 6)),
    "SEC-17",
)
PROMISES = tuple("12345678")
KINDS = {"fault": "Faults", "promise": "Promises", "option": "Options of the bus"}


@cache
def rows(kind: str) -> dict[str, str]:
    """The table under a heading of docs/faults.md: the reason, often empty, by id."""
    text = ROOT.joinpath("docs/faults.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {KINDS[kind]}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[1:]]
    found = {row[0]: row[-1] for row in cells}
    assert len(found) == len(cells), "an id stands twice"
    return found


def catalogued() -> set[str]:
    """The ids of the families in the catalogue, or in the list above where there is none."""
    if not CATALOGUE.exists():
        return set(FAULTS)
    ids = re.findall(r"^\| ([A-Z]+-\d+) \|", CATALOGUE.read_text(encoding="utf-8"), re.MULTILINE)
    return {i for i in ids if i in FAMILIES or i.partition("-")[0] in FAMILIES}


@cache
def marked(kind: str) -> dict[str, list[str]]:
    """The tests that carry a mark, by the ids in it."""
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.joinpath("tests").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and dotted(node.func) == f"pytest.mark.{kind}":
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                for argument in node.args:
                    assert isinstance(argument, ast.Constant), f"{where}: ids are written out"
                    found.setdefault(str(argument.value), []).append(where)
    return found


def expected(kind: str) -> set[str]:
    if kind == "fault":
        return set(FAULTS)
    if kind == "promise":
        return set(PROMISES)
    from eventflow.bus import EventBus, SubscribeOptions

    own = {name for name in inspect.signature(EventBus).parameters if name != "self"}
    return own | set(SubscribeOptions.__annotations__) | {"resources"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_complete(kind: str) -> None:
    """No row is missing, and none is made up."""
    assert set(rows(kind)) == expected(kind)


def test_no_row_of_the_catalogue_is_left_out() -> None:
    """Each of a family that applies is in the table, with a test or a reason."""
    assert set(rows("fault")) == catalogued()


@pytest.mark.parametrize("kind", KINDS)
def test_no_test_claims_what_is_not_listed(kind: str) -> None:
    """A mark with a wrong id would count for nothing."""
    unknown = {i: where for i, where in marked(kind).items() if i not in rows(kind)}
    assert not unknown


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_has_a_test_or_a_reason(kind: str) -> None:
    """Neither is a gap nobody decided on."""
    assert not [i for i, reason in rows(kind).items() if i not in marked(kind) and not reason]


@pytest.mark.parametrize("kind", KINDS)
def test_no_reason_is_out_of_date(kind: str) -> None:
    """A row with a test needs no reason; "not yet" never is one."""
    stale = {
        i: reason
        for i, reason in rows(kind).items()
        if reason == "not yet" or (reason and i in marked(kind))
    }
    assert not stale


def test_marks_stand_on_tests() -> None:
    """Only what pytest runs can show something."""
    wrong: list[str] = []
    for path in sorted(ROOT.joinpath("tests").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names = {dotted(d.func) for d in node.decorator_list if isinstance(d, ast.Call)}
                claims = names & {f"pytest.mark.{kind}" for kind in KINDS}
                if claims and not node.name.lower().startswith("test"):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not wrong
