"""The options of one handler on a router, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar, cast

from eventflow.errors import InvalidOptionError
from eventflow.failure import CallOnFailure, DeadLetter, FailurePolicy, Retry
from eventflow.lifecycle.options import check_seconds, check_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventflow.messaging.middleware.protocol import Middleware, MiddlewareFactory

__all__ = ("BUS_ONLY", "DEFAULT_POLICY", "CommonOptions", "HandlerOptions", "Options")

T = TypeVar("T")

DEFAULT_POLICY = FailurePolicy(retry=Retry(), then=DeadLetter())

BUS_ONLY = frozenset({"overflow", "capacity", "latest_key", "block_timeout"})

_ORDERS = ("strict", "partition", "relaxed")
_UNKNOWN = ("dead_letter", "skip")


class CommonOptions(TypedDict, Generic[T], total=False):
    """Options of `Router.add_handler` that mean the same for every kind of handler.

    See `HandlerOptions`; ``T`` is what the handler takes.
    """

    concurrency: int
    order_key: Callable[[T], Hashable]
    order: Literal["strict", "partition", "relaxed"]
    timeout: float | None
    on_failure: FailurePolicy
    max_deliveries: int
    max_in_flight: int
    unknown: Literal["dead_letter", "skip"]
    middlewares: Sequence[Middleware | MiddlewareFactory]


class HandlerOptions(CommonOptions[Any], total=False):
    """Options of `Router.add_handler`.

    Keys:
        concurrency: Most messages handled at once; 1 or more. Default 1.
        order_key: Messages whose events have equal keys are handled in order, one at a time.
            Default: the broker's own order, where it has one.
        order: ``"strict"``, the default: retries wait in the process and hold up what comes
            after them in the same order. ``"partition"``: the same, and the order is that of a
            partition, also between keys; needs `Features.partitions`. ``"relaxed"``: no order
            is kept, and long waits before a retry go through the broker.
        timeout: Seconds an attempt may take, ``None`` for no limit. Default 30.
        on_failure: What happens when an attempt fails. Default: the router's.
        max_deliveries: Deliveries, beside those that ended as recorded failures, after which a
            message is dead-lettered unhandled, because it may be what crashes its readers; 1 or
            more. Default 20.
        max_in_flight: Most messages of a topic that are received and not settled; at least
            ``concurrency``. Handlers that share a subscription add theirs up; where one of them
            has none, and by default, it is the backend's.
        unknown: What becomes of a message whose event name no class here goes by:
            ``"dead_letter"``, the default, or ``"skip"``: acked and counted.
        middlewares: Around this handler alone, inside those of the router, outermost first.
        batch: Most messages of one call; the handler then takes a `Batch`. Default: no batches.
        max_wait: Longest wait for a batch to fill, in seconds. Default 0.05.
        resources: A function that returns an async context manager, opened and closed with the
            handler. What it yields is the handler's second argument. Default: none.
    """

    batch: int
    max_wait: float
    resources: Callable[[], AbstractAsyncContextManager[Any]]


class Options(NamedTuple):
    """Checked options of one handler, defaults filled in."""

    concurrency: int = 1
    order_key: Callable[[Any], Hashable] | None = None
    order: str = "strict"
    timeout: float | None = 30.0
    on_failure: FailurePolicy = DEFAULT_POLICY
    max_deliveries: int = 20
    max_in_flight: int | None = None
    unknown: str = "dead_letter"
    middlewares: tuple[Middleware | MiddlewareFactory, ...] = ()
    batch: int | None = None
    max_wait: float = 0.05
    resources: Callable[[], AbstractAsyncContextManager[Any]] | None = None

    @classmethod
    def check(cls, given: Mapping[str, object], *, default_policy: FailurePolicy) -> Options:
        """Options from keyword arguments.

        Raises:
            InvalidOptionError: Unknown, out of range, or without meaning on a router.
        """
        for option in given:
            if option in BUS_ONLY:
                raise InvalidOptionError(
                    f"{option} belongs to the buffer of an in-process bus; a router reads from a "
                    "broker, whose messages wait there. Subscribe the handler on an EventBus, and "
                    "bring the events to that with Bridge(subscriber, bus)",
                    option=option,
                )
            if option not in cls._fields:
                raise InvalidOptionError(
                    f"unknown option {option!r}. Options are: {', '.join(sorted(cls._fields))}",
                    option=option,
                )
        for option in ("concurrency", "max_deliveries", "max_in_flight", "batch"):
            if given.get(option) is not None:
                check_whole(option, given[option])
        if given.get("timeout") is not None:
            check_seconds("timeout", given["timeout"], least=math.ulp(0))
        check_seconds("max_wait", given.get("max_wait", 0.05))
        _one_of("order", given.get("order", "strict"), _ORDERS)
        _one_of("unknown", given.get("unknown", "dead_letter"), _UNKNOWN)
        for option in ("order_key", "resources"):
            if option in given and not callable(given[option]):
                raise InvalidOptionError(
                    f"{option} must be a function, not {given[option]!r}", option=option
                )
        values = {name: value for name, value in given.items() if value is not None}
        if "timeout" in given:
            values["timeout"] = given["timeout"]
        values["middlewares"] = check_middlewares(given.get("middlewares", ()))
        values["on_failure"] = policy(given.get("on_failure", default_policy))
        options = cls(**cast("dict[str, Any]", values))
        options._check_together()
        return options

    def _check_together(self) -> None:
        if self.order == "partition" and self.order_key is not None:
            raise InvalidOptionError(
                'order_key is the order, and order="partition" another one: say one of them',
                option="order_key",
            )
        if self.order == "relaxed" and self.order_key is not None:
            raise InvalidOptionError(
                'order_key keeps order, and order="relaxed" gives it up: say one of them',
                option="order_key",
            )
        if self.batch is not None:
            self._check_batch()
        least = max(self.concurrency, self.batch or 1)
        if self.max_in_flight is not None and self.max_in_flight < least:
            raise InvalidOptionError(
                f"max_in_flight={self.max_in_flight} is too few: {least} messages can be in the "
                "hands of the handler at once",
                option="max_in_flight",
            )

    @property
    def in_hand(self) -> int:
        """Most messages that can be in the hands of the handler at once."""
        return self.concurrency * (self.batch or 1)

    def _check_batch(self) -> None:
        if self.order_key is not None:
            raise InvalidOptionError(
                "order_key= has no meaning with batch=: a batch is in the order of the broker",
                option="order_key",
            )
        if self.concurrency > 1 and self.order != "relaxed":
            raise InvalidOptionError(
                'several batches at once keep no order: say order="relaxed", or concurrency=1',
                option="concurrency",
            )
        if self.order == "partition":
            raise InvalidOptionError(
                'order="partition" has no meaning with batch=: a batch has all that came',
                option="order",
            )
        if self.middlewares:
            raise InvalidOptionError(
                "a middleware sees one delivery, and a batch has many: it has no middlewares",
                option="middlewares",
            )


def policy(value: object) -> FailurePolicy:
    """A failure policy for a router: without ``then`` it dead-letters.

    Raises:
        InvalidOptionError: It is none.
    """
    if not isinstance(value, FailurePolicy):
        raise InvalidOptionError(
            "on_failure takes a FailurePolicy, such as FailurePolicy(retry=Retry(attempts=3)), "
            f"not {value!r}",
            option="on_failure",
        )
    if value.then is None:
        return FailurePolicy(retry=value.retry, then=DeadLetter())
    return value


def check_middlewares(given: object) -> tuple[Middleware | MiddlewareFactory, ...]:
    """Middlewares, or what makes them.

    Raises:
        InvalidOptionError: One is none.
    """
    try:
        middlewares = tuple(cast("Iterable[Any]", given))
    except TypeError:
        raise InvalidOptionError(
            f"middlewares takes a sequence, such as [Throttle(rate=50)], not {given!r}",
            option="middlewares",
        ) from None
    for middleware in middlewares:
        if isinstance(middleware, type):
            raise InvalidOptionError(
                f"{middleware.__name__} is a class: make a middleware of it, as in "
                f"middlewares=[{middleware.__name__}(…)]",
                option="middlewares",
            )
        if not (callable(middleware) or callable(getattr(middleware, "for_handler", None))):
            raise InvalidOptionError(
                "a middleware is an `async def` of (delivery, call_next), or has for_handler, not "
                f"{middleware!r}",
                option="middlewares",
            )
    return middlewares


def calls_somebody(value: FailurePolicy) -> bool:
    """Whether the end of a failed message is a call."""
    return isinstance(value.then, CallOnFailure)


def _one_of(option: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidOptionError(
            f"{option} must be {' or '.join(map(repr, allowed))}, not {value!r}", option=option
        )
