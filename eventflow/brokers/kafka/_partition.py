"""One partition while it is ours: what was fetched, handed out and settled. Plain state, no I/O."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from confluent_kafka import TopicPartition

from eventflow.brokers.kafka._progress import done_beyond, to_text
from eventflow.brokers.kafka._wire import message_of, native
from eventflow.messaging import Delivery, SettlementState

if TYPE_CHECKING:
    from eventflow.brokers.kafka._deliveries import KafkaDeliveries
    from eventflow.brokers.kafka._progress import Ranges
    from eventflow.brokers.kafka._wire import RawHeaders
    from eventflow.messaging import Message, NativeHeaders, Settler

__all__ = ("Commit", "KafkaDelivery", "Part", "Partition", "Record")

_PENDING = SettlementState.PENDING


class Record(Protocol):
    """What the client library hands out, as far as it is used."""

    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def __len__(self) -> int: ...
    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...
    def timestamp(self) -> tuple[int, int]: ...


class KafkaDelivery(Delivery):
    """A record on its way to a handler.

    Attributes:
        offset: Its place in the partition.
        partition: The partition, of the one assignment that it was fetched in.
    """

    __slots__ = ("_raw", "_time", "offset", "partition")

    def __init__(
        self,
        message: Message,
        raw: RawHeaders | None,
        time: int,
        offset: int,
        partition: Partition,
        settler: Settler,
    ) -> None:
        # What the base does, whose arguments by keyword would take as long as all of this.
        self.message = self.original = message
        self.topic = partition.topic
        self.offset = offset
        self.partition = partition
        self._raw = raw
        self._time = time
        self._settler = settler
        self.deliveries = None
        self.failures = 0
        self.lane = message.key
        self.event = None
        self.state = _PENDING
        self.is_confirmed = False
        self.error = None
        self._watcher = None

    if not TYPE_CHECKING:

        @property
        def headers(self) -> NativeHeaders:
            """All headers as they came; made when somebody asks."""
            return native(self._raw)

        @property
        def coordinates(self) -> dict[str, int]:
            """Partition, offset and time in milliseconds; a dict when somebody asks."""
            return {
                "partition": self.partition.number,
                "offset": self.offset,
                "timestamp": self._time,
            }

    @property
    def member(self) -> KafkaDeliveries:
        """Whose hands it is in."""
        return self._settler  # type: ignore[no-any-return]

    def again(self, settler: Settler) -> KafkaDelivery:
        """The one that comes in its place."""
        return KafkaDelivery(
            self.original, self._raw, self._time, self.offset, self.partition, settler
        )


class Part(NamedTuple):
    """What one commit says of one partition, and the deliveries that it is the end of."""

    partition: Partition
    place: TopicPartition
    deliveries: list[KafkaDelivery]


Commit = dict[int, Part]
"""A commit, by the numbers of its partitions."""


class Partition:
    """One assignment of a partition to us.

    Attributes:
        topic: Its topic.
        number: Its number.
        acked: What was acked and is in no commit yet.
        ready: Records that were fetched and not handed out, in order.
        owner: Who has some of it in its hands: until all of that is settled nobody else gets any,
            so that the partition's order holds.
        out: How many deliveries are in the owner's hands.
        is_dirty: Whether something was settled that no commit has had.
        is_ending: Whether it is being taken away: nothing more is handed out.
        is_lost: Whether it is somebody else's now.
    """

    __slots__ = (
        "_again",
        "_done",
        "_held",
        "_position",
        "acked",
        "is_dirty",
        "is_ending",
        "is_lost",
        "number",
        "out",
        "owner",
        "ready",
        "topic",
    )

    def __init__(self, topic: str, number: int, done: Ranges = ()) -> None:
        self.topic = topic
        self.number = number
        self.acked: list[KafkaDelivery] = []
        self.ready: deque[Any] = deque()
        self.owner: object | None = None
        self.out = 0
        self.is_dirty = self.is_ending = self.is_lost = False
        self._done = deque(done)
        self._held: dict[int, KafkaDelivery] = {}  # handed out and not acked, by offset, in order
        self._again: list[int] = []
        self._position: int | None = None  # one past the last that was handed out, or was done

    @property
    def has_some(self) -> bool:
        """Whether something can be handed out."""
        return bool(self.ready or self._again)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in anybody's hands."""
        return not self.out

    @property
    def in_hands(self) -> list[KafkaDelivery]:
        """What is in somebody's hands."""
        waiting = set(self._again)
        return [held for offset, held in self._held.items() if offset not in waiting]

    def take(self, taken: list[KafkaDelivery], limit: int, settler: Settler) -> tuple[int, int]:
        """Hand out until ``taken`` has ``limit``.

        Returns:
            How many fetched records that took, and how many bytes they have.
        """
        before, again, held = len(taken), self._again, self._held
        while again and len(taken) < limit:
            offset = heapq.heappop(again)
            held[offset] = delivery = held[offset].again(settler)
            taken.append(delivery)
        ready, used, size, room = self.ready, 0, 0, limit - len(taken)
        while ready and room:
            record = ready.popleft()
            used += 1
            size += len(record)
            offset = record.offset()
            self._position = offset + 1
            if self._done and self._was_done(offset):
                self.is_dirty = True
                continue
            raw = record.headers()
            message = message_of(record.value(), record.key(), raw)
            delivery = held[offset] = KafkaDelivery(
                message, raw, record.timestamp()[1], offset, self, settler
            )
            taken.append(delivery)
            room -= 1
        self.out += len(taken) - before
        return used, size

    def _was_done(self, offset: int) -> bool:
        done = self._done
        while done and done[0][1] <= offset:
            done.popleft()
        return bool(done) and done[0][0] <= offset

    def ack(self, delivery: KafkaDelivery) -> None:
        """It is done."""
        del self._held[delivery.offset]
        self.acked.append(delivery)
        self.is_dirty = True
        self.out -= 1
        if not self.out:
            self.owner = None

    def put_back(self, delivery: KafkaDelivery) -> None:
        """It is to be handed out again, before all that were not yet."""
        heapq.heappush(self._again, delivery.offset)
        self.out -= 1
        if not self.out:
            self.owner = None

    def commit(self) -> Part | None:
        """What is to be committed, which is no news from now on; ``None`` while there is nothing.

        The offset is the first that is not done.
        """
        end = self._position
        if end is None:
            return None
        held = self._held
        first = next(iter(held), end)
        text = ""
        if first != end or self._done:
            # What was done before, and was not fetched again yet, is done still.
            before = ((max(start, end), last) for start, last in self._done if last > end)
            text = to_text((*done_beyond(first, held, end), *before), first)
        acked, self.acked, self.is_dirty = self.acked, [], False
        return Part(self, TopicPartition(self.topic, self.number, first, metadata=text), acked)

    def take_back(self, part: Part) -> None:
        """A commit was not taken: what was acked in it is for the next one."""
        self.acked[:0] = part.deliveries
        self.is_dirty = True

    def lose(self) -> list[KafkaDelivery]:
        """It is somebody else's now; returns what was in somebody's hands."""
        self.is_lost = True
        given_up = self.in_hands
        for delivery in (*self.acked, *given_up):
            delivery.lost()
        self.acked = []
        return given_up
