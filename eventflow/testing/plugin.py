"""The pytest plugin: does nothing until a test or the configuration asks for it.

pytest loads it in every suite of an environment that has eventflow installed, so it imports
nothing but pytest, and has no fixture or hook that acts on a test that didn't ask.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Mapping

    from eventflow.testing.capture import EventCapture

__all__ = (
    "event_capture",
    "no_leaks",
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_terminal_summary",
)

_LEAKS_PLUGIN = "eventflow-leaks"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("eventflow")
    group.addoption(
        "--virtual-clock-seed",
        type=int,
        default=None,
        metavar="N",
        help="seed of every test marked virtual_clock, in place of the one in its marker",
    )
    parser.addini(
        "eventflow_leak_check",
        type="bool",
        default=False,
        help="check after each async test that it left no tasks, threads or timers",
    )
    parser.addini(
        "eventflow_leak_check_allow",
        type="linelist",
        default=[],
        help="patterns of tasks, threads and timers that tests may leave, one a line",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; turn the leak check on where the configuration says so."""
    config.addinivalue_line(
        "markers",
        "virtual_clock(*, seed=None, start=0.0, real_wait=1.0, hold_limit=30.0): run the async "
        "test, and the async fixtures of its loop, on eventflow.testing.VirtualClockLoop",
    )
    config.addinivalue_line(
        "markers",
        "stress: a test of the contract suite that EVENTFLOW_STRESS=1 gives its full size",
    )
    config.stash[_LOOPS] = _VirtualLoops()
    if config.getini("eventflow_leak_check"):
        config.pluginmanager.register(_LeakCheckOfEachTest())


# ------------------------------------------------------------------------- virtual clock


class _VirtualLoops:
    """A plugin that is there while marked tests are generated.

    pytest-asyncio asks its hook for loop factories while it generates a test, and takes any
    implementation as meant for every test. So ours is registered for marked ones only; for a
    row of them once, because that takes longer than generating a test.
    """

    def __init__(self) -> None:
        self._factory: Callable[[], asyncio.AbstractEventLoop] | None = None

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(
        self,
    ) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        assert self._factory is not None
        return {"virtual_clock": self._factory}

    def use(
        self,
        factory: Callable[[], asyncio.AbstractEventLoop] | None,
        manager: pytest.PytestPluginManager,
    ) -> None:
        """Give this one from now on; ``None``: be gone."""
        if factory is None and self._factory is not None:
            manager.unregister(self)
        elif factory is not None and self._factory is None:
            manager.register(self)
        self._factory = factory


_LOOPS = pytest.StashKey[_VirtualLoops]()


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, object, object]:
    """Have pytest-asyncio make the loop of a marked test with our factory."""
    config = metafunc.config
    marker = metafunc.definition.get_closest_marker("virtual_clock")
    if marker is None:
        config.stash[_LOOPS].use(None, config.pluginmanager)
        return (yield)
    from eventflow.testing.virtual_clock import VirtualClockLoop  # noqa: PLC0415 - on first use

    options: dict[str, Any] = dict(marker.kwargs)
    seed = config.getoption("virtual_clock_seed")
    if seed is not None:
        options["seed"] = seed
    factory = functools.partial(VirtualClockLoop, *marker.args, **options)
    config.stash[_LOOPS].use(factory, config.pluginmanager)
    return (yield)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Every test is generated."""
    session.config.stash[_LOOPS].use(None, session.config.pluginmanager)


# ---------------------------------------------------------------------------- leak check


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Generator[None]:
    """Fail at the end of the test if it left tasks, threads or timers.

    Ask for it before other fixtures: then it looks after they have been torn down.
    """
    if request.config.pluginmanager.has_plugin("asyncio"):
        from eventflow.testing import _pytest_leaks  # noqa: PLC0415 - on first use

        if not request.config.pluginmanager.has_plugin(_LEAKS_PLUGIN):
            request.config.pluginmanager.register(_pytest_leaks, _LEAKS_PLUGIN)
        if _pytest_leaks.is_asyncio_test(request.node):
            request.getfixturevalue(_pytest_leaks.fixture_for(request.node))
            yield
            return
    from eventflow.testing import leaks  # noqa: PLC0415 - on first use

    with leaks.no_leaks(allow=request.config.getini("eventflow_leak_check_allow")):
        yield


class _LeakCheckOfEachTest:
    """A plugin where the configuration asks for the check."""

    @pytest.fixture(autouse=True)
    def _eventflow_leak_check(self, request: pytest.FixtureRequest) -> None:
        if request.node.get_closest_marker("asyncio") is not None:
            request.getfixturevalue("no_leaks")


# ------------------------------------------------------------------------ contract suite

_CONTRACT = "eventflow_contract"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the contract suite has counted for each backend, where it ran."""
    backends: dict[str, list[tuple[int, ...]]] = {}
    for outcome in ("", "error"):  # where the reports of what comes after a test stand
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == _CONTRACT and report.when == "teardown":
                    backend, *counts = value
                    backends.setdefault(backend, []).append(tuple(counts))
    if not backends or terminalreporter.no_summary:
        return
    terminalreporter.section("eventflow contract")
    for backend, found in sorted(backends.items()):
        published, received, lost, twice, *_ = (sum(column) for column in zip(*found, strict=True))
        terminalreporter.write_line(
            f"{backend}: {len(found)} tests, {published:,} messages published, {received:,} "
            f"deliveries, {lost:,} lost, {twice:,} that nobody asked for"
        )


# ------------------------------------------------------------------------------- capture


@pytest.fixture
def event_capture() -> EventCapture:
    """A new `eventflow.testing.EventCapture`."""
    from eventflow.testing.capture import EventCapture  # noqa: PLC0415 - on first use

    return EventCapture()
