"""The part of the leak check that needs pytest-asyncio; registered when a test first asks."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

import pytest_asyncio

from eventflow.testing.leaks import no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import pytest

__all__ = ("fixture_for", "is_asyncio_test")

Scope = Literal["session", "package", "module", "class", "function"]


def _leak_check(scope: Scope) -> Any:
    # A fixture's loop is fixed where it is defined, a test's where it is used: one each.
    @pytest_asyncio.fixture(loop_scope=scope, name=_name(scope))
    async def check(request: pytest.FixtureRequest) -> AsyncGenerator[None]:
        with no_leaks(allow=request.config.getini("eventflow_leak_check_allow")):
            yield

    return check


def _name(scope: str) -> str:
    return f"_eventflow_no_leaks_{scope}"


in_function = _leak_check("function")
in_class = _leak_check("class")
in_module = _leak_check("module")
in_package = _leak_check("package")
in_session = _leak_check("session")


def is_asyncio_test(item: pytest.Item) -> bool:
    """Whether pytest-asyncio runs the test."""
    function = getattr(item, "obj", None)
    hypothesis = getattr(function, "hypothesis", None)
    if hypothesis is not None:
        function = hypothesis.inner_test
    return item.get_closest_marker("asyncio") is not None and inspect.iscoroutinefunction(function)


def fixture_for(item: pytest.Item) -> str:
    """The name of the fixture that checks on the loop of a test."""
    marker = item.get_closest_marker("asyncio")
    scope = marker.kwargs.get("loop_scope") if marker is not None else None
    return _name(scope or item.config.getini("asyncio_default_test_loop_scope"))
