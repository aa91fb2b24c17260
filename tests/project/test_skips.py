"""A skip is listed with its reason; with ``CI=true`` it is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent.parent / "conftest.py"
SUITE = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="no broker here")
def test_marked():
    pass

def test_called():
    pytest.skip("no broker here")

@pytest.mark.xfail(strict=True)
def test_known():
    raise ValueError
"""
MODULE = 'import pytest\npytest.importorskip("no_such_module", reason="no such module")\n'


def run(directory: Path, *, ci: str) -> subprocess.CompletedProcess[str]:
    directory.joinpath("conftest.py").write_text(CONFTEST.read_text())
    directory.joinpath("pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(directory)],
        env=os.environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_skip_is_listed_with_its_reason(tmp_path: Path) -> None:
    """On a laptop the run passes and says what it left out, how often and why."""
    tmp_path.joinpath("test_suite.py").write_text(SUITE)
    tmp_path.joinpath("test_module.py").write_text(MODULE)

    result = run(tmp_path, ci="")

    assert result.returncode == 0, result.stdout
    assert "1 passed, 3 skipped, 1 xfailed" in result.stdout
    assert "    2  no broker here\n" in result.stdout
    assert "    1  no such module\n" in result.stdout


def test_in_ci_a_skipped_test_fails(tmp_path: Path) -> None:
    """With CI=true both ways to skip a test fail, an expected failure does not."""
    tmp_path.joinpath("test_suite.py").write_text(SUITE)

    result = run(tmp_path, ci="true")

    assert result.returncode == 1, result.stdout
    assert "1 failed, 1 passed, 1 xfailed, 1 error" in result.stdout
    assert "skipped, which CI=true does not allow: no broker here" in result.stdout


def test_in_ci_a_skipped_module_fails(tmp_path: Path) -> None:
    """With CI=true a whole module can't leave itself out either."""
    tmp_path.joinpath("test_module.py").write_text(MODULE)

    result = run(tmp_path, ci="true")

    assert result.returncode == 2, result.stdout
    assert "does not allow: no such module" in result.stdout


def test_an_empty_suite_fails(tmp_path: Path) -> None:
    """A run that finds no test at all is not a success."""
    assert run(tmp_path, ci="").returncode == pytest.ExitCode.NO_TESTS_COLLECTED
