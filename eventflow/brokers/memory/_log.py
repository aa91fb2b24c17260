"""Topics and groups as plain state, without waiting: what a broker would keep on its disk."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from eventflow.lifecycle.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from eventflow.messaging import Message

__all__ = ("Group", "Item", "Log")


class Item:
    """A message as one group sees it, from its first delivery to its ack.

    Attributes:
        offset: Its place in the topic.
        message: The message as it was published.
        deliveries: How often it was delivered.
        failures: Failures recorded with it.
    """

    __slots__ = ("deliveries", "failures", "has_lane", "message", "offset")

    def __init__(self, offset: int, message: Message, failures: int) -> None:
        self.offset = offset
        self.message = message
        self.deliveries = 0
        self.failures = failures
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
            item = self._next(now)
            if item is None:
                break
            item.deliveries += 1
            taken.append(item)
        return taken

    def _next(self, now: float) -> Item | None:
        while self._again:
            item = self._open[heapq.heappop(self._again)]
            if item.has_lane or self._enter_lane(item):
                return item
        ready = self._lanes.next_ready()
        if ready is not None:
            parked: Item = ready[1]
            parked.has_lane = True
            return parked
        log = self._log
        while self._position < log.end:
            offset = self._position
            self._position += 1
            message, not_before, failures = log[offset]
            item = self._open[offset] = Item(offset, message, failures)
            if not_before > now:
                heapq.heappush(self._delayed, (not_before, offset))
            elif self._enter_lane(item):
                return item
        return None

    def _enter_lane(self, item: Item) -> bool:
        key = item.message.key
        if key is None:
            return True
        if self._lanes.start(key, item) is None:
            item.has_lane = True
            return True
        return False

    def ack(self, item: Item) -> None:
        """Forget a message."""
        del self._open[item.offset]
        if item.has_lane:
            assert item.message.key is not None
            self._lanes.release(item.message.key)
        self._log.on_ack()

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
    """

    def __init__(self, capacity: int, on_ack: Callable[[], None]) -> None:
        self.groups: dict[str, Group] = {}
        self.broadcasts: set[Group] = set()
        self._capacity = capacity
        self.on_ack = on_ack
        self._entries: deque[tuple[Message, float, int]] = deque()
        self._base = 0

    @property
    def end(self) -> int:
        """Offset of the next message to come."""
        return self._base + len(self._entries)

    def __getitem__(self, offset: int) -> tuple[Message, float, int]:
        """Message, loop time before which it is not delivered, failures recorded with it."""
        return self._entries[offset - self._base]

    def _readers(self) -> Iterator[Group]:
        yield from self.groups.values()
        yield from self.broadcasts

    def room(self) -> int:
        """How many messages could be appended now."""
        lowest = min((group.lowest for group in self._readers()), default=self.end)
        return self._capacity - (self.end - lowest)

    def append(self, entries: Iterable[tuple[Message, float, int]]) -> None:
        """Store messages; there has to be room."""
        self._entries.extend(entries)
        while len(self._entries) > self._capacity:
            self._entries.popleft()
            self._base += 1

    def group(self, name: str) -> Group:
        """A group by name; a new one begins with the oldest message there is."""
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = Group(self, self._base)
        return found

    def lag(self, name: str) -> int:
        """What a group has not acked; of one that there is not yet, what it would begin with."""
        found = self.groups.get(name)
        return len(self._entries) if found is None else found.lag

    def join(self) -> Group:
        """A group for one subscription alone, which begins with the next message."""
        group = Group(self, self.end)
        self.broadcasts.add(group)
        return group

    def leave(self, group: Group) -> None:
        """Forget a group that `join` made."""
        self.broadcasts.discard(group)
        self.on_ack()
