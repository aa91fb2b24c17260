"""Errors of the testing kit.

::

    EventFlowError
    ├── VirtualClockDeadlockError (RuntimeError)  nothing can ever wake the virtual-clock loop
    ├── LeakError (AssertionError)                tasks, threads or timers were left behind
    └── TooManyStepsError (AssertionError)        a stepped call had no end
"""

from __future__ import annotations

from eventflow.errors import EventFlowError

__all__ = ("LeakError", "TooManyStepsError", "VirtualClockDeadlockError")


class VirtualClockDeadlockError(EventFlowError, RuntimeError):
    """Nothing is left that could wake the virtual-clock loop, so it would wait for ever.

    Raised out of the loop itself (``run_until_complete``, ``asyncio.Runner.run``), so no task
    can swallow it.

    Attributes:
        time_s: Virtual time at which the loop stood still.
        waited_s: Real seconds the loop waited before it gave up.
        held: Holds on the clock and worker threads out at that moment; 0 unless a worker never
            came back.
        tasks: One line for each task that was waiting, with its name and where it stands.
    """

    def __init__(
        self,
        *args: object,
        time_s: float = 0.0,
        waited_s: float = 0.0,
        held: int = 0,
        tasks: tuple[str, ...] = (),
    ) -> None:
        super().__init__(*args)
        self.time_s = time_s
        self.waited_s = waited_s
        self.held = held
        self.tasks = tasks


class LeakError(EventFlowError, AssertionError):
    """Code left tasks, threads or timers behind.

    Attributes:
        tasks: One line for each task left.
        threads: One line for each thread left.
        timers: One line for each timer left.
    """

    def __init__(
        self,
        *args: object,
        tasks: tuple[str, ...] = (),
        threads: tuple[str, ...] = (),
        timers: tuple[str, ...] = (),
    ) -> None:
        super().__init__(*args)
        self.tasks = tasks
        self.threads = threads
        self.timers = timers


class TooManyStepsError(EventFlowError, AssertionError):
    """A call that was cancelled step by step was still suspending after the last allowed step.

    Attributes:
        max_steps: The bound that was reached.
    """

    def __init__(self, *args: object, max_steps: int = 0) -> None:
        super().__init__(*args)
        self.max_steps = max_steps
