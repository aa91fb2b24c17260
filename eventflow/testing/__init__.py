"""Tools for testing code that uses eventflow, or asyncio at all.

Each name is imported on first use: the pytest plugin lies in this package and is loaded in every
suite of an environment that has eventflow installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventflow.testing.cancellation import (
        CancelMoment,
        CancelOutcome,
        CancelRound,
        cancel_at_each_suspension,
        cancel_rounds,
    )
    from eventflow.testing.capture import EventCapture
    from eventflow.testing.errors import LeakError, TooManyStepsError, VirtualClockDeadlockError
    from eventflow.testing.leaks import no_leaks
    from eventflow.testing.virtual_clock import VirtualClockLoop, run_virtual

__all__ = (
    "CancelMoment",
    "CancelOutcome",
    "CancelRound",
    "EventCapture",
    "LeakError",
    "TooManyStepsError",
    "VirtualClockDeadlockError",
    "VirtualClockLoop",
    "cancel_at_each_suspension",
    "cancel_rounds",
    "no_leaks",
    "run_virtual",
)

_MODULES = {
    "CancelMoment": "cancellation",
    "CancelOutcome": "cancellation",
    "CancelRound": "cancellation",
    "EventCapture": "capture",
    "LeakError": "errors",
    "TooManyStepsError": "errors",
    "VirtualClockDeadlockError": "errors",
    "VirtualClockLoop": "virtual_clock",
    "cancel_at_each_suspension": "cancellation",
    "cancel_rounds": "cancellation",
    "no_leaks": "leaks",
    "run_virtual": "virtual_clock",
}


def __getattr__(name: str) -> Any:
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
