"""Ends the run where a test stands still and its time-out does not help.

A time-out is a Python function, which the main thread has to call. It can't while it, or whoever
has the interpreter's lock, waits in a library's code. This one needs neither: it prints where
every thread is, and ends the process.
"""

from __future__ import annotations

import faulthandler
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ("LATE_S", "pytest_configure", "pytest_runtest_protocol", "pytest_unconfigure")

LATE_S = 60.0
"""Seconds after a test's time-out."""
_output = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the output that nobody captures, where tests have time-outs."""
    if config.pluginmanager.has_plugin("timeout"):
        config.stash[_output] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close it."""
    if _output in config.stash:
        os.close(config.stash[_output])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Watch one test, with its fixtures."""
    if _output not in item.config.stash:
        return (yield)
    marker = item.get_closest_marker("timeout")
    timeout = float(marker.args[0] if marker else item.config.getini("timeout"))
    faulthandler.dump_traceback_later(timeout + LATE_S, exit=True, file=item.config.stash[_output])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
