"""Publishers that wait for room in a ``BLOCK`` buffer, and the waits that could not end."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from eventflow._cause import event_of
from eventflow.errors import BufferFullError, BusClosedError, PublishDeadlockError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from eventflow._cause import Envelope
    from eventflow.bus._inbox import Inbox, Reader
    from eventflow.events import Event

__all__ = ("Blocker", "Turn", "Wait", "would_deadlock")


class Blocker(Protocol):
    """A worker, as somebody who may wait for room in another inbox."""

    blocked_on: set[Inbox] | None


class Turn:
    """The place of one publisher in the line before one full inbox."""

    __slots__ = ("_timer", "_wait", "inbox", "item")

    def __init__(
        self, inbox: Inbox, item: Event | Envelope, wait: Wait, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.inbox = inbox
        self.item = item
        self._wait = wait
        self._timer = loop.call_later(inbox.options.block_timeout, self._expired)
        if inbox.turns is None:
            inbox.turns = OrderedDict()
        inbox.turns[self] = None

    @property
    def from_handler(self) -> bool:
        """Whether the publisher is a handler of the same bus."""
        return self._wait.from_handler

    def settle(self, error: Exception | None = None) -> None:
        """The wait for this inbox is over. The caller has taken the turn out of the line."""
        self._timer.cancel()
        self._wait.settled(self, error)

    def refuse(self, error: Exception | None) -> None:
        """Leave the line with nothing, counted as rejected."""
        assert self.inbox.turns is not None
        del self.inbox.turns[self]
        self.inbox.reject(self.item)
        self.settle(error)

    def _expired(self) -> None:
        event = event_of(self.item)
        options = self.inbox.options
        waited_s = options.block_timeout
        self.refuse(
            BufferFullError(
                f"a subscriber of {event.topic!r} ({options.bound}) had no room for event "
                f"{event.id} within {waited_s:g} s; its name is in the log and in bus.statistics()",
                topic=event.topic or "",
                event_id=event.id,
                waited_s=waited_s,
            )
        )


class Wait:
    """One publisher that waits for all the inboxes which had no room, together.

    Attributes:
        from_handler: Whether the publisher is a handler of the same bus.
        blocked_on: The inboxes it still waits for.
    """

    __slots__ = ("_done", "_error", "_turns", "blocked_on", "from_handler")

    def __init__(
        self,
        inboxes: Iterable[Inbox],
        item: Event | Envelope,
        *,
        from_handler: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.from_handler = from_handler
        self._error: Exception | None = None
        self._done: asyncio.Future[None] = loop.create_future()
        self._turns = {Turn(inbox, item, self, loop) for inbox in inboxes}
        self.blocked_on = {turn.inbox for turn in self._turns}

    def settled(self, turn: Turn, error: Exception | None) -> None:
        """One of the turns is over."""
        self._turns.discard(turn)
        self.blocked_on.discard(turn.inbox)
        if error is not None and (self._error is None or isinstance(error, BusClosedError)):
            self._error = error
        if not self._turns and not self._done.done():
            self._done.set_result(None)

    async def wait(self) -> None:
        """Wait until every turn is over; whoever is cancelled here calls `cancel`.

        Raises:
            BufferFullError: An inbox had no room within its ``block_timeout``.
            BusClosedError: The bus stopped meanwhile.
        """
        await self._done
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Reject what is still waiting."""
        for turn in tuple(self._turns):
            turn.refuse(None)


def deadlock_error(event: Event) -> PublishDeadlockError:
    """The error for a publish that would wait for itself."""
    return PublishDeadlockError(
        f"publishing event {event.id} on {event.topic!r} would wait for a full buffer that only "
        "this handler, or one waiting for it, could empty. The other subscribers have it. "
        "Give the subscription a larger capacity, another overflow policy, or publish from "
        "outside the handler",
        topic=event.topic or "",
        event_id=event.id,
    )


def would_deadlock(worker: Blocker, target: Inbox) -> bool:
    """Whether ``worker`` waiting for room in ``target`` could never end.

    Room comes when a worker of the inbox gets on. An inbox is stuck when each of its workers
    waits for a stuck one; the greatest such set is found by taking away whatever can move.
    """
    waits: dict[Blocker, set[Inbox]] = {worker: {*(worker.blocked_on or ()), target}}
    reached = {target}
    frontier = [target]
    while frontier:
        inbox = frontier.pop()
        for reader in inbox.readers:
            blocked_on = waits.get(reader) or getattr(reader, "blocked_on", None)  # type: ignore[call-overload]
            for other in blocked_on or ():
                if other not in reached:
                    reached.add(other)
                    frontier.append(other)

    stuck = reached
    while True:
        free = {
            inbox
            for inbox in stuck
            if not (readers := _who_can_make_room(inbox))
            or not all(
                (waits.get(reader) or getattr(reader, "blocked_on", None) or set()) & stuck  # type: ignore[call-overload]
                for reader in readers
            )
        }
        if not free:
            return target in stuck
        stuck = stuck - free


def _who_can_make_room(inbox: Inbox) -> list[Reader]:
    """Its readers, without those that are free and still can't start anything."""
    if not inbox.waits_for_keys:
        return list(inbox.readers)
    return [reader for reader in inbox.readers if not getattr(reader, "is_free", False)]
