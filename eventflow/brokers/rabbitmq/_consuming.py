"""The channel that one subscription receives on, and how its acks are told."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pamqp import commands

from eventflow.brokers.rabbitmq._channel import MessageChannel
from eventflow.brokers.rabbitmq._frames import ack_frame, nack_frame
from eventflow.errors import BrokerError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from eventflow.brokers.rabbitmq._channel import Arrived
    from eventflow.brokers.rabbitmq._session import Session

__all__ = ("CONSUMER", "ConsumingChannel")

CLOSE_S = 2.0
CONSUMER = "eventflow"
"""Name of the one consumer of a channel."""

TELL_S = 0.01
"""Seconds that an ack waits at most for others that are told with it."""


class ConsumingChannel(MessageChannel):
    """Receives, and tells acks together: one frame up to the first that is open, others singly.

    Attributes:
        came: Is called with each message.
        told: Is called with the numbers of those whose ack was written.
    """

    def __init__(self, session: Session, channel: Any) -> None:
        super().__init__(session, channel)
        self.came: Callable[[Arrived], None] = _nobody
        self.told: Callable[[list[int]], None] = _nobody
        self._open: dict[int, None] = {}  # what is neither acked nor given back, in order
        self._acked: list[int] = []
        self._timer: asyncio.Handle | None = None
        self._is_soon = False

    def on_deliver(self, arrived: Arrived) -> None:
        """A message has come."""
        self._open[arrived.tag] = None
        self.came(arrived)

    @property
    def count(self) -> int:
        """How many messages are neither acked nor given back."""
        return len(self._open)

    def ack(self, tag: int, *, at_once: bool) -> None:
        """Ack one; the server is told with others, and of all with one that has to be at once."""
        self._open.pop(tag, None)
        self._acked.append(tag)
        if at_once:
            if not self._is_soon:
                self._cancel()
                self._timer = self.session.loop.call_soon(self.flush)
                self._is_soon = True
        elif self._timer is None:
            self._timer = self.session.loop.call_later(TELL_S, self.flush)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_soon = False

    def give_back(self, tag: int) -> None:
        """Give one back to its queue."""
        self.flush()
        self._open.pop(tag, None)
        self.write(nack_frame(self.number, tag, multiple=False))

    def flush(self) -> None:
        """Tell what was acked."""
        self._cancel()
        if not self._acked:
            return
        acked, self._acked = sorted(self._acked), []
        if not self.is_open:
            return
        first_open = next(iter(self._open), acked[-1] + 1)
        parts = list[bytes]()
        upto = 0
        for tag in acked:
            if tag < first_open:
                upto = tag
            else:
                parts.append(ack_frame(self.number, tag, multiple=False))
        if upto:
            parts.insert(0, ack_frame(self.number, upto, multiple=True))
        self.write(b"".join(parts))
        self.told(acked)

    async def cancel(self) -> None:
        """Receive nothing more; returns when what was acked counts. Bounded.

        The server hands acks on to a quorum queue a few dozen at a time, and forgets the rest
        when the channel is closed. A consumer is cancelled by the queue itself, in its turn.
        """
        if self.is_open:
            with contextlib.suppress(BrokerError):
                async with self.session.asking("a channel", within=CLOSE_S):
                    await self.channel.rpc(commands.Basic.Cancel(consumer_tag=CONSUMER))

    def on_end(self, error: BaseException | None) -> None:
        """Nothing can be settled any more."""
        self._cancel()


def _nobody(_: object) -> None:
    """Before anybody listens."""
