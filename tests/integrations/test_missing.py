"""A framework that is missing, or broken."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def run(code: str, directory: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    return result.stderr


@pytest.mark.parametrize("name", ["starlette", "litestar"])
def test_a_missing_framework_gives_an_install_hint(name: str, tmp_path: Path) -> None:
    """It names the extra."""
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {name!r}", name={name!r})
sys.meta_path.insert(0, Missing())
import eventflow.integrations.{name}
"""
    assert f"eventflow-asyncio[{name}]" in run(code, tmp_path)


@pytest.mark.parametrize("name", ["starlette", "litestar"])
def test_a_broken_framework_shows_its_own_traceback(name: str, tmp_path: Path) -> None:
    """What it could not import is named, and nobody is told to install what is there."""
    package = tmp_path / name
    package.mkdir()
    package.joinpath("__init__.py").write_text("import something_it_needs")
    code = f"import sys; sys.path.insert(0, '.'); import eventflow.integrations.{name}"

    said = run(code, tmp_path)

    assert "No module named 'something_it_needs'" in said
    assert "eventflow-asyncio[" not in said
