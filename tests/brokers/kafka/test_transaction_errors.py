"""What a transaction makes of each error of the client library, which is played here."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from eventflow.brokers.kafka import _transactions
from eventflow.brokers.kafka._outputs import Output
from eventflow.brokers.kafka._partition import Part, Partition
from eventflow.brokers.kafka._settings import Settings
from eventflow.brokers.kafka._transactions import Transactions
from eventflow.errors import BrokerConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOO_LARGE = KafkaError.MSG_SIZE_TOO_LARGE


def error(
    code: int, *, fatal: bool = False, again: bool = False, abort: bool = False
) -> KafkaError:
    """One of the library's, with what it says about it."""
    return KafkaError(code, fatal=fatal, retriable=again, txn_requires_abort=abort)


class FakeDelivery:
    def __init__(self, name: str, *values: bytes) -> None:
        self.name = name
        self.outputs = [Output("t", value, None, []) for value in values]


class FakeConsumer:
    members: Sequence[str | None] = ("me",)  # what it says, one after another

    def __init__(self) -> None:
        self.asked = 0

    def memberid(self) -> str | None:
        self.asked += 1
        return self.members[(self.asked - 1) % len(self.members)]

    def consumer_group_metadata(self) -> bytes:
        return b"me"


class FakeProducer:
    """Keeps what it was told; ``refuses`` says of a batch why it is not taken."""

    made: list[FakeProducer]
    refuses: list[Callable[[list[bytes]], int | None]]
    fails: dict[str, KafkaError]
    why: KafkaError | None = None

    def __init__(self, settings: dict[str, Any]) -> None:
        self.made.append(self)
        self.name = settings["transactional.id"]
        self.said: list[str] = []
        self.batch: list[tuple[bytes, Any]] = []
        self.taken: list[bytes] = []
        self.committed: list[bytes] = []
        self.reason: KafkaError | None = None

    def _does(self, what: str) -> None:
        self.said.append(what)
        if what in self.fails:
            if self.fails[what].txn_requires_abort():
                self.reason = self.fails[what]
            raise KafkaException(self.fails[what])

    def init_transactions(self, timeout: float) -> None:
        self._does("init")

    def begin_transaction(self) -> None:
        self._does("begin")

    def produce(
        self, topic: str, value: bytes, key: Any, *, headers: Any, on_delivery: Any
    ) -> None:
        if self.reason is not None:
            raise KafkaException(error(KafkaError._STATE, abort=True))
        self.batch.append((value, on_delivery))

    def flush(self, timeout: float) -> int:
        batch, self.batch = self.batch, []
        code = self.refuses[0]([value for value, _ in batch]) if batch else None
        for value, heard in batch:
            heard(None if code is None else KafkaError(code), None)
            self.taken.append(value)
        if code is not None:
            self.reason = self.why or error(code, abort=True)
        return 0

    def poll(self, timeout: float) -> int:
        return 0

    def send_offsets_to_transaction(self, places: Any, who: Any, timeout: float) -> None:
        if self.reason is not None:
            raise KafkaException(error(KafkaError._STATE, abort=True))
        self._does("send")

    def commit_transaction(self, timeout: float) -> None:
        if self.reason is not None:
            raise KafkaException(self.reason)
        self._does("commit")
        self.committed += self.taken

    def abort_transaction(self, timeout: float) -> None:
        self.reason, self.taken = None, []
        self._does("abort")

    def purge(self) -> None:
        self.said.append("purge")

    def close(self) -> None:
        self.said.append("close")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeProducer]:
    class Fake(FakeProducer):
        made: list[FakeProducer] = []  # noqa: RUF012
        fails: dict[str, KafkaError] = {}  # noqa: RUF012
        refuses = [lambda values: None]  # noqa: RUF012

    monkeypatch.setattr(_transactions, "Producer", Fake)
    monkeypatch.setattr(_transactions, "SLICE_S", 0.01)
    return Fake


def transactions(*, is_ending: bool = False, consumer: Any = None) -> Transactions:
    who: Any = consumer or FakeConsumer()
    made = Transactions(
        Settings(("h:1",)),
        group="g",
        consumer=who,
        is_ending=lambda: is_ending,
    )
    made.open()
    return made


def parts(*deliveries: FakeDelivery) -> list[Part]:
    found: Any = [*deliveries]
    place = TopicPartition("in", 0, 5)
    return [Part(Partition("in", 0), place, [], permits=False, deliveries=tuple(found))]


