"""The states of a delivery: a plain machine, without I/O.

::

    pending ──ack()────► acked    ──confirm()──► the broker has it
       │                   │    └──lose(error)─► the broker has not: the message comes again
       ├────nack()────► nacked    ──   the same
       ├──release()───► released  ──   the same: given back as if it had not been delivered
       └────lose()────► released       the subscription was left, or the lease lost: it comes again

The first decision stands. Whoever comes second learns by the return value whether it agrees.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.features import Features

__all__ = ("Settlement", "SettlementState", "Settler")


class SettlementState(enum.Enum):
    """What was decided about a delivery."""

    PENDING = "pending"
    """Nothing yet."""
    ACKED = "acked"
    """It was handled: the broker may forget it."""
    NACKED = "nacked"
    """It was not: the broker is to deliver it again."""
    RELEASED = "released"
    """Neither: it was given back undecided, or the broker took it back."""


_PENDING = SettlementState.PENDING
_ACKED = SettlementState.ACKED
_NACKED = SettlementState.NACKED
_RELEASED = SettlementState.RELEASED


class Settler(Protocol):
    """What a backend implements to get decisions to its broker."""

    @property
    def features(self) -> Features:
        """What the backend can do."""
        ...

    def settle(self, delivery: Delivery) -> None:
        """Take a decision: its `Settlement.state` says which.

        Called once for each delivery, in the event loop, in the order of the decisions. It
        neither waits nor raises: it notes the decision down, has the broker told within 50 ms,
        or when 500 are waiting, and then calls ``delivery.confirmed()`` or ``delivery.lost(…)``.
        One that is released comes again to any member of the group, this one included, and
        that does not count as a delivery, where the broker can tell.
        """
        ...


class Settlement:
    """The decision about one delivery, and what the broker made of it.

    Args:
        settler: Is told of the first decision.

    Attributes:
        state: What was decided.
        is_confirmed: Whether the broker has the decision.
        error: Why the broker does not have it, and never will; else ``None``.
        nack_delay: Seconds that a nack or a release asked the broker to wait; 0 or more.
        nack_failures: Failures that a nack asked the broker to record; ``None``: as before.
    """

    __slots__ = ("_settler", "error", "is_confirmed", "nack_delay", "nack_failures", "state")

    state: SettlementState
    is_confirmed: bool
    error: BaseException | None
    nack_delay: float
    nack_failures: int | None

    def __init__(self, settler: Settler) -> None:
        self._settler: Any = settler
        self.state = _PENDING
        self.is_confirmed = False
        self.error = None

    def ack(self) -> bool:
        """Say that it was handled, so that the broker may forget it.

        Local and at once: the broker is told within 50 ms, or with 500 others. What a crash
        before that loses is only the ack: the message comes again. Acking twice is allowed.

        Returns:
            Whether it is acked now: ``False`` after a nack, or when it was given back.
        """
        if self.state is _PENDING:
            self.state = _ACKED
            self._settler.settle(self)
            return True
        return self.state is _ACKED

    def nack(self, *, delay: float = 0.0, failures: int | None = None) -> bool:
        """Say that it was not handled; see `Delivery.nack`."""
        if self.state is _PENDING:
            self.state = _NACKED
            self.nack_delay = delay
            self.nack_failures = failures
            self._settler.settle(self)
            return True
        return self.state is _NACKED

    def release(self, *, delay: float = 0.0) -> bool:
        """Give it back undecided; see `Delivery.release`."""
        if self.state is _PENDING:
            self.state = _RELEASED
            self.nack_delay = delay
            self.nack_failures = None
            self._settler.settle(self)
            return True
        return False

    def confirm(self) -> bool:
        """The broker has the decision. Whether that is news."""
        if self.is_confirmed or self.error is not None or self.state is _PENDING:
            return False
        self.is_confirmed = True
        return True

    def lose(self, error: BaseException) -> bool:
        """The broker never got the decision, or does not accept it. Whether that is news."""
        if self.is_ended:
            return False
        if self.state is _PENDING:
            self.state = _RELEASED
        self.error = error
        return True

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can happen: the broker has the decision, or never will."""
        return self.is_confirmed or self.error is not None
