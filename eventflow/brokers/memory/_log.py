"""Topics and groups as plain state, without waiting: what a broker would keep on its disk."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from eventflow.lifecycle.lanes import NO_LANES, Lanes
from eventflow.messaging import Delivery, SettlementState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from eventflow.messaging import Message, Settler

__all__ = ("Group", "Log", "MemoryDelivery")

_PENDING = SettlementState.PENDING


class MemoryDelivery(Delivery):
    """A message on its way to one group: what that has open, and what its subscriber gets.

    One that comes again is another object, with the counts of this one.

    Attributes:
        offset: Its place in the topic.
        has_lane: Whether the next message with its key waits for its ack.
        settler: Who has it; ``None`` while it waits to be delivered.
    """

    __slots__ = ("has_lane", "offset")

    def __init__(
        self,
        message: Message,
        topic: str,
        offset: int,
        settler: Settler | None,
        deliveries: int,
        failures: int,
    ) -> None:
        # What the base does, whose arguments by keyword would take as long as all of this.
        self.message = self.original = message
        self.topic = topic
        self.offset = offset
        self._settler = settler
        self.deliveries: int = deliveries
        self.failures = failures
        self.has_lane = False
        self.headers = message.headers
        self.lane = message.key
        self.event = None
        self.state = _PENDING
        self.is_confirmed = False
        self.error = None
        self._watcher = None

    @property
    def settler(self) -> Settler | None:
        """Who has it; ``None`` while it waits to be delivered."""
        return self._settler  # type: ignore[no-any-return]

    if not TYPE_CHECKING:

        @property
        def coordinates(self) -> dict[str, int]:
            """Its offset; a dict when somebody asks."""
            return {"offset": self.offset}

    def hand_out(self, settler: Settler) -> None:
        """Deliver it, once more."""
        self.deliveries += 1
        self._settler = settler

    def again(self) -> MemoryDelivery:
        """The one that comes in its place."""
        other = MemoryDelivery(
            self.original, self.topic, self.offset, None, self.deliveries, self.failures
        )
        other.has_lane = self.has_lane
        return other


class Group:
    """Where a group stands in a topic: what it has read, what is open, what comes again.

    Per key one message is delivered at a time: the next one waits for its ack. A message that
    was nacked comes before all that were not delivered yet; one with a delay lets others pass,
    but not those with its key.
    """

    def __init__(self, log: Log, position: int) -> None:
        self._log = log
        self._position = position
        self._open: dict[int, MemoryDelivery] = {}  # read and not acked, by offset, in order
        self._again: list[int] = []
        self._delayed: list[tuple[float, int]] = []
        self._lanes = NO_LANES

    @property
    def open(self) -> Iterable[MemoryDelivery]:
        """What is read and not acked, oldest first."""
        return tuple(self._open.values())

    @property
    def lag(self) -> int:
        """Messages that it has not acked."""
        return self._log.end - self._position + len(self._open)

    @property
    def next_due(self) -> float | None:
        """When the next delayed message may be delivered, in loop time."""
        return self._delayed[0][0] if self._delayed else None

    def has_more(self, until: float) -> bool:
        """Whether something may be delivered before loop time ``until``."""
        due = self.next_due
        return bool(
            self._position < self._log.end
            or self._again
            or self._lanes.has_ready
            or (due is not None and due <= until)
        )

    def take(self, limit: int, now: float, settler: Settler) -> list[MemoryDelivery]:
        """Deliver up to ``limit`` messages to ``settler``, at loop time ``now``."""
        taken: list[MemoryDelivery] = []
        while self._delayed and self._delayed[0][0] <= now:
            heapq.heappush(self._again, heapq.heappop(self._delayed)[1])
        while len(taken) < limit:
            if self._again:
                delivery = self._open[heapq.heappop(self._again)]
                if not (delivery.has_lane or self._enter_lane(delivery)):
                    continue
            elif (ready := self._lanes.next_ready()) is not None:
                delivery = ready[1]
                delivery.has_lane = True
            else:
                self._read(taken, limit, now, settler)
                break
            delivery.hand_out(settler)
            taken.append(delivery)
        return taken

    def _read(self, taken: list[MemoryDelivery], limit: int, now: float, settler: Settler) -> None:
        """Read on in the log."""
        log, opened, due, topic = self._log, self._open, self._log.due, self._log.topic
        offset, end = self._position, log.end
        while offset < end and len(taken) < limit:
            message = log[offset]
            not_before = due.get(offset) if due else None
            if message.key is None and not_before is None:
                delivery = opened[offset] = MemoryDelivery(message, topic, offset, settler, 1, 0)
                taken.append(delivery)
            else:
                delivery = opened[offset] = MemoryDelivery(message, topic, offset, None, 0, 0)
                if not_before is not None and not_before > now:
                    heapq.heappush(self._delayed, (not_before, offset))
                elif self._enter_lane(delivery):
                    delivery.hand_out(settler)
                    taken.append(delivery)
            offset += 1
        self._position = offset

    def _enter_lane(self, delivery: MemoryDelivery) -> bool:
        key = delivery.message.key
        if key is None:
            return True
        if self._lanes is NO_LANES:
            self._lanes = Lanes()
        if self._lanes.start(key, delivery) is None:
            delivery.has_lane = True
            return True
        return False

    def ack(self, delivery: MemoryDelivery) -> bool:
        """Forget a message. Whether another one may be delivered because of it."""
        del self._open[delivery.offset]
        if self._log.is_full:
            self._log.look_for_room()
        if delivery.has_lane:
            assert delivery.original.key is not None
            return self._lanes.release(delivery.original.key)
        return False

    def nack(self, delivery: MemoryDelivery, *, due: float | None) -> None:
        """Deliver it again, at loop time ``due``; its key, if it has one, stays taken."""
        again = self._put_back(delivery, due)
        if delivery.nack_failures is not None:
            again.failures = delivery.nack_failures

    def give_back(self, delivery: MemoryDelivery, *, due: float | None = None) -> None:
        """Deliver it again, as if it had not been delivered."""
        self._put_back(delivery, due).deliveries -= 1

    def _put_back(self, delivery: MemoryDelivery, due: float | None) -> MemoryDelivery:
        again = self._open[delivery.offset] = delivery.again()
        if due is None:
            heapq.heappush(self._again, delivery.offset)
        else:
            heapq.heappush(self._delayed, (due, delivery.offset))
        return again


class Log:
    """The messages of a topic, oldest first, at most ``capacity`` of them.

    What all groups have acked stays as long as there is room, for groups that come later; and
    with no group at all the oldest falls out. What a group still needs never does.

    Attributes:
        topic: Its name.
        end: Offset of the next message to come.
        is_full: Whether somebody waits for room.
        due: Loop times before which messages are not delivered, by offset.
        room_until: The end up to which there is room, as far as is known; see `has_room`.
    """

    def __init__(self, topic: str, capacity: int, on_room: Callable[[], None]) -> None:
        self.topic = topic
        self.groups: dict[str, Group] = {}
        self.broadcasts: dict[Group, None] = {}
        self.end = 0
        self.is_full = False
        self.due: dict[int, float] = {}
        self._capacity = capacity
        self._on_room = on_room
        # A list and not a deque, which takes long to look into its middle.
        self._messages: list[Message] = []
        self._base = 0
        self.room_until = capacity

    @property
    def begin(self) -> int:
        """Offset of the oldest message that is still there."""
        return max(self._base, self.end - self._capacity)

    def __getitem__(self, offset: int) -> Message:
        """The message at an offset."""
        return self._messages[offset - self._base]

    def _readers(self) -> Iterator[Group]:
        yield from self.groups.values()
        yield from self.broadcasts

    def has_room(self, count: int) -> bool:
        """Whether as many messages could be appended now."""
        if self.end + count <= self.room_until:
            return True
        most = max((group.lag for group in self._readers()), default=None)
        if most is None:
            return True
        self.room_until = self.end + self._capacity - most
        self.is_full = self.end + count > self.room_until
        return not self.is_full

    def append(self, messages: Sequence[Message], due: Mapping[int, float]) -> None:
        """Store messages, some of which are due later, by their place among them.

        There has to be room.
        """
        if due:
            self.due.update({self.end + at: time for at, time in due.items()})
        self._messages.extend(messages)
        self.end += len(messages)
        # Twice the capacity, so that removing the front, which moves the rest, is rare.
        if len(self._messages) > 2 * self._capacity:
            surplus = len(self._messages) - self._capacity
            del self._messages[:surplus]
            self._base += surplus
            for offset in [offset for offset in self.due if offset < self._base]:
                del self.due[offset]

    def look_for_room(self) -> None:
        """Tell those who wait, if there is room again."""
        if self.has_room(1):
            self._on_room()

    def group(self, name: str) -> Group:
        """A group by name; a new one begins with the oldest message there is."""
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = Group(self, self.begin)
            self.room_until = min(self.room_until, self.begin + self._capacity)
        return found

    def lag(self, name: str) -> int:
        """What a group has not acked; of one that there is not yet, what it would begin with."""
        found = self.groups.get(name)
        return self.end - self.begin if found is None else found.lag

    def join(self) -> Group:
        """A group for one subscription alone, which begins with the next message."""
        group = Group(self, self.end)
        self.broadcasts[group] = None
        return group

    def leave(self, group: Group) -> None:
        """Forget a group that `join` made."""
        self.broadcasts.pop(group, None)
        if self.is_full:
            self.look_for_room()
