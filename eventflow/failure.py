"""What happens to an event whose handler fails: one policy object, on a bus and on a router.

A policy says how often to try again (`Retry`), and what to do when that did not help:
log (`Log`), store a dead letter (`DeadLetter`, routers only), or call somebody
(`CallOnFailure`).
"""

from __future__ import annotations

import math
import random
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from eventflow.errors import (
    EventFlowError,
    InvalidHandlerError,
    InvalidOptionError,
    Permanent,
    RetryAfter,
)
from eventflow.events import Event
from eventflow.lifecycle.callables import check_handler, is_async

__all__ = ("CallOnFailure", "DeadLetter", "FailurePolicy", "Log", "Retry")

MAX_NUMBER = 1e300
"""Larger numbers could overflow where they meet others."""

FailureCallback = Callable[[Event, BaseException, int], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, and how much later, a failed attempt is tried again.

    The wait before attempt ``n + 1`` is ``initial * multiplier ** (n - 1)``, at most
    ``max_delay``, then spread evenly over ± ``jitter`` of itself and again held to
    ``max_delay``. A handler that raises `RetryAfter` names its own wait; one that raises
    `Permanent` is not retried.

    Attributes:
        attempts: Attempts in all, the first included; 1 or more.
        initial: Seconds before the second attempt; 0 or more.
        multiplier: Growth of the wait from one attempt to the next; 1 or more.
        max_delay: Longest wait in seconds.
        jitter: Share of the wait by which it varies either way; 0 to 1.
        on: Exception types that are retried. A `asyncio.CancelledError` that the handler let
            out by itself (a task of its own was cancelled) is an ordinary failure. An error of
            eventflow's that says it is not ``retriable``, such as a `MessageTooLargeError`, is
            given up at once, unless one of eventflow's own types is named here that fits.
        never: Exception types that are not, even if ``on`` has them.
    """

    attempts: int = 5
    initial: float = 0.1
    multiplier: float = 2.0
    max_delay: float = 30.0
    jitter: float = 0.2
    on: tuple[type[BaseException], ...] = (Exception, CancelledError)
    never: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        attempts: object = self.attempts
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise InvalidOptionError(
                f"Retry(attempts=…) counts the first attempt too: 1 or more, not {self.attempts!r}",
                option="attempts",
            )
        for option, low, high in (
            ("initial", 0.0, math.inf),
            ("multiplier", 1.0, math.inf),
            ("max_delay", 0.0, math.inf),
            ("jitter", 0.0, 1.0),
        ):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                value = math.nan
            if not low <= value <= high or abs(value) > MAX_NUMBER:
                raise InvalidOptionError(
                    f"Retry({option}=…) must be a finite number from {low} to {high}, "
                    f"not {value!r}",
                    option=option,
                )
        for option in ("on", "never"):
            types = getattr(self, option)
            if not _are_exception_classes(types):
                raise InvalidOptionError(
                    f"Retry({option}=…) takes a tuple of exception classes, not {types!r}",
                    option=option,
                )

    def delay(self, error: BaseException, attempt: int) -> float | None:
        """Seconds to wait after attempt number ``attempt`` failed, ``None`` to give up."""
        if attempt >= self.attempts or isinstance(error, (Permanent, *self.never)):
            return None
        if isinstance(error, RetryAfter):
            return error.seconds
        if not isinstance(error, self.on) or self._is_hopeless(error):
            return None
        try:
            wait = min(self.max_delay, self.initial * self.multiplier ** (attempt - 1))
        except OverflowError:
            wait = self.max_delay
        spread = self.jitter * (2 * random.random() - 1)  # noqa: S311 - not for secrets
        return min(self.max_delay, wait * (1 + spread))

    def _is_hopeless(self, error: BaseException) -> bool:
        if not isinstance(error, EventFlowError) or error.retriable:
            return False
        named = tuple(kind for kind in self.on if issubclass(kind, EventFlowError))
        return not isinstance(error, named)


def _check_then(then: object) -> None:
    if then is not None and not isinstance(then, (Log, DeadLetter, CallOnFailure)):
        raise InvalidOptionError(
            "FailurePolicy(then=…) takes Log(), DeadLetter() or CallOnFailure(callback), not "
            f"{then!r}",
            option="then",
        )


def _are_exception_classes(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(member, type) and issubclass(member, BaseException)
        for member in cast("tuple[object, ...]", value)
    )


@dataclass(frozen=True, slots=True)
class Log:
    """The end of a failed event is a log line with its id, and its place in the counts."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The end of a failed message is a dead letter, stored before the original is acked.

    For routers: an in-process bus has nowhere to keep one. It has the original's bytes, headers
    and metadata, and beside them why, where, when, and how often it was tried. While it can't be
    stored, nothing is acked and the topic is not read on.

    Attributes:
        topic: Where it goes. Default: ``<topic>.dead_letter``.
        publisher: Who takes it there; a `eventflow.messaging.Publisher`. Default: the broker
            that the message came from.
    """

    topic: str | None = None
    publisher: Any = None

    def __post_init__(self) -> None:
        topic: object = self.topic
        if topic is not None and not isinstance(topic, str):
            raise InvalidOptionError(
                f"DeadLetter(topic) takes the name of a topic, not {topic!r}", option="topic"
            )
        publisher = self.publisher
        if publisher is not None and not callable(getattr(publisher, "publish", None)):
            raise InvalidOptionError(
                "DeadLetter(publisher=…) takes what broker.publisher() returns, not "
                f"{type(publisher).__name__}",
                option="publisher",
            )

    def topic_for(self, topic: str) -> str:
        """Where the dead letters of a topic go."""
        return self.topic or f"{topic}.dead_letter"


@dataclass(frozen=True, slots=True)
class CallOnFailure:
    """The end of a failed event is a call of ``callback(event, error, attempts)``.

    The call runs in the handler's place, under the same timeout. If it fails itself, both
    errors are logged with the event's id. The event counts as failed either way.

    Attributes:
        callback: An ``async def`` that takes the event, the last error, and the number of
            attempts that were made.
    """

    callback: FailureCallback

    def __post_init__(self) -> None:
        check_handler(self.callback, arguments=("event", "error", "attempts"))
        if not is_async(self.callback):
            raise InvalidHandlerError(
                "CallOnFailure takes an `async def` of (event, error, attempts), "
                f"not {self.callback!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """What happens when a handler fails.

    Attributes:
        retry: Whether and when it is tried again; ``None`` for no second attempt.
        then: What to do when it still fails. ``None``: log on a bus, dead-letter on a router.
    """

    retry: Retry | None = None
    then: Log | DeadLetter | CallOnFailure | None = None

    def __post_init__(self) -> None:
        retry: object = self.retry
        if retry is not None and not isinstance(retry, Retry):
            raise InvalidOptionError(
                f"FailurePolicy(retry=…) takes a Retry, such as Retry(attempts=3), not {retry!r}",
                option="retry",
            )
        _check_then(self.then)

    @staticmethod
    def log() -> FailurePolicy:
        """No second attempt; the failure is logged and counted."""
        return FailurePolicy(then=Log())
