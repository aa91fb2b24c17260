"""What a handler is, found out once."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, Mock

import pytest

from eventflow.errors import InvalidHandlerError
from eventflow.lifecycle.callables import check_handler, handler_name, is_asgi_app, is_async

if TYPE_CHECKING:
    from collections.abc import Callable


async def coroutine(event: object) -> None: ...


def plain(event: object) -> None: ...


class Asynchronous:
    async def __call__(self, event: object) -> None: ...

    async def method(self, event: object) -> None: ...

    @staticmethod
    async def static(event: object) -> None: ...


class Synchronous:
    def __call__(self, event: object) -> None: ...

    def method(self, event: object) -> None: ...


class CalledThrough:
    """Its call is no function of Python's own."""

    __call__ = print


@functools.wraps(coroutine)
def wrapped(event: object) -> Any:
    return coroutine(event)


HANDLERS: list[tuple[Callable[[Any], Any], bool]] = [
    (coroutine, True),
    (functools.partial(coroutine), True),
    (functools.partial(functools.partial(coroutine)), True),
    (Asynchronous(), True),
    (Asynchronous().method, True),
    (Asynchronous.static, True),
    (functools.partial(Asynchronous()), True),
    (plain, False),
    (functools.partial(plain), False),
    (Synchronous(), False),
    (Synchronous().method, False),
    (print, False),
    (dict, False),
    (wrapped, False),
    (lambda event: coroutine(event), False),  # noqa: PLW0108 - the subject
    (Mock(), False),
    (CalledThrough(), False),
]


@pytest.mark.parametrize(("handler", "expected"), HANDLERS)
def test_what_runs_on_the_loop(handler: Any, expected: bool) -> None:
    """Only what certainly gives a coroutine; anything else goes to a thread."""
    assert is_async(handler) is expected
    check_handler(handler, arguments=("event",))


def test_mocks_can_be_handlers() -> None:
    """For tests of services."""
    check_handler(AsyncMock(), arguments=("event",))
    made = AsyncMock()(1)
    assert asyncio.iscoroutine(made)
    made.close()


NAMES: list[tuple[Callable[[Any], Any], str]] = [
    (coroutine, "coroutine"),
    (functools.partial(plain), "plain"),
    (Asynchronous().method, "Asynchronous.method"),
    (Asynchronous(), "Asynchronous"),
    (print, "print"),
    (lambda event: None, "<lambda>"),
]


@pytest.mark.parametrize(("handler", "name"), NAMES)
def test_the_name_people_know_it_by(handler: Any, name: str) -> None:
    """Without where it was defined."""
    assert handler_name(handler) == name


async def asgi(scope: object, receive: object, send: object) -> None: ...


class App:
    async def __call__(self, scope: object, receive: object, send: object) -> None: ...


def plain_app(scope: object, receive: object, send: object) -> None: ...


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (asgi, True),
        (App(), True),
        (App, False),
        (coroutine, False),
        (plain_app, False),
        (AsyncMock(), False),
        (3, False),
    ],
)
def test_what_a_web_server_would_run(value: object, expected: bool) -> None:
    """Told by what it is called with, whatever its framework."""
    assert is_asgi_app(value) is expected


def test_the_message_shows_the_signature() -> None:
    """What it takes, and what it would be called with."""

    def two(first: object, second: object) -> None: ...

    with pytest.raises(InvalidHandlerError, match=r"two\(first.*second.*two\(event\)"):
        check_handler(two, arguments=("event",))
    check_handler(two, arguments=("event", "resource"))
