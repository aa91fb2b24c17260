"""docs/logging.md lists every line that the package writes, and no other."""

from __future__ import annotations

import ast
import re

from tests.project.source import ROOT, modules

ROW = re.compile(r"^\| `(eventflow\.\w+)` \| (.+?) \| (.+?) \|$", re.MULTILINE)
LEVELS = {"warning": "warning", "error": "error", "ids": "warning", "info": "info"}


def listed() -> dict[str, tuple[str, str]]:
    found = ROW.findall(ROOT.joinpath("docs/logging.md").read_text(encoding="utf-8"))
    assert len({name for name, _, _ in found}) == len(found), "a name stands twice"
    return {name: (level, keys) for name, level, keys in found}


def written() -> dict[str, tuple[str, set[str]]]:
    """Level and keys by name, as far as they are written out."""
    found: dict[str, tuple[str, set[str]]] = {}
    for module in modules():
        for node in ast.walk(module.tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=method),
                    args=[ast.Constant(value=str(name)), *_],
                ) if method in LEVELS:
                    keys = {key.arg for key in node.keywords if key.arg is not None}
                    keys |= found.get(name, ("", set[str]()))[1]
                    found[name] = (LEVELS[method], keys - {"error"})
                    if "error" in {key.arg for key in node.keywords}:
                        found[name][1].add("the exception")
                case ast.Call(
                    func=ast.Attribute(value=ast.Attribute(attr="_reports"), attr="add"),
                    args=[ast.Constant(value=str(what)), *_],
                ):
                    keys = {"bus", "subscription", "topics", "count", "event_ids"}
                    found[f"eventflow.{what}"] = ("warning", keys)
                case ast.Dict(
                    keys=[ast.Constant(value="event"), *_],
                    values=[ast.Constant(value=str(name)), *_],
                ):
                    found[name] = ("that of the lines", {"line", "count"})
                case _:
                    pass
    return found


def test_the_table_and_the_code_agree() -> None:
    """Names and levels both ways; each key that the code names stands in the table."""
    table, code = listed(), written()
    assert {name: level for name, (level, _) in table.items()} == {
        name: level for name, (level, _) in code.items()
    }
    for name, (_, keys) in code.items():
        told = table[name][1]
        assert not [key for key in keys if f"`{key}`" not in told and key not in told], name


def test_names_say_what_happened_to_what() -> None:
    """`eventflow.<thing>_<happened>`."""
    assert all(re.fullmatch(r"eventflow(\.[a-z]+(_[a-z]+)+)", name) for name in written())
