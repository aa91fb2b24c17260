"""Which of anyio's worker threads are out.

`anyio.to_thread.run_sync` has no hook, so its threads are looked at instead. A worker is in its
own ``idle_workers`` exactly while it has nothing to do: it leaves when a call is handed over and
comes back in the callback that delivers the result, both on the loop's thread. This is therefore
free of races, also for calls that were abandoned on cancellation.
Source: anyio ``_backends/_asyncio.py``, class ``WorkerThread`` (the same from 4.0 to 4.16).
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ("busy_anyio_workers", "is_idle_anyio_worker")


def _worker_type() -> type[Any] | None:
    module = sys.modules.get("anyio._backends._asyncio")
    if module is None:
        return None  # nobody used anyio in this process yet, so no worker exists
    worker: type[Any] | None = getattr(module, "WorkerThread", None)
    if worker is None:
        # Going on would advance the clock while a thread is out, which is the one thing
        # that must never happen.
        raise RuntimeError(
            "this version of anyio runs its worker threads in a way eventflow.testing does not "
            "know; use an anyio this version of eventflow supports"
        )
    return worker


def _is_busy(worker: Any) -> bool:
    if not worker.stopping:
        return worker not in worker.idle_workers
    # A stopped worker never goes back to the idle ones. Its queue counts the call it works on
    # and the order to stop, which is never ticked off.
    unfinished: int = worker.queue.unfinished_tasks
    return unfinished > 1


def busy_anyio_workers(loop: asyncio.AbstractEventLoop) -> int:
    """Count the anyio worker threads that work for this loop right now."""
    worker_type = _worker_type()
    if worker_type is None:
        return 0
    threads: list[Any] = [t for t in threading.enumerate() if isinstance(t, worker_type)]
    return sum(1 for thread in threads if thread.loop is loop and _is_busy(thread))


def is_idle_anyio_worker(thread: threading.Thread) -> bool:
    """Whether a thread is one of anyio's that waits for work, or is about to end."""
    worker_type = _worker_type()
    return worker_type is not None and isinstance(thread, worker_type) and not _is_busy(thread)
