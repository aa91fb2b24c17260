"""The code of other libraries on docs/recipes/migrating.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.page import OUTPUT, blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/recipes/migrating.md"
RUNNER = Path(__file__).with_name("page.py")
PRINTED = {"bubus": "paid A-1", "pyee": "receipt for A-1", "blinker": "receipt for A-1"}
PRINTED["django"] = PRINTED["blinker"]


def programs() -> dict[str, str]:
    """Each by the library it imports first."""
    texts = (b.text for b in blocks(PAGE) if b.language == "text" and b.before != OUTPUT)
    return {text.replace(".", " ").split()[1]: text for text in texts}


@pytest.mark.parametrize("library", PRINTED)
def test_the_code_of_another_library(library: str, tmp_path: Path) -> None:
    """It is Python; where the library is installed, it runs and prints what ours prints."""
    assert programs().keys() == PRINTED.keys()
    program = programs()[library]
    compile(program, library, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if find_spec(library) is None:
        return
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{program}```\n{OUTPUT}\n```text\n{PRINTED[library]}\n```\n")
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(page)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
