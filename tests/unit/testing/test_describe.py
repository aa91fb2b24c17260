"""The lines by which tasks, threads and callbacks are told apart in a report."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest

from eventflow.testing import _describe


async def inner() -> None:
    await asyncio.sleep(60)


async def outer() -> None:
    await inner()


async def test_a_task_is_shown_where_our_code_waits() -> None:
    """The innermost line outside asyncio, then what it called."""
    task = asyncio.create_task(outer(), name="mine")
    await asyncio.sleep(0)
    line = _describe.describe_task(task)
    assert line.startswith(f"mine (outer) at {__file__}:")
    assert line.endswith(" in inner -> sleep")
    task.cancel()
    await asyncio.wait([task])
    assert _describe.describe_task(task).endswith(" at no suspended frame")


class Callable:
    def __call__(self) -> None: ...

    def __repr__(self) -> str:
        return "<a callable>"


CALLBACKS: list[tuple[object, str]] = [
    (print, "builtins.print"),
    (functools.partial(functools.partial(inner)), f"{__name__}.inner"),
    ("".join, "builtins.str.join"),
    (Callable(), "<a callable>"),
]


@pytest.mark.parametrize(("callback", "name"), CALLBACKS)
def test_the_name_of_a_callback(callback: object, name: str) -> None:
    """Module and qualified name, looking through partials."""
    assert _describe.callback_name(callback) == name


def test_a_thread() -> None:
    """A daemon is marked; without a frame there is no place."""
    thread = threading.Thread(name="mine", daemon=True)
    assert _describe.describe_thread(thread, None) == "mine (daemon)"
