"""A test that stands still in C code ends the run, and says where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]


def test_who_keeps_the_interpreter_ends_the_run(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests import watchdog
        watchdog.LATE_S = 0.5
        pytest_plugins = ["tests.watchdog"]
        """
    )
    pytester.makepyfile(
        """
        import ctypes
        import pytest

        @pytest.mark.timeout(0.5)
        def test_stands_still():
            library = ctypes.PyDLL(None)  # which doesn't let go of the interpreter's lock
            mutex = ctypes.create_string_buffer(64)
            while True:
                library.pthread_mutex_lock(mutex)
        """
    )
    run = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=30)
    assert run.ret == 1
    run.stderr.fnmatch_lines(["Timeout (*", "*in test_stands_still*"])


def test_who_ends_in_time_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests import watchdog
        watchdog.LATE_S = 1
        pytest_plugins = ["tests.watchdog"]
        """
    )
    pytester.makepyfile(
        """
        import threading
        import pytest

        @pytest.mark.timeout(1)
        def test_ends(): ...

        def test_takes_longer_than_the_other_had():
            threading.Event().wait(2.5)
        """
    )
    run = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-o", "timeout=10", timeout=30)
    run.assert_outcomes(passed=2)
