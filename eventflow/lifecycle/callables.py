"""What a handler is: found out once, when it is bound, and refused there if it can't work."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

from eventflow.errors import InvalidHandlerError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("check_handler", "gives_awaitable", "handler_name", "is_asgi_app", "is_async")


def _plain(handler: object) -> object:
    """The function under partials, and behind a callable object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not (inspect.isroutine(handler) or isinstance(handler, type)) and callable(handler):
        call = getattr(type(handler), "__call__", None)  # noqa: B004 - its function, if it is one
        if inspect.isfunction(call):
            return call
    return handler


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine, so that it runs on the loop and not in a thread."""
    plain = _plain(handler)
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(handler)


def is_asgi_app(value: object) -> bool:
    """Whether it is called as ``await app(scope, receive, send)``, as a web framework's app is."""
    if isinstance(value, type) or not callable(value) or not is_async(value):
        return False
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return False  # one that has none, or only looks like a function, as a mock does
    return [*parameters] == ["scope", "receive", "send"]


def handler_name(handler: Callable[..., Any]) -> str:
    """The name people know it by: ``send_receipt``, ``Shop.charge``."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    name = getattr(handler, "__qualname__", None) or type(handler).__qualname__
    return str(name).rpartition("<locals>.")[2]


def check_handler(handler: object, *, arguments: tuple[str, ...]) -> None:
    """Refuse what can't be called with these positional arguments.

    Raises:
        InvalidHandlerError: With what is wrong and what to write instead.
    """
    wanted = f"({', '.join(arguments)})"
    if not callable(handler):
        raise InvalidHandlerError(
            f"a handler is a callable of {wanted}, not {handler!r}"
            + ("; pass the function itself, do not call it" if inspect.iscoroutine(handler) else "")
        )
    name = handler_name(handler)
    plain = _plain(handler)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise InvalidHandlerError(
            f"{name} is a generator: nothing would run it. A handler returns None; "
            "publish further events with `await bus.publish(…)` instead of yielding them"
        )
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # a builtin without a signature: the call will tell
    try:
        signature.bind(*arguments)
    except TypeError as exc:
        raise InvalidHandlerError(
            f"{name}{signature} can't be called as {name}{wanted}: {exc}. A handler takes the "
            "event, and as second argument what `resources=` yields where that is given"
        ) from None


def gives_awaitable(value: object) -> bool:
    """Whether a plain function gave back something to await, as ``lambda e: send(e)`` does."""
    return inspect.isawaitable(value) or asyncio.isfuture(value)
