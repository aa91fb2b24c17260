"""`KafkaDelivery`: a record on its way to a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from eventflow.brokers.kafka._outcome import CONFIRMED, UNDECIDED, Outcome
from eventflow.brokers.kafka._record import Headless, headers_of
from eventflow.brokers.kafka._wire import ID, message_of, native
from eventflow.errors import InvalidMessageError
from eventflow.messaging import Delivery, SettlementState
from eventflow.messaging._unreadable import Unreadable
from eventflow.messaging.metadata import NAME, OCCURRED_AT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.brokers.kafka._deliveries import KafkaDeliveries
    from eventflow.brokers.kafka._partition import Partition
    from eventflow.brokers.kafka._progress import Note
    from eventflow.brokers.kafka._record import Record
    from eventflow.brokers.kafka._wire import RawHeaders
    from eventflow.messaging import Message, NativeHeaders

__all__ = ("KafkaDelivery",)

_PENDING = SettlementState.PENDING
_ACKED = SettlementState.ACKED
_HEADLESS = "the name of one of its headers is no UTF-8, so that none of them can be read"


class KafkaDelivery(Delivery):
    """A record on its way to a handler.

    Attributes:
        offset: Its place in the partition.
        partition: The partition, of the one assignment that it was fetched in.
    """

    __slots__ = ("_message", "_original", "_outcome", "_record", "offset", "partition")

    _message: Message | None
    _original: Message | None

    def __init__(
        self,
        record: Record,
        offset: int,
        partition: Partition,
        member: KafkaDeliveries,
        deliveries: int = 1,
        failures: int = 0,
    ) -> None:
        # What the base does, whose arguments by keyword would take as long as all of this.
        self._record = record
        self.offset = offset
        self.partition = partition
        self._settler = member
        self.deliveries = deliveries
        self.failures = failures
        self.topic = partition.topic
        self.lane = record.key()
        self.event = self._watcher = self._message = self._original = None
        self.state = _PENDING
        self._outcome = UNDECIDED

    if not TYPE_CHECKING:

        @property
        def original(self) -> Message:
            """The message as it was received; made when somebody asks: a router need not."""
            if self._original is None:
                headers, record = self._headers(), self._record
                if self._original is None:
                    self._original = message_of(record.value(), record.key(), headers)
            return self._original

        @property
        def message(self) -> Message:
            """The message, as the handler gets it."""
            if self._message is None:
                original = self.original  # which may find that the message can't be read
                return original if self._message is None else self._message
            return self._message

        @message.setter
        def message(self, message: Message) -> None:
            self._message = message

        @property
        def is_confirmed(self) -> bool:
            """Whether the broker has the decision."""
            return self._outcome.is_confirmed

        @is_confirmed.setter
        def is_confirmed(self, _: Literal[True]) -> None:
            self._outcome = CONFIRMED

        @property
        def error(self) -> BaseException | None:
            """Why the broker does not have the decision; made when somebody asks."""
            outcome = self._outcome
            if outcome.is_lost and outcome.error is None:
                outcome = self._outcome = Outcome(error=self._lost_error())
            return outcome.error

        @error.setter
        def error(self, error: BaseException) -> None:
            self._outcome = Outcome(error=error)

        @property
        def headers(self) -> NativeHeaders:
            """All headers as they came; made when somebody asks."""
            return native(self._headers())

        @property
        def coordinates(self) -> dict[str, str | int]:
            """Partition, offset and time in milliseconds; and the topic, if it has waited there."""
            found = {
                "partition": self.partition.number,
                "offset": self.offset,
                "timestamp": self._record.timestamp()[1],
            }
            return found | ({"topic": self.partition.topic} if self.partition.is_ladder else {})

    def head(self) -> tuple[str | None, str, str, bytes | None]:
        """From the record as it came, unless its headers need a closer look."""
        if self._message is None:
            record = self._record
            name: Any = None
            message_id = occurred_at = None
            try:
                # No dict of them, which would need the hash of each name.
                for header, value in headers_of(record):  # type: ignore[union-attr]
                    if header == ID:
                        message_id = value
                    elif header == NAME:
                        name = value
                    elif header == OCCURRED_AT:
                        occurred_at = value
                if message_id:
                    time = occurred_at.decode() if occurred_at else ""
                    return name.decode(), message_id.decode(), time, record.value() or b""
            except (TypeError, AttributeError, UnicodeDecodeError):
                pass  # no headers, one that is missing, has no value, or is no text
            except SystemError:
                self.lose_headers()
        return super().head()

    def _headers(self) -> RawHeaders | None:
        """The headers as they were published."""
        try:
            return self.partition.headers_of(self._record)
        except SystemError:
            self.lose_headers()
            return None

    def lose_headers(self) -> None:
        """Its headers can't be read: neither can the message, and what is left is the original."""
        record = self._record = Headless(self._record)
        original = self._original or message_of(record.value(), record.key(), None)
        self._original = original
        self._message = Unreadable.instead_of(original, InvalidMessageError(_HEADLESS))

    @classmethod
    def of_records(
        cls,
        records: Sequence[Record],
        offsets: Sequence[int],
        partition: Partition,
        member: KafkaDeliveries,
        /,
    ) -> Sequence[Self]:
        """One for each record, none of which came before: as ``__init__`` makes it, in less time.

        To call a class takes as long as to set all of these.
        """
        new, topic = cls.__new__, partition.topic
        found: list[Self] = []
        for record, offset in zip(records, offsets, strict=True):
            made = new(cls)
            made._record = record
            made.offset = offset
            made.partition = partition
            made._settler = member
            made.deliveries = 1
            made.failures = 0
            made.topic = topic
            made.lane = record.key()
            made.event = made._watcher = made._message = made._original = None
            made.state = _PENDING
            made._outcome = UNDECIDED
            found.append(made)
        return found

    @property
    def member(self) -> KafkaDeliveries:
        """Whose hands it is in."""
        return self._settler  # type: ignore[no-any-return]

    def ack(self) -> bool:
        """See `eventflow.messaging.Settlement`: as there, with fewer calls in between."""
        if self.state is not _PENDING:
            return self.state is _ACKED
        self.state = _ACKED
        partition = self.partition
        if partition.ack(self):
            self._settler.acked(partition)
        return True

    @property
    def outcome(self) -> Outcome:
        """What becomes of the decision, as far as is known."""
        return self._outcome

    def ends_with(self, outcome: Outcome) -> None:
        """It was settled, and the broker gets to know with others."""
        self._outcome = outcome
        if self._watcher is not None:
            outcome.watch(self._wake)

    async def settled(self) -> None:
        """Wait until the broker has the ack or the nack; see `eventflow.messaging.Delivery`."""
        outcome = self._outcome
        if outcome is not UNDECIDED and self._watcher is None and not self.is_ended:
            outcome.watch(self._wake)
        await super().settled()

    def again(self, member: KafkaDeliveries, note: Note) -> KafkaDelivery:
        """The one that comes in its place."""
        found = type(self)(self._record, self.offset, self.partition, member, *note)
        found.topic = self.topic  # not the partition's own, on a ladder
        found._original = self._original  # with its id, if it came with none
        if isinstance(self._record, Headless):
            found.lose_headers()
        return found
