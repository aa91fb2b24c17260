"""Calls of the client library that block, in threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from eventflow.brokers.kafka._errors import may_pass

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("SLICE_S", "in_thread", "longer")

SLICE_S = 0.5
LONGEST_S = 2.0
"""Seconds of any attempt: who closes what is asked waits for its end."""


async def in_thread(call: Callable[[float], Any], *, within: float, slices: float = SLICE_S) -> Any:
    """Repeat a blocking call until it does not time out.

    Args:
        call: Takes the seconds that it may last.
        within: Seconds until the last error is raised.
        slices: Seconds of the first call, and as long as its thread may stay after nobody waits for
            it; of one after a time-out twice as many, up to 2, as what was too late is not heard.

    Raises:
        KafkaException: What the call raised that is not a matter of time, or its last time-out.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    left = threading.Event()

    def run() -> None:
        until, seconds = time.monotonic() + within, slices
        while not left.is_set():
            result: Any = None
            error: Exception | None = None
            try:
                result = call(min(seconds, max(until - time.monotonic(), 0.01)))
            except Exception as exc:  # noqa: BLE001 - carried to the caller, whatever it is
                error = exc
                if _passes(error) and time.monotonic() < until:
                    seconds = longer(seconds, error.args[0])
                    left.wait(0.02)
                    continue
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(_end, ended, result, error)
            # Its traceback has this frame, which must not keep it, and all that was called.
            error = None
            return

    threading.Thread(target=run, name="eventflow:kafka-call", daemon=True).start()
    try:
        return await ended
    finally:
        left.set()


def longer(seconds: float, error: KafkaError) -> float:
    """How long the next attempt at a question may take, where the last one had some seconds.

    The library does not hear what comes later than that: a cluster that always takes a little
    longer would never be heard. 2 s at most.
    """
    return min(2 * seconds, LONGEST_S) if error.code() == KafkaError._TIMED_OUT else seconds


def _passes(error: Exception) -> bool:
    return isinstance(error, KafkaException) and may_pass(error.args[0])


def _end(ended: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(result)
    else:
        ended.set_exception(error)