def culprits(refusal: Any) -> list[str]:
    return [delivery.name for delivery, _ in refusal.culprits]


def test_all_of_it(fake: type[FakeProducer]) -> None:
    """Outputs of what was acked, places, the end; one producer for all."""
    made = transactions()
    assert made.commit(parts(FakeDelivery("a", b"1", b"2"), FakeDelivery("n"))) is None
    assert made.commit(parts(FakeDelivery("b", b"3"))) is None
    made.close()
    (producer,) = fake.made
    assert producer.said == ["init", *(["begin", "send", "commit"] * 2), "close"]
    assert producer.committed == [b"1", b"2", b"1", b"2", b"3"]
    assert producer.name.startswith("eventflow-g-")


@pytest.mark.parametrize("members", [(None,), ("",), ("me", ""), ("me", "you")])
def test_nobody_in_particular(fake: type[FakeProducer], members: Sequence[str | None]) -> None:
    """Without a member's id, or while it changes: nothing is begun."""
    consumer = FakeConsumer()
    consumer.members = members
    made = transactions(consumer=consumer)
    refusal = made.commit(parts(FakeDelivery("a", b"1")))
    assert refusal is not None
    assert refusal.error.code() == KafkaError.UNKNOWN_MEMBER_ID
    assert "begin" not in fake.made[0].said


def test_a_consumer_that_is_being_closed(fake: type[FakeProducer]) -> None:
    """The library has an id then, and no word of the group: as nobody; it was not tried."""

    class Closing(FakeConsumer):
        def consumer_group_metadata(self) -> bytes:
            raise RuntimeError("Consumer group metadata not available")

    made = transactions(consumer=Closing())
    for _ in range(2):
        refusal = made.commit(parts(FakeDelivery("a", b"1")))
        assert refusal is not None
        assert refusal.error.code() == KafkaError.UNKNOWN_MEMBER_ID
    assert "begin" not in fake.made[0].said


def test_a_consumer_that_is_going_to_be_closed(fake: type[FakeProducer]) -> None:
    """It is asked who it is before that, and never again: the question may have no end then."""
    asked: list[str] = []

    class Leaving(FakeConsumer):
        def memberid(self) -> str | None:
            asked.append("memberid")
            return super().memberid()

        def consumer_group_metadata(self) -> bytes:
            asked.append("metadata")
            return super().consumer_group_metadata()

    made = transactions(consumer=Leaving())
    made.leave_soon()
    assert asked
    before = [*asked]
    made.leave_soon()
    assert made.commit(parts(FakeDelivery("a", b"1"))) is None
    assert asked == before
    assert "begin" in fake.made[0].said


def test_the_group_refuses(fake: type[FakeProducer]) -> None:
    """It is taken back, and nobody is to blame; the producer goes on."""
    made = transactions()
    fake.fails["send"] = error(KafkaError.ILLEGAL_GENERATION, abort=True)
    refusal = made.commit(parts(FakeDelivery("a", b"1")))
    assert refusal is not None
    assert refusal.error.code() == KafkaError.ILLEGAL_GENERATION
    assert refusal.culprits == ()
    fake.fails.clear()
    assert made.commit(parts(FakeDelivery("a", b"1"))) is None
    assert [producer.committed for producer in fake.made] == [[b"1"]]


def test_one_of_many_is_found(fake: type[FakeProducer]) -> None:
    """Refused in company of hundreds, in few rounds; the others are committed without it."""
    fake.refuses = [lambda values: TOO_LARGE if b"bad" in values else None]
    made = transactions()
    good = [FakeDelivery(str(n), str(n).encode()) for n in range(500)]
    bad = FakeDelivery("bad", b"fine", b"bad")
    rounds = 0
    while True:
        refusal = made.commit(parts(*good[:300], bad, *good[300:]))
        assert refusal is not None
        assert refusal.error.code() == TOO_LARGE
        rounds += 1
        if refusal.culprits:
            break
        assert rounds < 10
    assert culprits(refusal) == ["bad"]
    assert made.commit(parts(*good)) is None
    assert fake.made[-1].committed == [str(n).encode() for n in range(500)]
    assert all(producer.committed == [] for producer in fake.made[:-1])


