"""``python -m eventflow`` as a module."""

from __future__ import annotations

import importlib

from eventflow import cli


def test_importing_it_runs_nothing() -> None:
    """As tools do that look at every module: only running it is a command."""
    assert importlib.import_module("eventflow.__main__").main is cli.main
