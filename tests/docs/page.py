"""Reads the fenced blocks of a Markdown page, and runs the Python ones in a process of their own.

As a script, ``python page.py PAGE`` runs every ``python`` block of the page from the top, in one
namespace, as if they had been pasted into one file. ``await`` may stand at the top level: such a
block runs on the page's event loop. A ``text`` block whose fence follows the line
``<!-- output -->`` is what the block before it has to have printed. A block with a title, such as
``python title="shop.py"``, is a file too: it is written into the working directory first, so that
later blocks can import it.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,}) *(?P<language>[^\s`{]*)(?P<more>[^`]*)$")
TITLE = re.compile(r'title="([\w.-]+)"')
OUTPUT = "<!-- output -->"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the line its text begins on, the line before its fence.

    ``title`` is the name of the file it is, empty where it is none.
    """

    language: str
    line: int
    text: str
    before: str
    title: str


def blocks(path: Path) -> Iterator[Block]:
    lines = path.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        opened = FENCE.match(lines[at])
        if not opened:
            at += 1
            continue
        start = at + 1
        end = start
        while not lines[end].strip().startswith(opened["ticks"]):
            end += 1
        indent = len(opened["indent"])
        text = "".join(line[indent:] + "\n" for line in lines[start:end])
        before = next((line.strip() for line in reversed(lines[:at]) if line.strip()), "")
        title = TITLE.search(opened["more"])
        yield Block(opened["language"], start + 1, text, before, title[1] if title else "")
        at = end + 1


def run(path: Path) -> None:
    """Runs the page's Python blocks.

    Raises:
        AssertionError: A block printed something else than the page says.
    """
    # In the place of __main__, so that annotations written as text are found.
    page = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path.insert(0, "")
    printed = ""
    with asyncio.Runner() as runner:
        for block in blocks(path):
            if block.title:
                Path(block.title).write_text(block.text, encoding="utf-8")
            if block.language == "python":
                # Blank lines in front, so that a traceback names the page's own line.
                code = compile(
                    "\n" * (block.line - 1) + block.text,
                    str(path),
                    "exec",
                    flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                    dont_inherit=True,
                )
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    result = eval(code, page.__dict__)
                    if inspect.iscoroutine(result):
                        runner.run(result)
                printed = out.getvalue()
            elif block.before == OUTPUT:
                assert printed == block.text, (
                    f"{path}:{block.line}: printed\n{printed}but the page says\n{block.text}"
                )


if __name__ == "__main__":
    run(Path(sys.argv[1]))
