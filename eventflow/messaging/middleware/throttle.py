"""`Throttle`: not more than so many calls a second."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from eventflow.errors import InvalidOptionError
from eventflow.lifecycle.options import check_whole, finite

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.middleware.protocol import CallNext, HandlerControls, Middleware

__all__ = ("Throttle", "TokenBucket")


class TokenBucket:
    """A bucket that fills with ``rate`` tokens a second, up to ``burst``; full at first.

    Plain state: it is told the time, and waits for nobody. In any span of ``s`` seconds it lets
    at most ``burst + rate * s`` pass.

    Args:
        rate: Tokens a second; above 0.
        burst: Most tokens in it; 1 or more.
        now: The time, in seconds of any clock that does not go back.
    """

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    def __init__(self, *, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = now

    def take(self, now: float) -> float:
        """Take a token, or the next that nobody has taken; returns the seconds until it is there.

        So who comes first is served first. Who does not wait for his token wastes it.
        """
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)


class Throttle:
    """Lets at most ``rate`` attempts a second begin, after ``burst`` of them at once.

    An attempt that has to wait holds its place among the handler's ``concurrency``; the wait
    does not count towards its timeout. Each attempt takes a token, also a retry. A wait that a
    stop cuts uses its token up.

    Args:
        rate: Attempts a second; above 0.
        burst: Attempts that may begin at once after a quiet time; 1 or more.
        shared: One bucket for all handlers that this object is put around, in the place of one
            each. They have to run in one event loop.

    Raises:
        InvalidOptionError: An option is out of range.

    Example::

        router = Router(middlewares=[Throttle(rate=50, shared=True)])
    """

    def __init__(self, *, rate: float, burst: int = 1, shared: bool = False) -> None:
        if not 0 < finite(rate) < math.inf:
            raise InvalidOptionError(
                f"rate must be a number of attempts a second, finite and above 0, not {rate!r}",
                option="rate",
            )
        check_whole("burst", burst)
        self._rate = rate
        self._burst = burst
        self._is_shared = shared
        self._shared: tuple[asyncio.AbstractEventLoop, TokenBucket] | None = None

    def for_handler(self, handler: HandlerControls) -> Middleware:
        """Return the middleware of one handler."""
        loop = asyncio.get_running_loop()
        if not self._is_shared:
            return _Throttled(handler, self._bucket(loop), loop)
        if self._shared is None or self._shared[0] is not loop:
            self._shared = (loop, self._bucket(loop))  # another loop has another clock
        return _Throttled(handler, self._shared[1], loop)

    def _bucket(self, loop: asyncio.AbstractEventLoop) -> TokenBucket:
        return TokenBucket(rate=self._rate, burst=self._burst, now=loop.time())


class _Throttled:
    def __init__(
        self, handler: HandlerControls, bucket: TokenBucket, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._handler = handler
        self._bucket = bucket
        self._loop = loop

    def __call__(self, delivery: Delivery, call_next: CallNext) -> Awaitable[Any]:
        wait = self._bucket.take(self._loop.time())
        return self._later(wait, delivery, call_next) if wait else call_next(delivery)

    async def _later(self, wait: float, delivery: Delivery, call_next: CallNext) -> Any:
        with self._handler.untimed():
            await asyncio.sleep(wait)
        return await call_next(delivery)
