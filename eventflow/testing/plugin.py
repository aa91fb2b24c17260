"""The pytest plugin: does nothing until a test or the configuration asks for it.

pytest loads it in every suite of an environment that has eventflow installed, so it imports
nothing but pytest, and hooks into nothing that runs for tests that didn't ask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import asyncio

__all__ = ("pytest_configure", "pytest_generate_tests")

LoopFactory = Callable[[], "asyncio.AbstractEventLoop"]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "virtual_clock(*, seed=None, start=0.0, real_wait=1.0, hold_limit=30.0): run the async "
        "test, and its function-scoped async fixtures, on eventflow.testing.VirtualClockLoop",
    )


class _VirtualLoopFactory:
    """A plugin for as long as one test is generated."""

    def __init__(self, factory: LoopFactory) -> None:
        self._factory = factory

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(self) -> Mapping[str, LoopFactory]:
        return {"virtual_clock": self._factory}


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Iterator[None]:
    """Have pytest-asyncio make the loop of a marked test with our factory.

    pytest-asyncio asks its hook for loop factories while it generates a test, and takes any
    implementation as meant for every test. So ours exists only for a marked one.
    """
    marker = metafunc.definition.get_closest_marker("virtual_clock")
    if marker is None:
        return (yield)
    from eventflow.testing.virtual_clock import VirtualClockLoop

    plugin = _VirtualLoopFactory(functools.partial(VirtualClockLoop, **marker.kwargs))
    manager = metafunc.config.pluginmanager
    manager.register(plugin)
    try:
        return (yield)
    finally:
        manager.unregister(plugin)
