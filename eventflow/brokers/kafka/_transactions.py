"""Commits what is done and what was published because of it, together or not at all.

Used in the thread of one consumer alone. Each commit is a transaction: the outputs, the places with
the group's word on who we are, and the end. Whoever was put out of the group meanwhile is refused
by that word, so that the producer needs no name that outlives it (KIP-447).
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from confluent_kafka import KafkaError, KafkaException, Producer

from eventflow.brokers.kafka._errors import NOT_FOUND, NOT_STORED, code_name
from eventflow.errors import BrokerConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from confluent_kafka import Consumer, TopicPartition

    from eventflow.brokers.kafka._outputs import Output, TransactionalDelivery
    from eventflow.brokers.kafka._partition import Part
    from eventflow.brokers.kafka._settings import Settings

    Refused = tuple[TransactionalDelivery, KafkaError]

__all__ = ("Refusal", "Transactions")

LOOK_S = 1.0
"""Seconds after which a record that does not arrive has its topic looked for."""
SLICE_S = 0.5
"""Seconds of one call of the library."""
LONGEST_S = 8.0
"""Seconds of one transaction, fewer than the broker gives it."""
ABORT_S = 3.0
LAST_S = 2.0
"""Seconds that one has left when the subscription ends."""
NARROW_FOR = 20
"""Transactions whose records are sent few at a time, after some were refused together."""

CLOSING = (KafkaException, SystemError)
"""What a close may raise; the latter where confluent-kafka 2.16 raises and returns at once."""

ONE_BY_ONE = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.TOPIC_EXCEPTION,
    }
)
"""Verdicts on each record; others may be on a batch, of which any may be the reason."""


class Refusal(NamedTuple):
    """A transaction that has not taken place.

    Attributes:
        error: Why.
        culprits: Messages whose outputs the broker does not take, and why, if it is for that.
    """

    error: KafkaError
    culprits: Sequence[Refused] = ()


class Transactions:
    """The transactions of one consumer.

    Args:
        settings: Of the broker.
        group: The consumer's group.
        consumer: The consumer.
        is_ending: Whether the subscription ends: then one has `LAST_S` left.
    """

    def __init__(
        self, settings: Settings, *, group: str, consumer: Consumer, is_ending: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._group = group
        self._consumer = consumer
        self._is_ending = is_ending
        self._producer: Producer | None = None
        self._until = 0.0
        # Whose records are on their way, and to which topics.
        self._unflushed: list[tuple[TransactionalDelivery, str]] = []
        self._suspects: frozenset[TransactionalDelivery] = frozenset()
        self._company: float = inf
        self._narrow_for = 0
        self._is_over = False  # nobody knows what the last one has told as done
        self._is_leaving = False
        self._last_word: Any = None
        self._refused: list[Refused] = []

    def open(self) -> None:
        """Make sure that there can be any, however long the coordinator is away.

        Raises:
            KafkaException: There can't, for good.
        """
        while not self._is_ending():
            self._until = time.monotonic() + LONGEST_S
            if self._renew() is None:
                return

    def commit(self, parts: Sequence[Part], *, within: float = LONGEST_S) -> Refusal | None:
        """Commit some partitions' places, and the outputs of the messages that are done by that.

        Blocks.

        Returns:
            Why it has not taken place; ``None`` when it has.

        Raises:
            BrokerConnectionError: It is not known whether it has, and won't be here.
            KafkaException: There can be none any more.
        """
        if self._is_over:
            return Refusal(KafkaError(KafkaError._STATE))
        # Unless it ends in a way that is known: the next one would tell as done what it has told.
        self._is_over = True
        self._until = time.monotonic() + within
        refusal = self._commit(parts)
        self._is_over = False
        return refusal

    def _commit(self, parts: Sequence[Part]) -> Refusal | None:
        if self._producer is None and (error := self._renew()) is not None:
            return Refusal(error)
        producer = self._producer
        assert producer is not None
        try:
            who = self._who_we_are()
            if who is None:
                return Refusal(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
            self._refused = []
            self._unflushed.clear()
            producer.begin_transaction()
            self._produce(producer, parts)
            places = [part.place for part in parts]
            self._send_places(producer, places, who)
            self._flush(producer)
        except KafkaException as exc:
            return self._refusal(producer, exc.args[0])
        except TimeoutError:
            self._producer = None  # who waits for it closes it
            return Refusal(KafkaError(KafkaError._TIMED_OUT))
        self._end(producer)
        return None

    def leave_soon(self) -> None:
        """The consumer is going to leave its group: ask no more who we are.

        The thread of librdkafka that would answer may end before it does (2.16 drops the question),
        and whoever asks then waits for ever, with the interpreter's lock in its hands. What it said
        before the end holds: the group refuses it where somebody else has our partitions.
        """
        if not self._is_leaving:
            self._last_word = self._who_we_are()
            self._is_leaving = True

    def look(self) -> None:
        """Let the library do what it has to once in a while, such as asking for a new token."""
        if self._producer is not None:
            with suppress(KafkaException):  # it has given up: the next transaction makes another
                self._producer.poll(0)

    def close(self) -> None:
        """Close the producer."""
        producer, self._producer = self._producer, None
        if producer is not None and self._is_over:
            _close(producer)
        elif producer is not None:
            with suppress(*CLOSING):
                producer.close()

    # One after another

    def _renew(self) -> KafkaError | None:
        """Make a producer. Why there is none yet."""
        producer: Producer | None = None
        try:
            producer = Producer(self._settings.transactional_producer(self._group))
            self._call(producer.init_transactions)
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            if producer is not None:
                _close(producer)
            if error.retriable():
                return error
            raise
        self._producer = producer
        return None

    def _who_we_are(self) -> Any:
        """The group's word on us; ``None`` while we are nobody.

        Brokers before 4.0 let nobody in particular commit, in a transaction, what others have.
        """
        if self._is_leaving:
            return self._last_word
        member = self._consumer.memberid()
        try:
            who = self._consumer.consumer_group_metadata()
        except RuntimeError:  # the library has left the group
            return None
        return who if member and self._consumer.memberid() == member else None

    def _produce(self, producer: Producer, parts: Iterable[Part]) -> None:
        suspects, company, unflushed = self._suspects, self._company, self._unflushed
        for delivery, output in _outputs(parts):
            is_suspect = delivery in suspects
            if unflushed and (is_suspect or len(unflushed) >= company):
                self._flush(producer)
            unflushed.append((delivery, output.topic))
            self._send(producer, delivery, output)
            if is_suspect:
                self._flush(producer)
        self._narrow_for -= self._narrow_for > 0
        if not self._narrow_for:
            self._suspects, self._company = frozenset(), inf

    def _send(self, producer: Producer, delivery: TransactionalDelivery, output: Output) -> None:
        heard = partial(_heard, self._refused, delivery)
        topic, value, key, headers, partition = output
        place: dict[str, Any] = {} if partition is None else {"partition": partition}
        while True:
            try:
                producer.produce(topic, value, key, headers=headers, on_delivery=heard, **place)
            except BufferError:
                self._check_time()
                producer.poll(0.01)
            except KafkaException as exc:
                if exc.args[0].code() in NOT_STORED:
                    self._unflushed[:] = [(delivery, topic)]
                raise
            else:
                return

    def _send_places(self, producer: Producer, places: list[TopicPartition], who: Any) -> None:
        """Add the places to the transaction.

        Raises:
            TimeoutError: That did not end; the producer is still at it.
        """
        while True:
            sending = _Sending(producer, places, who, self._until - time.monotonic())
            while not sending.wait(SLICE_S):
                try:
                    self._check_time()
                except KafkaException:
                    if sending.abandon():
                        raise TimeoutError from None
            if sending.error is None:
                return
            if not sending.error.retriable():
                raise KafkaException(sending.error)
            self._check_time(sending.error)

    def _flush(self, producer: Producer) -> None:
        look_at = time.monotonic() + LOOK_S
        while producer.flush(SLICE_S):
            self._check_time()
            if time.monotonic() > look_at:
                self._refused += self._of_no_topic(producer)
                if self._refused:
                    break
                look_at = inf
        if self._refused:
            raise KafkaException(self._refused[0][1])
        self._unflushed.clear()

    def _of_no_topic(self, producer: Producer) -> list[Refused]:
        """Those on their way to a topic that is gone: librdkafka 2.16 may not tell."""
        topics = {topic for _, topic in self._unflushed}
        gone: dict[str, KafkaError] = {}
        for topic in topics:
            with suppress(KafkaException):
                error = producer.list_topics(topic, timeout=SLICE_S).topics[topic].error
                if error is not None and error.code() in NOT_FOUND:
                    gone[topic] = error
        return [(delivery, gone[topic]) for delivery, topic in self._unflushed if topic in gone]

    def _end(self, producer: Producer) -> None:
        try:
            self._call(producer.commit_transaction)
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
        else:
            return
        # Also where the library says that it has to be aborted: the answer may be what was lost.
        self._leave(producer)
        raise BrokerConnectionError(
            f"it is not known whether a transaction took place: {code_name(error)}"
        )

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function of the library, again until it does not time out."""
        while True:
            try:
                function(*args, SLICE_S)
                return
            except KafkaException as exc:
                if not exc.args[0].retriable():
                    raise
                self._check_time(exc.args[0])

    def _check_time(self, error: KafkaError | None = None) -> None:
        now = time.monotonic()
        if self._is_ending():
            self._until = min(self._until, now + LAST_S)
        if now >= self._until:
            raise KafkaException(error or KafkaError(KafkaError._TIMED_OUT))

    def _refusal(self, producer: Producer, error: KafkaError) -> Refusal:
        """Take back what was begun, and say why."""
        if error.fatal():
            self._leave(producer)
            return Refusal(error)
        has_failed = error.txn_requires_abort() or error.code() == KafkaError._STATE
        if has_failed:
            producer.flush(SLICE_S)  # it may have failed by a record of which nobody has heard yet
        refused = [(d, e) for d, e in self._refused if e.code() in NOT_STORED]
        if not refused and (self._refused or has_failed):
            error = self._reason(producer)
        are_named = bool(refused)
        if not refused and error.code() in NOT_STORED:  # it does not say of which record
            refused = [(d, error) for d, _ in self._unflushed]
        # After a refused record librdkafka 2.16 has lost count of what its partition took, and the
        # next transaction would fail, too.
        if not _abort(producer) or refused:
            self._leave(producer)
        if not refused:
            return Refusal(error)
        are_named = are_named and all(e.code() in ONE_BY_ONE for _, e in refused)
        return Refusal(refused[0][1], self._culprits(refused, are_named=are_named))

    def _culprits(self, refused: Sequence[Refused], *, are_named: bool) -> Sequence[Refused]:
        """Whose outputs they are; none while others may only have been in their company."""
        if len(refused) > 1 and not are_named:
            self._narrow_for = NARROW_FOR
            self._company = max(1, len(refused) // 4)
            self._suspects = frozenset(d for d, _ in refused) if len(refused) <= 8 else frozenset()
            return ()
        return tuple({delivery: (delivery, error) for delivery, error in refused}.values())

    def _reason(self, producer: Producer) -> KafkaError:
        """Why a transaction has to be aborted: the library says it to who wants to commit it."""
        try:
            producer.commit_transaction(SLICE_S)
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            if error.txn_requires_abort():
                return error
        # It had nothing against it after all.
        self._leave(producer)
        raise BrokerConnectionError("a transaction may have taken place, and not as it should")

    def _leave(self, producer: Producer) -> None:
        self._producer = None
        _close(producer)


class _Sending:
    """A call that may outlast its time-out, and everything else: librdkafka's issue 5456.

    So it is made in a thread of its own, which is left behind with the producer where it has to be.
    """

    def __init__(
        self, producer: Producer, places: list[TopicPartition], who: Any, within: float
    ) -> None:
        self.error: KafkaError | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._is_abandoned = False

        def run() -> None:
            try:
                producer.send_offsets_to_transaction(places, who, max(within, SLICE_S))
            except KafkaException as exc:
                self.error = exc.args[0]
            with self._lock:
                self._ended.set()
            if self._is_abandoned:
                _close(producer)

        threading.Thread(target=run, name="eventflow:kafka-transactions", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait for its end. Whether that has come."""
        return self._ended.wait(seconds)

    def abandon(self) -> bool:
        """Leave the producer to it, unless it has just ended."""
        with self._lock:
            self._is_abandoned = not self._ended.is_set()
            return self._is_abandoned


def _outputs(parts: Iterable[Part]) -> Iterator[tuple[TransactionalDelivery, Output]]:
    for part in parts:
        for delivery in cast("Iterable[TransactionalDelivery]", part.deliveries):
            for output in delivery.outputs:
                yield delivery, output


def _heard(
    refused: list[Refused], delivery: TransactionalDelivery, error: KafkaError | None, _: object
) -> None:
    """What became of a record; of a producer that was left, nobody listens any more."""
    if error is not None:
        refused.append((delivery, error))


def _abort(producer: Producer) -> bool:
    """Abort a transaction that was never told to end well. Whether that worked."""
    until = time.monotonic() + ABORT_S
    while True:
        try:
            producer.abort_transaction(SLICE_S)
        except KafkaException as exc:
            if not exc.args[0].retriable() or time.monotonic() >= until:
                return False
        else:
            return True


def _close(producer: Producer) -> None:
    """Close it in a thread of its own: that may wait for a broker that is away."""

    def run() -> None:
        with suppress(*CLOSING):
            producer.purge()
            producer.close()

    threading.Thread(target=run, name="eventflow:kafka-transactions", daemon=True).start()
