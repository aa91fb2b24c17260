"""Aliases and small Protocols for the things users write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from eventflow.events import Event

__all__ = ("Handler", "ResourceFactory", "ResourceHandler")

E = TypeVar("E", bound=Event)
R = TypeVar("R")

Handler = Callable[[E], Awaitable[None]] | Callable[[E], None]
"""A callable of one event. What it returns is ignored: a publisher never sees a result.

An ``async def`` runs on the event loop; a plain function runs in a thread. It is called as
it is, never wrapped, so it stays a plain callable for everybody else.
"""

ResourceHandler = Callable[[E, R], Awaitable[None]] | Callable[[E, R], None]
"""A handler whose subscription has ``resources=``: their value is its second argument."""

ResourceFactory = Callable[[], AbstractAsyncContextManager[R]]
"""Makes the async context manager that is open while a subscription runs."""
