"""`CircuitBreaker`: while what a handler needs is away, nothing is taken in."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Literal

from eventflow._log import EventLogger, shown
from eventflow.errors import HandlerTimeoutError, Permanent
from eventflow.lifecycle.options import check_seconds, check_whole
from eventflow.messaging.middleware._checks import matcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.middleware._checks import Matches
    from eventflow.messaging.middleware.protocol import CallNext, HandlerControls, Middleware

__all__ = ("Circuit", "CircuitBreaker")

log = EventLogger("eventflow.router")


class Circuit:
    """The states of a circuit breaker: a plain machine, without I/O.

    ::

        closed ──failures in a row──► open ──cool-down──► half-open ──success──► closed
                                        ▲                     │
                                        └──────failure────────┘

    A call gets a ticket when it begins, and hands it in when it ends. Those that began before
    the last change of state change nothing any more, and in half-open one call counts at a time.

    Attributes:
        state: The state.
        until: When the cool-down is over; of meaning while it is open.
        is_probing: Whether a call runs that decides about half-open.
    """

    __slots__ = ("_cool_down", "_failed", "_failures", "_ticket", "is_probing", "state", "until")

    def __init__(self, *, failures: int, cool_down: float) -> None:
        self.state: Literal["closed", "open", "half-open"] = "closed"
        self.until = 0.0
        self.is_probing = False
        self._failures = failures
        self._cool_down = cool_down
        self._failed = 0
        self._ticket = 1

    def begin(self) -> int:
        """A call begins; returns its ticket, 0 if it will not count."""
        if self.state == "closed":
            return self._ticket
        if self.state == "open" or self.is_probing:
            return 0
        self.is_probing = True
        return self._ticket

    def succeeded(self, ticket: int) -> bool:
        """A call succeeded. Whether that changed the state."""
        if ticket != self._ticket:
            return False
        self._failed = 0
        return self.state == "half-open" and self._turn("closed")

    def failed(self, ticket: int, now: float) -> bool:
        """A call failed. Whether that opened the circuit."""
        if ticket != self._ticket:
            return False
        self._failed += 1
        if self.state == "closed" and self._failed < self._failures:
            return False
        self.until = now + self._cool_down
        return self._turn("open")

    def undecided(self, ticket: int) -> bool:
        """A call ended without telling anything. Whether another is to be let through for it."""
        if ticket != self._ticket or self.state != "half-open":
            return False
        self.is_probing = False
        return True

    def cooled(self, now: float) -> bool:
        """Go on to half-open if it is time for that. Whether it was."""
        return self.state == "open" and now >= self.until and self._turn("half-open")

    def _turn(self, state: Literal["closed", "open", "half-open"]) -> bool:
        self.state = state
        self.is_probing = False
        self._failed = 0
        self._ticket += 1
        return True


class CircuitBreaker:
    """Pauses a handler after so many failures in a row, until one attempt succeeds again.

    While the circuit is open nothing is taken in and nothing is started: the messages wait at
    the broker, and nothing is nacked. After ``cool_down`` seconds one attempt is let through.
    If it succeeds, the handler goes on; if it fails, the circuit is open for as long again.

    Each handler has a circuit of its own. Its health is ``paused``, with the reason, while the
    circuit is not closed; handlers that read the same topic through the same group wait with it.
    Attempts that run when it opens go on, and don't count any more. A timeout is a failure; a
    `Permanent` is none, and no success either, as for every error that ``on`` and ``when``
    don't name.

    An attempt that is let through is one of its message's attempts: give the policy more of
    them, or longer waits, where what is away may be away for long.

    Args:
        failures: Failures in a row that open it; 1 or more.
        cool_down: Seconds until one attempt is let through; above 0.
        on: Classes of errors that are failures.
        when: A function of an error of these classes that says whether it is one.

    Raises:
        InvalidOptionError: An option is out of range.

    Example::

        breaker = CircuitBreaker(failures=5, cool_down=30, on=(ConnectionError, TimeoutError))
        router.add_handler("charge", OrderPlaced, charge, subscriber=orders, middlewares=[breaker])
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        cool_down: float = 30.0,
        on: Matches = Exception,
        when: Callable[[Any], bool] | None = None,
    ) -> None:
        check_whole("failures", failures)
        check_seconds("cool_down", cool_down, least=0.001)
        self._failures = failures
        self._cool_down = cool_down
        self._matches = matcher(on, when)

    def for_handler(self, handler: HandlerControls) -> Middleware:
        """Return the middleware of one handler."""
        circuit = Circuit(failures=self._failures, cool_down=self._cool_down)
        return _Breaker(handler, circuit, self._matches, self._cool_down)


class _Breaker:
    def __init__(
        self,
        handler: HandlerControls,
        circuit: Circuit,
        matches: Callable[[Exception], bool],
        cool_down: float,
    ) -> None:
        self._handler = handler
        self._circuit = circuit
        self._matches = matches
        self._cool_down = cool_down
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.Context()  # not a copy of the attempt's
        self._timer: asyncio.TimerHandle | None = None
        self._opened_at: float | None = None
        self._is_closing = False

    async def __call__(self, delivery: Delivery, call_next: CallNext) -> Any:
        ticket = self._circuit.begin()
        try:
            given = await call_next(delivery)
        except BaseException as exc:
            self._failed(ticket, exc)
            raise
        if self._handler.has_timed_out:
            self._failed(ticket, asyncio.CancelledError())
        elif self._circuit.succeeded(ticket):
            self._close()
        return given

    def _failed(self, ticket: int, error: BaseException) -> None:
        handler, circuit = self._handler, self._circuit
        if handler.has_timed_out:
            error = HandlerTimeoutError(
                f"{handler.name} took longer than {handler.timeout:g} s",
                subscription=handler.name,
                timeout_s=handler.timeout or 0.0,
            )
        elif (
            isinstance(error, Permanent)
            or not isinstance(error, Exception)
            or not self._matches(error)
        ):
            if circuit.undecided(ticket):
                handler.probe(self)
            return
        if circuit.failed(ticket, self._loop.time()):
            self._open(error)

    def _open(self, error: BaseException) -> None:
        if self._is_closing:
            return
        if self._opened_at is None:
            self._opened_at = self._loop.time()
        log.warning(
            "eventflow.circuit_opened",
            router=self._handler.bus,
            subscription=self._handler.name,
            reason=shown(error),
            retried_in_s=self._cool_down,
        )
        self._handler.pause(
            self,
            f"the circuit is open; an attempt is let through every {self._cool_down:g} s. "
            f"The last failed with {shown(error)}",
        )
        self._arm()

    def _arm(self) -> None:
        self._disarm()
        self._timer = self._loop.call_later(self._cool_down, self._tick, context=self._context)

    def _tick(self) -> None:
        # Also while half-open: what was let through may have ended before it came here, in a
        # middleware further out.
        circuit = self._circuit
        circuit.cooled(max(self._loop.time(), circuit.until))
        self._arm()
        if not circuit.is_probing:
            self._handler.probe(self)

    def _close(self) -> None:
        self._disarm()
        opened_at, self._opened_at = self._opened_at, None
        log.warning(
            "eventflow.circuit_closed",
            router=self._handler.bus,
            subscription=self._handler.name,
            open_s=round(self._loop.time() - (opened_at or 0.0), 3),
        )
        self._handler.resume(self)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """The handler stops: leave no timer behind."""
        self._is_closing = True
        self._disarm()
