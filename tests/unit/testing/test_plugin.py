"""The pytest plugin in suites of its own, beside pytest-asyncio in both modes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PLUGIN = "eventflow.testing.plugin"

both_modes = pytest.mark.parametrize("mode", ["auto", "strict"])


@pytest.fixture
def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Run a suite made of one file, with warnings as errors."""
    # What this run was started with is not for the suite inside.
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(
        source: str, *args: str, mode: str = "strict", ini: str = "", asyncio: bool = True
    ) -> pytest.RunResult:
        settings = f"asyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function\n"
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{settings if asyncio else ''}{ini}\n")
        pytester.makepyfile(source)
        options = ["--strict-markers", "--strict-config", "-p", "no:cacheprovider"]
        if not is_installed():
            options += ["-p", PLUGIN]
        if not asyncio:
            options += ["-p", "no:asyncio"]
        return pytester.runpytest_inprocess(*options, *args)

    return run


def is_installed() -> bool:
    """Whether pytest finds the plugin by itself, as it does where eventflow is installed."""
    from importlib.metadata import entry_points

    return any(entry.value == PLUGIN for entry in entry_points(group="pytest11"))


VIRTUAL = """
    import asyncio
    import pytest
    import pytest_asyncio
    from eventflow.testing import VirtualClockLoop

    pytestmark = pytest.mark.virtual_clock(seed=3)

    @pytest_asyncio.fixture
    async def started_at():
        await asyncio.sleep(100)
        yield asyncio.get_running_loop().time()
        await asyncio.sleep(100)
        assert asyncio.get_running_loop().time() >= 1200

    def test_sync():
        pass

    @pytest.mark.asyncio
    async def test_module_marker(started_at):
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        assert loop.seed == 3
        assert started_at == 100
        await asyncio.sleep(1000)
        assert loop.time() == 1100

    @pytest.mark.asyncio
    @pytest.mark.virtual_clock(start=50.0)
    @pytest.mark.parametrize("number", [1, 2])
    async def test_own_marker(number):
        loop = asyncio.get_running_loop()
        assert (loop.time(), loop.seed) == (50.0, None)

    class TestGroup:
        @pytest.mark.asyncio
        async def test_method(self):
            assert isinstance(asyncio.get_running_loop(), VirtualClockLoop)
"""


@both_modes
def test_the_marker_gives_a_virtual_clock(run: Callable[..., pytest.RunResult], mode: str) -> None:
    """On a test, a class and a module; fixtures of the test share the loop."""
    run(VIRTUAL, mode=mode).assert_outcomes(passed=5)


def test_the_marker_does_not_change_the_names_of_tests(
    run: Callable[..., pytest.RunResult],
) -> None:
    """A test can be selected by the name it has without the marker."""
    result = run(VIRTUAL, "--collect-only", "-q")
    result.stdout.fnmatch_lines(["*::test_module_marker", "*::test_own_marker[[]1[]]"])


def test_tests_without_the_marker_keep_their_loop(run: Callable[..., pytest.RunResult]) -> None:
    """A marked test before or after them, even on a loop they share, changes nothing."""
    run(
        """
        import asyncio
        import pytest
        from eventflow.testing import VirtualClockLoop

        pytestmark = pytest.mark.asyncio(loop_scope="module")

        async def test_before():
            assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)

        @pytest.mark.virtual_clock
        async def test_virtual():
            assert isinstance(asyncio.get_running_loop(), VirtualClockLoop)

        async def test_after():
            assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)

        @pytest.mark.asyncio(loop_scope="function")
        async def test_own_loop():
            assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)
        """
    ).assert_outcomes(passed=4)


