"""`Chaos`: what goes wrong in production, in a test, and twice the same."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from eventflow.errors import ChaosError, InvalidOptionError
from eventflow.lifecycle.options import check_seconds
from eventflow.messaging.middleware._both import both
from eventflow.messaging.middleware._checks import check_share

if TYPE_CHECKING:
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.middleware.protocol import CallNext, HandlerControls, Middleware

__all__ = ("Chaos",)


class Chaos:
    """Lets a share of the attempts fail, come late or run twice. For tests.

    The ``n``-th attempt at a handler has the same fate in each run with the same seed, as long
    as the shares are the same; handlers don't disturb each other. The error's text names seed
    and ``n``.

    Args:
        seed: A whole number.
        fail: Share that fails before the handler runs; 0 to 1.
        fail_after: Share that fails after the handler succeeded, as a crash before the ack
            does; 0 to 1.
        delay: Share that is delayed; 0 to 1. The delay counts towards the timeout.
        max_delay: Longest delay in seconds; they are spread evenly.
        duplicate: Share for which the handler runs twice; 0 to 1.
        error: The class of `Exception` that is raised; called with a text.

    Raises:
        InvalidOptionError: An option is out of range.

    Example::

        chaos = Chaos(seed=7, fail=0.05, fail_after=0.05, delay=0.2, duplicate=0.1)
        router = Router(middlewares=[chaos])
    """

    def __init__(
        self,
        *,
        seed: int,
        fail: float = 0.0,
        fail_after: float = 0.0,
        delay: float = 0.0,
        max_delay: float = 1.0,
        duplicate: float = 0.0,
        error: type[Exception] = ChaosError,
    ) -> None:
        number: object = seed
        if isinstance(number, bool) or not isinstance(number, int):
            raise InvalidOptionError(f"seed must be a whole number, not {seed!r}", option="seed")
        for option, share in (
            ("fail", fail),
            ("fail_after", fail_after),
            ("delay", delay),
            ("duplicate", duplicate),
        ):
            check_share(option, share)
        check_seconds("max_delay", max_delay)
        if not (isinstance(cast("object", error), type) and issubclass(error, Exception)):
            raise InvalidOptionError(
                f"error must be a class of Exception, not {error!r}", option="error"
            )
        self._seed = seed
        self._shares = _Fate(fail, fail_after, delay, duplicate)
        self._max_delay = max_delay
        self._error = error

    def for_handler(self, handler: HandlerControls) -> Middleware:
        """Return the middleware of one handler, which begins with its first attempt."""
        source = random.Random(f"{self._seed}/{handler.name}")  # noqa: S311 - to be repeated
        attempts = 0

        async def middleware(delivery: Delivery, call_next: CallNext) -> Any:
            nonlocal attempts
            attempts += 1
            # Drawn before anything waits, and always all: other attempts can't come in between.
            fate = _Fate(*(source.random() for _ in self._shares))
            wait = source.random() * self._max_delay
            text = f"attempt {attempts} at {handler.name!r} with seed {self._seed} fails"
            if fate.delay < self._shares.delay:
                await asyncio.sleep(wait)
            if fate.fail < self._shares.fail:
                raise self._error(f"{text}, before the handler")
            given = await call_next(delivery)
            if fate.duplicate < self._shares.duplicate:
                given = both(given, await call_next(delivery))
            if fate.fail_after < self._shares.fail_after:
                raise self._error(f"{text}, after the handler")
            return given

        return middleware


class _Fate(NamedTuple):
    fail: float
    fail_after: float
    delay: float
    duplicate: float
