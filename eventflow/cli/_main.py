"""Where every command begins: signals first, then the arguments, then the rest of the code."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventflow.cli._exit import Guard
from eventflow.cli._signals import StopSignals

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("main",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, or leaves with one by itself."""
    guard = Guard()
    signals = StopSignals(guard)
    signals.install()
    # The code of a command is loaded when signals are in good hands: it takes a tenth of a second.
    from eventflow.cli import run  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="eventflow", description="Typed events for asyncio.")
    commands = parser.add_subparsers(required=True, metavar="command")
    run.add_to(commands)
    arguments = parser.parse_args(argv)
    code: int = arguments.command(arguments, signals, guard)
    return code