def test_a_suite_with_loop_factories_of_its_own(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    """Marked tests get the virtual clock once, the others every loop of the suite."""
    pytester.makeconftest(
        """
        import asyncio

        def pytest_asyncio_loop_factories(config, item):
            return {"one": asyncio.SelectorEventLoop, "two": asyncio.SelectorEventLoop}
        """
    )
    result = run(
        """
        import asyncio
        import pytest
        from eventflow.testing import VirtualClockLoop

        @pytest.mark.virtual_clock
        @pytest.mark.asyncio
        async def test_virtual():
            assert isinstance(asyncio.get_running_loop(), VirtualClockLoop)

        @pytest.mark.asyncio
        async def test_own():
            assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)
        """
    )
    result.assert_outcomes(passed=3)


def test_a_seed_can_be_given_for_the_whole_run(run: Callable[..., pytest.RunResult]) -> None:
    """The command line wins over the marker."""
    source = """
        import asyncio
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.virtual_clock(seed=1)
        async def test_seed():
            assert asyncio.get_running_loop().seed == 42
    """
    run(source, "--virtual-clock-seed=42").assert_outcomes(passed=1)
    run(source).assert_outcomes(failed=1)


def test_a_deadlock_fails_one_test_and_no_more(run: Callable[..., pytest.RunResult]) -> None:
    """The error names the test's task, and the next test runs."""
    result = run(
        """
        import asyncio
        import pytest

        pytestmark = [pytest.mark.asyncio, pytest.mark.virtual_clock(real_wait=0.01)]

        async def test_hangs():
            await asyncio.Event().wait()

        async def test_goes_on():
            await asyncio.sleep(1)
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E*nothing can wake the loop*", "E*test_hangs*Event.wait*"])


def test_hypothesis_with_the_virtual_clock(run: Callable[..., pytest.RunResult]) -> None:
    """Every example runs on it."""
    run(
        """
        import asyncio
        import pytest
        from hypothesis import given, settings, strategies as st

        @pytest.mark.asyncio
        @pytest.mark.virtual_clock
        @settings(max_examples=5, database=None)
        @given(delay=st.integers(0, 10_000))
        async def test_sleeps(delay):
            before = asyncio.get_running_loop().time()
            await asyncio.sleep(delay)
            assert asyncio.get_running_loop().time() == before + delay
        """
    ).assert_outcomes(passed=1)


LEAKS = """
    import asyncio
    import threading
    import pytest
    import pytest_asyncio

    pytestmark = pytest.mark.asyncio

    @pytest_asyncio.fixture
    async def background():
        task = asyncio.create_task(asyncio.Event().wait(), name="of a fixture")
        yield
        task.cancel()
        await asyncio.wait([task])

    async def test_clean(background):
        await asyncio.to_thread(int)

    async def test_task():
        asyncio.create_task(asyncio.Event().wait(), name="left task")
        await asyncio.sleep(0)

    async def test_timer():
        asyncio.get_running_loop().call_later(1000, print)
"""


@both_modes
def test_the_leak_check_of_every_test(run: Callable[..., pytest.RunResult], mode: str) -> None:
    """The ini option checks every async test, after its fixtures were torn down."""
    result = run(LEAKS, mode=mode, ini="eventflow_leak_check = true")
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_task*",
            "E*LeakError: 1 left behind:*",
            "E*task left task (Event.wait) at *",
            "*ERROR at teardown of test_timer*",
            "E*timer builtins.print, due in * s",
        ]
    )


@both_modes
def test_nothing_is_checked_unasked(run: Callable[..., pytest.RunResult], mode: str) -> None:
    """Without the option and the fixture, tests may leave what they like."""
    run(LEAKS, mode=mode).assert_outcomes(passed=3)


def test_leaks_that_are_allowed(run: Callable[..., pytest.RunResult]) -> None:
    """The second ini option takes patterns, one a line."""
    ini = "eventflow_leak_check = true\neventflow_leak_check_allow =\n  left *\n  builtins.*"
    run(LEAKS, ini=ini).assert_outcomes(passed=3)


@both_modes
def test_the_leak_check_of_one_test(run: Callable[..., pytest.RunResult], mode: str) -> None:
    """By fixture, on any loop."""
    result = run(
        """
        import asyncio
        import pytest

        @pytest.mark.asyncio
        async def test_checked(no_leaks):
            asyncio.create_task(asyncio.Event().wait(), name="left task")
            await asyncio.sleep(0)

        @pytest.mark.asyncio
        async def test_unchecked():
            asyncio.create_task(asyncio.Event().wait())
            await asyncio.sleep(0)

        @pytest.mark.asyncio
        @pytest.mark.virtual_clock
        async def test_virtual(no_leaks):
            asyncio.get_running_loop().call_later(3600, print)
        """,
        mode=mode,
    )
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        [
            "E*task left task*",
            "E*timer builtins.print, due in 3600 s",
        ]
    )


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_the_leak_check_on_a_shared_loop(run: Callable[..., pytest.RunResult], scope: str) -> None:
    """What a wider fixture or an earlier test runs on the shared loop is not reported again."""
    result = run(
        f"""
        import asyncio
        import pytest
        import pytest_asyncio

        SCOPE = {scope!r}
        left = []

        @pytest_asyncio.fixture(scope=SCOPE, loop_scope=SCOPE)
        async def background():
            async def beat():
                while True:
                    await asyncio.sleep(0.001)

            task = asyncio.create_task(beat(), name="of a fixture")
            yield
            for task in (task, *left):
                task.cancel()
                await asyncio.wait([task])

        class TestAll:
            @pytest.mark.asyncio(loop_scope=SCOPE)
            async def test_leaks(self, background):
                left.append(asyncio.create_task(asyncio.Event().wait(), name="left task"))
                await asyncio.sleep(0)

            @pytest.mark.asyncio(loop_scope=SCOPE)
            async def test_clean(self, background):
                await asyncio.sleep(0.003)
        """,
        ini="eventflow_leak_check = true",
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["E*1 left behind:*", "E*task left task*"])


def test_the_leak_check_with_hypothesis(run: Callable[..., pytest.RunResult]) -> None:
    """An async test of hypothesis is looked at once, after all its examples."""
    result = run(
        """
        import asyncio
        import pytest
        from hypothesis import given, settings, strategies as st

        @pytest.mark.asyncio
        @settings(max_examples=3, database=None)
        @given(number=st.integers())
        async def test_leaks(number):
            asyncio.create_task(asyncio.Event().wait(), name="left task")
            await asyncio.sleep(0)
        """,
        ini="eventflow_leak_check = true",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E*left behind:*", "E*task left task*"])


def test_the_event_capture_fixture(run: Callable[..., pytest.RunResult]) -> None:
    """A new capture for each test."""
    run(
        """
        import pytest
        from eventflow.events import Event

        class Happened(Event, topic="happened"):
            pass

        @pytest.mark.asyncio
        @pytest.mark.parametrize("number", [1, 2])
        async def test_captures(event_capture, number):
            await event_capture.publish(Happened())
            event_capture.assert_published(Happened, times=1)
        """
    ).assert_outcomes(passed=2)


def test_without_pytest_asyncio(run: Callable[..., pytest.RunResult]) -> None:
    """The plugin needs nothing of it; the fixture then looks at threads."""
    result = run(
        """
        import asyncio
        import threading
        import pytest
        from eventflow.testing import run_virtual

        release = threading.Event()

        @pytest.mark.virtual_clock
        def test_clean(no_leaks):
            run_virtual(lambda: asyncio.sleep(1000))

        def test_leaks(no_leaks):
            threading.Thread(target=release.wait).start()

        def test_end():
            release.set()
        """,
        ini="eventflow_leak_check = true",
        asyncio=False,
    )
    result.assert_outcomes(passed=3, errors=1)


@both_modes
def test_a_suite_that_asks_for_nothing_runs_as_without_the_plugin(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], mode: str
) -> None:
    """The same fixtures in the same order, the same loops, the same outcomes."""
    source = """
        import asyncio
        import pytest
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def number():
            return 1

        @pytest.mark.asyncio
        @pytest.mark.parametrize("other", [1, 2])
        async def test_async(number, other):
            asyncio.get_running_loop().call_later(60, print)

        def test_sync(): ...
    """

    def lines(result: pytest.RunResult) -> list[str]:
        return [line for line in result.outlines if "::" in line or "SETUP" in line]

    with_plugin = lines(run(source, "--setup-show", mode=mode))
    without = lines(run(source, "--setup-show", "-p", f"no:{PLUGIN}", "-p", "no:eventflow"))
    assert len(with_plugin) > 3
    assert [line for line in with_plugin if "SETUP" in line] == [
        line for line in without if "SETUP" in line
    ]
    assert with_plugin == without


def test_loading_the_plugin_is_cheap() -> None:
    """It brings in nothing but pytest: not pydantic, anyio, asyncio nor the events."""
    code = (
        "import sys, pytest; before = set(sys.modules)\n"
        f"import {PLUGIN}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(  # a fresh interpreter, without the plugins of this one
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {
        "eventflow",
        "eventflow.testing",
        PLUGIN,
    }
