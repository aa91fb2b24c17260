"""Counts what was published and what came, message by message; nothing is removed before it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventflow.messaging import Delivery, Message

__all__ = ("Counts", "Tally")

_SHOWN = 5
_STORM = 100


@dataclass(frozen=True, slots=True)
class Counts:
    """What a tally has counted.

    Attributes:
        published: Messages published.
        received: Deliveries, repeated ones included.
        lost: Deliveries that had to come and did not: of a message, or of one that was nacked.
        duplicates: Deliveries that nobody asked for.
        foreign: Deliveries of messages that were not published here.
        altered: Deliveries of messages that differ from what was published.
    """

    published: int = 0
    received: int = 0
    lost: int = 0
    duplicates: int = 0
    foreign: int = 0
    altered: int = 0

    def __add__(self, other: Counts) -> Counts:
        """The sums."""
        return Counts(
            self.published + other.published,
            self.received + other.received,
            self.lost + other.lost,
            self.duplicates + other.duplicates,
            self.foreign + other.foreign,
            self.altered + other.altered,
        )

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.published:,} published, {self.received:,} received, {self.lost:,} lost, "
            f"{self.duplicates:,} duplicates, {self.foreign:,} foreign, {self.altered:,} altered"
        )


class Tally:
    """Counts the messages of a test by id.

    Args:
        key: Whether `Message.key` has to come back too.
    """

    def __init__(self, *, key: bool = False) -> None:
        self._with_key = key
        self._published: dict[str, Message] = {}
        self._due: dict[str, int] = {}  # what has to come less what came, where it is not 0
        self._lacking = 0
        self._again: Counter[str] = Counter()
        self._excused: Counter[str] = Counter()
        self._received: Counter[str] = Counter()
        self._altered: list[str] = []
        self._changed = asyncio.Event()

    def published(self, *messages: Message) -> None:
        """These have to come."""
        for message in messages:
            self._published[message.id] = message
            self._owe(message.id, 1)
        self._changed.set()

    def may_be_stored(self, *messages: Message) -> None:
        """These may come or not: their publish was cut short, and will not be tried again."""
        for message in messages:
            self._published[message.id] = message
            self._owe(message.id, 0)

    def received(self, delivery: Delivery) -> int:
        """This one came. Returns how often it has come by now.

        Raises:
            AssertionError: It came a hundred times more than it was asked for: there is no end.
        """
        message = delivery.message
        self._received[message.id] += 1
        if self._received[message.id] > _STORM + self._again[message.id]:
            raise AssertionError(f"message {message.id} comes again and again: {self.counts}")
        self._owe(message.id, -1)
        sent = self._published.get(message.id)
        if sent is not None and not self._equal(sent, message):
            self._altered.append(message.id)
        self._changed.set()
        return self._received[message.id]

    def seen_elsewhere(self, message_id: str, *, again: bool = False) -> None:
        """Another process received it; with ``again`` it was not settled there."""
        self._received[message_id] += 1
        self._again[message_id] += again
        self._owe(message_id, int(again) - 1)

    def asked_again(self, delivery: Delivery) -> None:
        """It was nacked, or left unsettled, or its ack may be lost: it has to come once more."""
        self._again[delivery.message.id] += 1
        self._owe(delivery.message.id, 1)

    def may_come_again(self, message_id: str) -> None:
        """One delivery more than asked for is no fault: a publish was tried again, for example."""
        self._excused[message_id] += 1

    def times(self, message_id: str) -> int:
        """How often a message has come."""
        return self._received[message_id]

    def _owe(self, message_id: str, number: int) -> None:
        before = self._due.get(message_id, 0)
        left = before + number
        self._lacking += max(left, 0) - max(before, 0)
        if left:
            self._due[message_id] = left
        else:
            self._due.pop(message_id, None)

    def _equal(self, sent: Message, message: Message) -> bool:
        return (
            sent.payload == message.payload
            and sent.metadata == message.metadata
            and (not self._with_key or sent.key == message.key)
        )

    @property
    def number(self) -> int:
        """How many were published."""
        return len(self._published)

    @property
    def lacking(self) -> int:
        """How many deliveries have to come yet."""
        return self._lacking

    @property
    def is_complete(self) -> bool:
        """Whether everything that has to come has come."""
        return not self._lacking

    async def complete(self, *, patience: float) -> None:
        """Wait until everything has come, or nothing came for ``patience`` seconds."""
        await self.until(lambda: self.is_complete, patience=patience)

    async def until(self, condition: Callable[[], bool], *, patience: float) -> bool:
        """Wait until a condition holds, or nothing was published or came for ``patience`` s."""
        while not condition():
            self._changed.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._changed.wait()
            except TimeoutError:
                return False
        return True

    def _more_than_asked(self) -> dict[str, int]:
        extra: dict[str, int] = {}
        for message_id, count in self._received.items():
            if message_id in self._published:
                over = count - 1 - self._again[message_id] - self._excused[message_id]
                if over > 0:
                    extra[message_id] = over
        return extra

    @property
    def counts(self) -> Counts:
        """What was counted until now."""
        return Counts(
            published=len(self._published),
            received=self._received.total(),
            lost=self._lacking,
            duplicates=sum(self._more_than_asked().values()),
            foreign=sum(n for i, n in self._received.items() if i not in self._published),
            altered=len(self._altered),
        )

    def check(self, *, duplicates: int = 0, losses: int = 0, foreign: bool = False) -> None:
        """Fail unless everything came, unaltered, and no more often than it was asked for.

        Args:
            duplicates: Most deliveries that nobody asked for.
            losses: Most deliveries that did not come.
            foreign: Whether messages of others may come.
        """
        counts = self.counts
        wrong: list[str] = []
        if counts.lost > losses:
            wrong.append("lost: " + _some(i for i, n in self._due.items() if n > 0))
        if counts.duplicates > duplicates:
            wrong.append("duplicates: " + _some(self._more_than_asked()))
        if counts.foreign and not foreign:
            wrong.append("foreign: " + _some(i for i in self._received if i not in self._published))
        if counts.altered:
            first = self._published[self._altered[0]]
            wrong.append(f"altered: {_some(self._altered)}; the first was sent as {first!r}")
        if wrong:
            raise AssertionError("\n  ".join((str(counts), *wrong)))


def _some(ids: Iterable[str]) -> str:
    found = list(ids)
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
