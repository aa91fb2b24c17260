"""Say in one line what a task is and where it stands."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ("describe_callback", "describe_task", "where_suspended")

_ASYNCIO_DIR = os.path.dirname(asyncio.__file__)


def _location(code: CodeType, line: int | None) -> str:
    return f"{code.co_filename}:{line} in {code.co_qualname}"


def _frames(awaitable: Any) -> list[FrameType]:
    """The frames of a suspended coroutine, outermost first.

    Follows what each frame awaits: `Task.get_stack` stops at the outermost one.
    """
    frames: list[FrameType] = []
    while awaitable is not None:
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(awaitable, f"{prefix}_frame", None)
            if frame is not None:
                frames.append(frame)
                awaitable = getattr(awaitable, f"{prefix}_await", None) or getattr(
                    awaitable, f"{prefix}_yieldfrom", None
                )
                break
        else:
            break
    return frames


def where_suspended(awaitable: Any) -> str:
    """Where a suspended coroutine stands: its innermost line outside asyncio, then the asyncio one.

    Returns:
        ``"file:line in function"``, with `` -> asyncio function`` behind it where the wait itself
        is inside asyncio; ``"not started or already running"`` when there is no suspended frame.
    """
    frames = _frames(awaitable)
    if not frames:
        return "not started or already running"
    innermost = frames[-1]
    own = [f for f in frames if not f.f_code.co_filename.startswith(_ASYNCIO_DIR)]
    shown = own[-1] if own else innermost
    text = _location(shown.f_code, shown.f_lineno)
    if shown is not innermost:
        text += f" -> {innermost.f_code.co_qualname}"
    return text


def describe_task(task: asyncio.Task[Any]) -> str:
    """One line: the task's name, its coroutine, and where it stands."""
    coro = task.get_coro()
    qualname = getattr(coro, "__qualname__", None) or type(coro).__name__
    state = ", being cancelled" if task.cancelling() else ""
    return f"{task.get_name()} ({qualname}{state}) at {where_suspended(coro)}"


def describe_callback(callback: Any) -> str:
    """A callback's qualified name, or its repr where it has none."""
    inner = callback
    while hasattr(inner, "func"):  # functools.partial
        inner = inner.func
    name: str | None = getattr(inner, "__qualname__", None)
    owner = getattr(inner, "__self__", None)
    if name is None:
        return repr(callback)
    module = getattr(inner, "__module__", None) or type(owner).__module__
    text = f"{module}.{name}"
    if isinstance(owner, asyncio.Task):
        text += f" of {owner.get_name()}"
    return text