def test_only_together_too_large(fake: type[FakeProducer]) -> None:
    """Then fewer go at once, and nobody is to blame; after a while all go at once again."""
    fake.refuses = [lambda values: TOO_LARGE if len(values) > 3 else None]
    made = transactions()
    all_of_them = parts(*(FakeDelivery(str(n), str(n).encode()) for n in range(100)))
    for _ in range(10):
        refusal = made.commit(all_of_them)
        if refusal is None:
            break
        assert refusal.culprits == ()
    assert fake.made[-1].committed == [str(n).encode() for n in range(100)]
    sizes: list[int] = []
    fake.refuses = [lambda values: sizes.append(len(values))]
    for _ in range(_transactions.NARROW_FOR + 1):
        assert made.commit(all_of_them) is None
    assert sizes[0] < 4
    assert sizes[-1] == 100


def test_a_topic_that_is_gone(fake: type[FakeProducer]) -> None:
    """A verdict on each record: all that it is said of, once each, at once."""
    fake.refuses = [lambda values: KafkaError._UNKNOWN_TOPIC]
    made = transactions()
    refusal = made.commit(parts(FakeDelivery("a", b"1", b"2"), FakeDelivery("b", b"3")))
    assert culprits(refusal) == ["a", "b"]


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART]
)
def test_a_reason_that_names_no_record(fake: type[FakeProducer], code: int) -> None:
    """As where the topic may not be written to: the records are just thrown away."""

    def refuses(values: list[bytes]) -> int | None:
        return KafkaError._PURGE_QUEUE if b"bad" in values else None

    fake.refuses = [refuses]
    fake.why = error(code, abort=True)
    made = transactions()
    good, bad = [FakeDelivery(str(n), b"x") for n in range(20)], FakeDelivery("bad", b"bad")
    found: list[KafkaError] = []
    for _ in range(6):
        refusal = made.commit(parts(*good, bad))
        assert refusal is not None
        if refusal.culprits:
            assert culprits(refusal) == ["bad"]
            found = [why for _, why in refusal.culprits]
            break
    assert [why.code() for why in found] == [code]


@pytest.mark.parametrize("at", ["begin", "send"])
def test_fatal_before_the_end(fake: type[FakeProducer], at: str) -> None:
    """Nothing took place: another producer goes on."""
    made = transactions()
    fake.fails[at] = error(KafkaError._FENCED, fatal=True)
    refusal = made.commit(parts(FakeDelivery("a", b"1")))
    assert refusal is not None
    assert refusal.culprits == ()
    fake.fails.clear()
    assert made.commit(parts(FakeDelivery("a", b"1"))) is None
    assert len(fake.made) == 2
    assert "abort" not in fake.made[0].said


@pytest.mark.parametrize(
    "how",
    [
        error(KafkaError._TIMED_OUT, again=True),
        error(KafkaError._FENCED, fatal=True),
        error(KafkaError.UNKNOWN_PRODUCER_ID, abort=True),
    ],
)
def test_nobody_knows_how_it_ended(fake: type[FakeProducer], how: KafkaError) -> None:
    """Then these transactions are over, and nothing is committed on top of it."""
    made = transactions()
    fake.fails["commit"] = how
    with pytest.raises(BrokerConnectionError, match="not known"):
        made.commit(parts(FakeDelivery("a", b"1")), within=0.05)
    fake.fails.clear()
    refusal = made.commit(parts(FakeDelivery("b", b"2")))
    assert refusal is not None
    assert [producer.committed for producer in fake.made] == [[]]


@pytest.mark.parametrize("how", [None, error(KafkaError._TIMED_OUT, again=True)])
def test_a_failure_that_was_none(fake: type[FakeProducer], how: KafkaError | None) -> None:
    """The library says that it has to be aborted, and then commits it: nobody knows what."""
    made = transactions()
    fake.fails["begin"] = error(KafkaError._STATE, abort=True)
    begin = fake.begin_transaction

    def begin_without_reason(self: FakeProducer) -> None:
        try:
            begin(self)
        finally:
            self.reason = None

    fake.begin_transaction = begin_without_reason  # type: ignore[method-assign]
    if how is not None:
        fake.fails["commit"] = how
    with pytest.raises(BrokerConnectionError, match="may have taken place"):
        made.commit(parts(FakeDelivery("a", b"1")))
    fake.fails.clear()
    assert made.commit(parts(FakeDelivery("b", b"2"))) is not None


