"""The options of one subscription, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from eventflow.bus.options import Overflow
from eventflow.errors import InvalidOptionError
from eventflow.failure import DeadLetter, FailurePolicy
from eventflow.lifecycle.options import check_name, check_seconds, check_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from contextlib import AbstractAsyncContextManager

__all__ = ("STREAM_OPTIONS", "SUBSCRIBE_OPTIONS", "Options")

_LOG = FailurePolicy.log()


class Options(NamedTuple):
    """Checked options of one subscription, defaults filled in."""

    name: str | None = None
    capacity: int = 1024
    overflow: Overflow = Overflow.BLOCK
    block_timeout: float = 5.0
    latest_key: Callable[[Any], Hashable] | None = None
    concurrency: int = 1
    order_key: Callable[[Any], Hashable] | None = None
    timeout: float | None = 30.0
    on_failure: FailurePolicy = _LOG
    resources: Callable[[], AbstractAsyncContextManager[Any]] | None = None

    @property
    def bound(self) -> str:
        """How many events wait, and what happens to the next: for people."""
        return f"capacity={self.capacity}, overflow={self.overflow}"

    @classmethod
    def check(cls, given: Mapping[str, object], *, allowed: frozenset[str]) -> Options:
        """Options from keyword arguments.

        Raises:
            InvalidOptionError: Unknown, out of range, or without meaning beside another.
        """
        for option in given:
            if option not in allowed:
                raise InvalidOptionError(
                    f"unknown option {option!r}{_meant(option, allowed)} "
                    f"Options are: {', '.join(sorted(allowed))}",
                    option=option,
                )
        check_whole("capacity", given.get("capacity", 1))
        check_whole("concurrency", given.get("concurrency", 1))
        check_seconds("block_timeout", given.get("block_timeout", 0.0))
        if given.get("timeout") is not None:
            check_seconds("timeout", given["timeout"], least=math.ulp(0))
        if not isinstance(given.get("overflow", Overflow.BLOCK), Overflow):
            raise InvalidOptionError(
                f"overflow must be a member of Overflow, not {given['overflow']!r}",
                option="overflow",
            )
        if "name" in given:
            check_name(given["name"])
        for option in ("latest_key", "order_key", "resources"):
            if option in given and not callable(given[option]):
                raise InvalidOptionError(
                    f"{option} must be a function, not {given[option]!r}", option=option
                )
        _policy(given.get("on_failure", FailurePolicy.log()))
        options = cls(**cast("dict[str, Any]", dict(given)))
        options._check_together(given)
        return options

    def _check_together(self, given: Mapping[str, object]) -> None:
        if self.latest_key is not None and self.overflow is not Overflow.KEEP_LATEST:
            raise InvalidOptionError(
                "latest_key has a meaning only with overflow=Overflow.KEEP_LATEST",
                option="latest_key",
            )
        if "block_timeout" in given and self.overflow is not Overflow.BLOCK:
            raise InvalidOptionError(
                "block_timeout has a meaning only with overflow=Overflow.BLOCK",
                option="block_timeout",
            )


def _meant(option: str, allowed: frozenset[str]) -> str:
    """What to write instead, as far as one can tell; ends its sentence."""
    from difflib import get_close_matches  # noqa: PLC0415 - for this error only

    if option in {"retry", "retries"} and "on_failure" in allowed:
        return "; write on_failure=FailurePolicy(retry=Retry(...))."
    near = get_close_matches(option, allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _policy(value: object) -> None:
    if not isinstance(value, FailurePolicy):
        raise InvalidOptionError(
            "on_failure takes a FailurePolicy, such as FailurePolicy(retry=Retry(attempts=3)), "
            f"not {value!r}",
            option="on_failure",
        )
    if isinstance(value.then, DeadLetter):
        raise InvalidOptionError(
            "an in-process bus has nowhere to keep a dead letter: use "
            "FailurePolicy(then=CallOnFailure(…)), or a Router with a broker",
            option="on_failure",
        )


SUBSCRIBE_OPTIONS = frozenset(Options._fields)
STREAM_OPTIONS = frozenset({"name", "capacity", "overflow", "block_timeout", "latest_key"})
