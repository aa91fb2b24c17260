"""Tools for testing code that uses eventflow, or asyncio at all.

Each name is imported on first use: the pytest plugin lies in this package and is loaded in every
suite of an environment that has eventflow installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventflow.testing.errors import VirtualClockDeadlockError as VirtualClockDeadlockError
    from eventflow.testing.virtual_clock import VirtualClockLoop as VirtualClockLoop
    from eventflow.testing.virtual_clock import run_virtual as run_virtual

_MODULES = {
    "VirtualClockDeadlockError": "errors",
    "VirtualClockLoop": "virtual_clock",
    "run_virtual": "virtual_clock",
}

__all__ = ("VirtualClockDeadlockError", "VirtualClockLoop", "run_virtual")


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