def test_what_nobody_has_thought_of(fake: type[FakeProducer]) -> None:
    """After any other error nothing is committed on top of it either."""

    def refuses(values: list[bytes]) -> int | None:
        raise RuntimeError

    fake.refuses = [refuses]
    made = transactions()
    with pytest.raises(RuntimeError):
        made.commit(parts(FakeDelivery("a", b"1")))
    fake.refuses = [lambda values: None]
    for _ in range(2):
        refusal = made.commit(parts(FakeDelivery("b", b"2")))
        assert refusal is not None
        assert refusal.error.code() == KafkaError._STATE
    assert [producer.committed for producer in fake.made] == [[]]


def test_a_coordinator_that_is_away(fake: type[FakeProducer]) -> None:
    """No producer yet is no failure; one that never will be is."""
    made = transactions()
    fake.fails |= {"send": error(KafkaError._FENCED, fatal=True)}
    made.commit(parts(FakeDelivery("a", b"1")))
    fake.fails = {"init": error(KafkaError._TIMED_OUT, again=True)}
    refusal = made.commit(parts(FakeDelivery("a", b"1")), within=0.05)
    assert refusal is not None
    assert refusal.error.code() == KafkaError._TIMED_OUT
    fake.fails = {"init": error(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, fatal=True)}
    with pytest.raises(KafkaException):
        made.commit(parts(FakeDelivery("a", b"1")))


def test_a_stop_ends_the_waiting(fake: type[FakeProducer]) -> None:
    """A subscription that is left does not wait for a coordinator."""
    fake.fails["init"] = error(KafkaError._TIMED_OUT, again=True)
    transactions(is_ending=True)
    assert len(fake.made) == 0


def test_a_call_that_does_not_end(
    fake: type[FakeProducer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left behind with its producer, which is closed when it does; another one goes on."""
    go_on, closed = threading.Event(), threading.Event()

    def close(self: FakeProducer) -> None:
        closed.set()
        raise SystemError  # as confluent-kafka may, and nobody is there to hear it

    def send(self: FakeProducer, places: Any, who: Any, timeout: float) -> None:
        assert go_on.wait(30)

    with monkeypatch.context() as patch:
        patch.setattr(fake, "send_offsets_to_transaction", send)
        patch.setattr(fake, "close", close)
        made = transactions()
        refusal = made.commit(parts(FakeDelivery("a", b"1")), within=0.05)
        assert refusal is not None
        assert refusal.error.code() == KafkaError._TIMED_OUT
        assert not closed.is_set()
        go_on.set()
        assert closed.wait(30)
    assert made.commit(parts(FakeDelivery("a", b"1"))) is None
    assert [producer.committed for producer in fake.made] == [[], [b"1"]]


def test_a_full_queue(fake: type[FakeProducer], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, until time is over."""
    produce, full = fake.produce, [True]

    def produce_later(self: FakeProducer, *args: Any, **options: Any) -> None:
        if full and full[0]:
            full.pop()
            raise BufferError
        if full:
            raise BufferError
        produce(self, *args, **options)

    monkeypatch.setattr(fake, "produce", produce_later)
    made = transactions()
    assert made.commit(parts(FakeDelivery("a", b"1"))) is None
    full.append(False)
    refusal = made.commit(parts(FakeDelivery("a", b"1")), within=0.05)
    assert refusal is not None
    assert (refusal.error.code(), refusal.culprits) == (KafkaError._TIMED_OUT, ())


def test_a_topic_of_which_the_library_says_nothing(
    fake: type[FakeProducer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that does not arrive: its topic is looked for, once, and may be gone."""
    looked: list[str] = []

    class Topic:
        error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)

    class There:
        error = None

    class Found:
        topics: ClassVar[dict[str, Any]] = {"t": Topic, "u": There}

    def flush(self: FakeProducer, timeout: float) -> int:
        return 1

    def list_topics(self: FakeProducer, topic: str, timeout: float) -> Any:
        looked.append(topic)
        return Found

    monkeypatch.setattr(_transactions, "LOOK_S", 0.0)
    monkeypatch.setattr(fake, "flush", flush)
    monkeypatch.setattr(fake, "list_topics", list_topics, raising=False)
    made = transactions()
    there = FakeDelivery("b")
    there.outputs.append(Output("u", b"2", None, []))
    refusal = made.commit(parts(FakeDelivery("a", b"1"), there), within=5)
    assert culprits(refusal) == ["a"]
    refusal = made.commit(parts(there), within=0.05)
    assert refusal is not None
    assert (refusal.error.code(), refusal.culprits) == (KafkaError._TIMED_OUT, ())
    assert sorted(looked) == ["t", "u", "u"]
