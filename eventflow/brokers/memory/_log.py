"""Topics and groups as plain state, without waiting: what a broker would keep on its disk."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from eventflow.lifecycle.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from eventflow.messaging import Message

__all__ = ("Group", "Item", "Log", "Special")


class Special(NamedTuple):
    """What only a few messages have.

    Attributes:
        not_before: Loop time before which it is not delivered.
        failures: Failures recorded with it when it was published.
    """

    not_before: float
    failures: int


class Item:
    """A message as one group sees it, from its first delivery to its ack.

    Attributes:
        offset: Its place in the topic.
        message: The message.
        deliveries: How often it was delivered.
        failures: Failures recorded with it.
        has_lane: Whether the next message with its key waits for its ack.
    """

    __slots__ = ("deliveries", "failures", "has_lane", "message", "offset")

    def __init__(self, offset: int, message: Message) -> None:
        self.offset = offset
        self.message = message
        self.deliveries = 0
        self.failures = 0
        self.has_lane = False


class Group:
    """Where a group stands in a topic: what it has read, what is open, what comes again.

    Per key one message is delivered at a time: the next one waits for its ack. A message that
    was nacked comes before all that were not delivered yet; one with a delay lets others pass,
    but not those with its key.
    """

    def __init__(self, log: Log, position: int) -> None:
        self._log = log
        self._position = position
        self._open: dict[int, Item] = {}  # read and not acked, by offset, in order
        self._again: list[int] = []
        self._delayed: list[tuple[float, int]] = []
        self._lanes = Lanes()

    @property
    def lowest(self) -> int:
        """Offset of the oldest message it still needs."""
        return next(iter(self._open), self._position)

    @property
    def lag(self) -> int:
        """Messages that it has not acked."""
        return self._log.end - self._position + len(self._open)

    @property
    def next_due(self) -> float | None:
        """When the next delayed message may be delivered, in loop time."""
        return self._delayed[0][0] if self._delayed else None

    def take(self, limit: int, now: float) -> list[Item]:
        """Up to ``limit`` messages to deliver at loop time ``now``."""
        taken: list[Item] = []
        while self._delayed and self._delayed[0][0] <= now:
            heapq.heappush(self._again, heapq.heappop(self._delayed)[1])
        while len(taken) < limit:
            if self._again:
                item = self._open[heapq.heappop(self._again)]
                if not (item.has_lane or self._enter_lane(item)):
                    continue
            elif (ready := self._lanes.next_ready()) is not None:
                item = ready[1]
                item.has_lane = True
            else:
                self._read(taken, limit, now)
                break
            taken.append(item)
        for item in taken:
            item.deliveries += 1
        return taken

    def _read(self, taken: list[Item], limit: int, now: float) -> None:
        """Read on in the log."""
        log, opened = self._log, self._open
        offset, end = self._position, log.end
        while offset < end and len(taken) < limit:
            item = opened[offset] = Item(offset, log[offset])
            special = log.specials.get(offset) if log.specials else None
            if special is not None:
                item.failures = special.failures
            if special is not None and special.not_before > now:
                heapq.heappush(self._delayed, (special.not_before, offset))
            elif item.message.key is None or self._enter_lane(item):
                taken.append(item)
            offset += 1
        self._position = offset

    def _enter_lane(self, item: Item) -> bool:
        key = item.message.key
        if key is None:
            return True
        if self._lanes.start(key, item) is None:
            item.has_lane = True
            return True
        return False

    def ack(self, item: Item) -> bool:
        """Forget a message. Whether another one may be delivered because of it."""
        del self._open[item.offset]
        if self._log.is_full:
            self._log.look_for_room()
        if item.has_lane:
            assert item.message.key is not None
            return self._lanes.release(item.message.key)
        return False

    def nack(self, item: Item, *, due: float | None) -> None:
        """Deliver it again, at loop time ``due``; its key, if it has one, stays taken."""
        if due is None:
            heapq.heappush(self._again, item.offset)
        else:
            heapq.heappush(self._delayed, (due, item.offset))

    def give_back(self, item: Item) -> None:
        """Deliver it again, as if it had not been delivered."""
        item.deliveries -= 1
        heapq.heappush(self._again, item.offset)


class Log:
    """The messages of a topic, oldest first, at most ``capacity`` of them.

    What all groups have acked stays as long as there is room, for groups that come later; and
    with no group at all the oldest falls out. What a group still needs never does.

    Attributes:
        end: Offset of the next message to come.
        is_full: Whether somebody waits for room.
        specials: What is special about a message, by offset.
    """

    def __init__(self, capacity: int, on_room: Callable[[], None]) -> None:
        self.groups: dict[str, Group] = {}
        self.broadcasts: set[Group] = set()
        self.end = 0
        self.is_full = False
        self.specials: dict[int, Special] = {}
        self._capacity = capacity
        self._on_room = on_room
        # A list and not a deque, which takes long to look into its middle.
        self._messages: list[Message] = []
        self._base = 0
        self._room_until = capacity  # the end up to which there is room, as far as is known

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
        if self.end + count <= self._room_until:
            return True
        lowest = min((group.lowest for group in self._readers()), default=None)
        if lowest is None:
            return True
        self._room_until = lowest + self._capacity
        self.is_full = self.end + count > self._room_until
        return not self.is_full

    def append(self, messages: Sequence[Message], specials: Mapping[int, Special]) -> None:
        """Store messages, some of which have something special, by their place among them.

        There has to be room.
        """
        if specials:
            self.specials.update({self.end + at: special for at, special in specials.items()})
        self._messages.extend(messages)
        self.end += len(messages)
        # Twice the capacity, so that removing the front, which moves the rest, is rare.
        if len(self._messages) > 2 * self._capacity:
            surplus = len(self._messages) - self._capacity
            del self._messages[:surplus]
            self._base += surplus
            for offset in [offset for offset in self.specials if offset < self._base]:
                del self.specials[offset]

    def look_for_room(self) -> None:
        """Tell those who wait, if there is room again."""
        if self.has_room(1):
            self._on_room()

    def group(self, name: str) -> Group:
        """A group by name; a new one begins with the oldest message there is."""
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = Group(self, self.begin)
            self._room_until = min(self._room_until, self.begin + self._capacity)
        return found

    def lag(self, name: str) -> int:
        """What a group has not acked; of one that there is not yet, what it would begin with."""
        found = self.groups.get(name)
        return self.end - self.begin if found is None else found.lag

    def join(self) -> Group:
        """A group for one subscription alone, which begins with the next message."""
        group = Group(self, self.end)
        self.broadcasts.add(group)
        return group

    def leave(self, group: Group) -> None:
        """Forget a group that `join` made."""
        self.broadcasts.discard(group)
        if self.is_full:
            self.look_for_room()
