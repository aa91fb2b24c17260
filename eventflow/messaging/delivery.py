"""`Delivery`: a message that was received, and has to be settled."""

from __future__ import annotations

import asyncio
import math
from types import MappingProxyType
from typing import TYPE_CHECKING

from eventflow._cause import Carrier
from eventflow.errors import SettleError
from eventflow.messaging import metadata as meta
from eventflow.messaging.codec import Received
from eventflow.messaging.settlement import Settlement, SettlementState

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from datetime import datetime

    from eventflow.events import Event
    from eventflow.messaging._reader import Reader
    from eventflow.messaging.message import Message, NativeHeaders
    from eventflow.messaging.settlement import Settler

__all__ = ("Delivery",)

_NO_COORDINATES: Mapping[str, str | int] = MappingProxyType({})
_PENDING = SettlementState.PENDING


class Delivery(Settlement, Carrier):
    """A message as a subscriber received it, once.

    It has to be settled: acked once it was handled, nacked to get it again. The first decision
    stands. What is not settled when the subscription is left is given back to the broker, which
    delivers it again. Belongs to the event loop it was received in.

    Attributes:
        message: The message, as the handler gets it.
        original: The message as it was received; what dead letters keep. Another one than
            ``message`` where a subscriber's decorator transformed that.
        topic: Topic it came from.
        headers: The broker's own headers as they came, all of them; empty where there are none.
        deliveries: How often the broker has delivered it, this time included; ``None`` where
            the backend can't tell. Giving it back at a stop does not count, where it can.
        failures: Failures that were recorded with it by earlier deliveries.
        lane: Deliveries with equal lanes are in the broker's order; ``None`` for no order.
        coordinates: Where the broker keeps it: its partition and offset, for example.
        event: The event, once a router has decoded it; else ``None``.
        state: What was decided about it; see `Settlement` for the rest.
    """

    __slots__ = (
        "_watcher",
        "coordinates",
        "deliveries",
        "event",
        "failures",
        "first_failed_at",
        "headers",
        "held_lane",
        "in_lane",
        "lane",
        "message",
        "number",
        "original",
        "reader",
        "topic",
    )

    # What a router notes down while it has it, so that no other object is made for that.
    reader: Reader
    """Where it came from."""
    number: int
    """Number of the next attempt, from 1; failures recorded by earlier deliveries count."""
    in_lane: bool
    """Whether others wait for its end."""
    held_lane: Hashable
    """Key of their lane; not there otherwise."""
    first_failed_at: datetime
    """When its first attempt here failed; not there before."""

    def __init__(
        self,
        message: Message,
        *,
        topic: str,
        settler: Settler,
        headers: NativeHeaders = (),
        deliveries: int | None = None,
        failures: int = 0,
        lane: Hashable | None = None,
        coordinates: Mapping[str, str | int] = _NO_COORDINATES,
    ) -> None:
        self.message = self.original = message
        self.topic = topic
        self.headers = headers
        self.deliveries = deliveries
        self.failures = failures
        self.lane = lane
        self.coordinates = coordinates
        self.event: Event | None = None
        self._settler = settler
        self.state = _PENDING
        self.is_confirmed = False
        self.error = None
        self._watcher: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        """Topic, id and state."""
        return f"<Delivery of {self.message.id!r} from {self.topic!r}, {self.state.value}>"

    def nack(self, *, delay: float = 0.0, failures: int | None = None) -> bool:
        """Say that it was not handled, so that it is delivered again: to anybody in the group.

        Local and at once, as `ack`. Nacking twice is allowed; the first one's arguments stand.

        Args:
            delay: Seconds until then, 0 or more. Backends that can't wait declare it in
                `Features.nack_delay`, and raise.
            failures: Failures to record with it, for the next delivery's `failures`, where the
                backend can keep them (`Features.recorded_failures`). ``None``: as it was.

        Returns:
            Whether it is nacked now: ``False`` after an ack, or when it was given back.

        Raises:
            ValueError: The delay is negative, or no finite number; or ``failures`` is negative.
            UnsupportedFeatureError: A delay that the backend can't keep.
        """
        self._check_delay(delay)
        count: object = failures
        if count is not None and (not isinstance(count, int) or count < 0):
            raise ValueError(f"failures is a whole number, 0 or more, not {count!r}")
        return super().nack(delay=delay, failures=failures)

    def release(self, *, delay: float = 0.0) -> bool:
        """Give it back undecided, so that it is delivered again: to anybody in the group.

        As leaving the subscription does with whatever is unsettled: it counts neither as a
        failure nor, where the broker can tell, as a delivery.

        Args:
            delay: As of `nack`.

        Returns:
            Whether this gave it back: ``False`` after any other decision.

        Raises:
            ValueError: As `nack`.
            UnsupportedFeatureError: As `nack`.
        """
        self._check_delay(delay)
        return super().release(delay=delay)

    def _check_delay(self, delay: float) -> None:
        if not 0 <= delay < math.inf:
            raise ValueError(f"a delay is a finite number of seconds, 0 or more, not {delay!r}")
        if delay:
            self._settler.features.require("nack_delay")

    async def settled(self) -> None:
        """Wait until the broker has the ack or the nack.

        Raises:
            SettleError: It never will: the delivery was given back, or the link to the broker
                was lost. The message comes again.
        """
        if not self.is_ended:
            if self._watcher is None:
                self._watcher = asyncio.get_running_loop().create_future()
            # A future for all who wait; one who is cancelled must not cancel it for the others.
            await asyncio.shield(self._watcher)
        if self.error is not None:
            raise self.error

    # For routers

    @property
    def carried(self) -> Received:
        """What `eventflow.current` tells of it."""
        return Received(self)

    # For backends

    def head(self) -> tuple[str | None, str, str, bytes | None]:
        """What there is to decode an event from ``message``, its texts as texts; for routers.

        A backend whose messages cost something to make may read it from what it received.

        Returns:
            The event's name, ``None`` without one; the message's id; the event's time, empty
            without one; the payload, ``None`` where ``message`` is to be asked for it.
        """
        message = self.message
        metadata = message.metadata
        return metadata.get(meta.NAME), message.id, metadata.get(meta.OCCURRED_AT, ""), None

    def attempt_failed(self) -> None:
        """An attempt at handling it has failed, and there may be another; for backends.

        Called by routers. Where outputs are stored with the ack (`Features.transactional`), those
        of that attempt are dropped.
        """

    def confirmed(self) -> None:
        """Tell those who wait that the broker has the decision; for backends."""
        if self.confirm() and self._watcher is not None:
            self._wake()

    def lost(self, error: SettleError | None = None) -> None:
        """The broker will not get the decision, or nobody made one; for backends.

        Where nothing was decided yet, it is released: a later `ack` or `nack` gives ``False``.
        """
        if self.lose(error or self._lost_error()):
            self._wake()

    def _lost_error(self) -> SettleError:
        return SettleError(
            f"message {self.message.id!r} was given back undecided; it comes again"
            if self.state is _PENDING
            else f"the broker did not get the decision about message {self.message.id!r}; "
            "it comes again",
            message_id=self.message.id,
        )

    def _wake(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None and not watcher.done():
            watcher.set_result(None)
