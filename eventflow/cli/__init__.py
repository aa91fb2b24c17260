"""The ``eventflow`` command. Needs nothing beyond the core."""

from eventflow.cli._main import main

__all__ = ("main",)
