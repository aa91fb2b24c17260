"""Say in one line what a task is and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import threading
    from types import CodeType, FrameType

__all__ = ("callback_name", "describe_task", "describe_thread", "where_suspended")

# Not where the reader looks first.
_PLUMBING = ("asyncio", "anyio")


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


def _is_plumbing(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in _PLUMBING


def where_suspended(awaitable: Any) -> str:
    """Where a suspended coroutine stands: its innermost line outside asyncio and anyio.

    Returns:
        ``"file:line in function"``, with ``-> function`` behind it where asyncio or anyio was
        called to wait; ``"no suspended frame"`` when it is over.
    """
    frames = _frames(awaitable)
    if not frames:
        return "no suspended frame"
    innermost = frames[-1]
    own = [frame for frame in frames if not _is_plumbing(frame)]
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


def callback_name(callback: Any) -> str:
    """A callback's module and qualified name, or its repr where it has none."""
    while hasattr(callback, "func"):  # functools.partial
        callback = callback.func
    name: str | None = getattr(callback, "__qualname__", None)
    if name is None:
        return repr(callback)
    module = getattr(callback, "__module__", None)
    if module is None:  # a method of a class written in C
        module = type(getattr(callback, "__self__", None)).__module__
    return f"{module}.{name}"


def describe_thread(thread: threading.Thread, frame: FrameType | None) -> str:
    """One line: the thread's name, whether it is a daemon, and where it stands."""
    text = f"{thread.name} (daemon)" if thread.daemon else thread.name
    return text if frame is None else f"{text} at {_location(frame.f_code, frame.f_lineno)}"
